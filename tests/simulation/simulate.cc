// Runs simulations, one a seed, and prints what they did. A broken rule ends it with status 1 and names the seed.
//
// Seeds are divided among processes, not threads: what code under test keeps in globals must not join two worlds.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "services/node/log.h"
#include "tests/simulation/world.h"

namespace {

using kvist::simulation::RunWorld;
using kvist::simulation::WorldOptions;
using kvist::simulation::WorldReport;

struct Plan {
  uint64_t first = 1, seeds = 100;
  uint32_t jobs = std::max(1u, std::thread::hardware_concurrency());
  bool each = false;
  WorldOptions world;
};

// Every jobs-th seed, from the job's own first.
WorldReport RunShare(const Plan& plan, uint64_t job) {
  WorldReport sum;
  auto told = std::chrono::steady_clock::now();
  for (uint64_t i = job; i < plan.seeds; i += plan.jobs) {
    WorldOptions options = plan.world;
    options.seed = plan.first + i;
    const WorldReport report = RunWorld(options);
    sum.Add(report);
    if (plan.each) {
      std::printf("seed %lu: trace %016lx, %lu switches, %lu reads, %lu blocks verified, %lu messages\n", options.seed,
                  report.trace_hash, report.switches, report.reads, report.verified_blocks, report.messages);
      std::fflush(stdout);
    }
    if (job == 0 && std::chrono::steady_clock::now() - told > std::chrono::seconds(10)) {
      told = std::chrono::steady_clock::now();
      std::fprintf(stderr, "%lu of %lu seeds\n", i + 1, plan.seeds);
    }
  }
  return sum;
}

// False: a share broke a rule, or its process died.
bool RunAll(const Plan& plan, WorldReport* sum) {
  struct Job {
    pid_t pid;
    int from;
  };
  std::vector<Job> jobs;
  for (uint64_t job = 0; job < plan.jobs; ++job) {
    int ends[2];
    if (pipe(ends) != 0) return false;
    const pid_t pid = fork();
    if (pid < 0) return false;
    if (pid == 0) {
      const WorldReport report = RunShare(plan, job);
      _exit(write(ends[1], &report, sizeof(report)) == sizeof(report) ? 0 : 1);
    }
    close(ends[1]);
    jobs.push_back({pid, ends[0]});
  }
  bool whole = true;
  for (size_t left = jobs.size(); left > 0; --left) {
    int status = 0;
    const pid_t ended = wait(&status);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    if (whole && WIFSIGNALED(status)) std::fprintf(stderr, "a run died of signal %d\n", WTERMSIG(status));
    whole = false;
    for (const Job& job : jobs) {
      if (job.pid != ended) kill(job.pid, SIGKILL);
    }
  }
  for (const Job& job : jobs) {
    WorldReport report;
    if (whole && read(job.from, &report, sizeof(report)) == sizeof(report)) sum->Add(report);
    close(job.from);
  }
  return whole;
}

}  // namespace

int main(int argc, char** argv) {
  Plan plan;
  std::string log = "error";
  CLI::App app("Simulates a cluster under faults, one run a seed.");
  app.add_option("--first", plan.first, "the first seed");
  app.add_option("--seeds", plan.seeds, "how many")->check(CLI::PositiveNumber);
  app.add_option("--seconds", plan.world.seconds, "virtual seconds of harm in each run")->check(CLI::PositiveNumber);
  app.add_option("--jobs", plan.jobs, "processes at a time")->check(CLI::Range(1, 1024));
  app.add_flag("--each", plan.each, "prints a line for each seed: what makes it the same run again");
  app.add_option("--log", log, "what nodes log: debug, info, warning or error");
  CLI11_PARSE(app, argc, argv);
  if (const absl::Status known = kvist::SetLogLevel(log); !known.ok()) {
    std::fprintf(stderr, "--log: %s\n", std::string(known.message()).c_str());
    return 2;
  }
  plan.jobs = static_cast<uint32_t>(std::min<uint64_t>(plan.jobs, plan.seeds));
  const auto begin = std::chrono::steady_clock::now();
  WorldReport sum;
  if (!RunAll(plan, &sum)) return 1;
  std::printf(
      "%lu seeds from %lu in %.0f s: %lu reads, %lu blocks verified, 0 wrong, %lu reads with a miss, %lu checks of "
      "held blocks, %lu harms, %lu messages, %lu of them lost, %lu bits flipped; no rule broken\n",
      plan.seeds, plan.first, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
      sum.reads, sum.verified_blocks, sum.misses, sum.held, sum.harms, sum.messages, sum.lost, sum.flips);
  return 0;
}
