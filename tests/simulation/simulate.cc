// Runs simulations, one a seed, and prints what they did. A broken rule ends it with status 1 and names the seed.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "tests/simulation/world.h"

int main(int argc, char** argv) {
  uint64_t first = 1, seeds = 100;
  kvist::simulation::WorldOptions options;
  CLI::App app("Simulates a cluster under faults, one run a seed.");
  app.add_option("--first", first, "the first seed");
  app.add_option("--seeds", seeds, "how many");
  app.add_option("--seconds", options.seconds, "virtual seconds of harm in each run");
  CLI11_PARSE(app, argc, argv);
  kvist::simulation::WorldReport sum;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    options.seed = seed;
    const kvist::simulation::WorldReport report = kvist::simulation::RunWorld(options);
    sum.reads += report.reads;
    sum.verified_blocks += report.verified_blocks;
    sum.misses += report.misses;
    sum.harms += report.harms;
    sum.messages += report.messages;
    sum.flips += report.flips;
    if (seeds == 1) std::printf("trace %016lx, %lu switches\n", report.trace_hash, report.switches);
  }
  std::printf(
      "%lu seeds from %lu: %lu reads, %lu blocks verified, 0 wrong, %lu reads with a miss, %lu harms, "
      "%lu messages, %lu bits flipped\n",
      seeds, first, sum.reads, sum.verified_blocks, sum.misses, sum.harms, sum.messages, sum.flips);
  return 0;
}
