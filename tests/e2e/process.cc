#include "tests/e2e/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvist::testing {
namespace {

std::string ReadWhole(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

void SendTo(const std::string& path, int descriptor) {
  const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
  dup2(file, descriptor);
  close(file);
}

}  // namespace

std::string Runfile(const std::string& path) {
  const char* root = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  return std::string(root ? root : ".") + "/" + (workspace ? workspace : "kvist") + "/" + path;
}

Process::Process(std::vector<std::string> command) {
  static std::atomic<int> started = 0;
  const char* folder = std::getenv("TEST_TMPDIR");
  const std::string stem = std::string(folder ? folder : "/tmp") + "/process." + std::to_string(started++);
  output_file_ = stem + ".out";
  errors_file_ = stem + ".err";
  std::vector<char*> words;
  for (std::string& word : command) words.push_back(word.data());
  words.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    SendTo(output_file_, STDOUT_FILENO);
    SendTo(errors_file_, STDERR_FILENO);
    execv(words[0], words.data());
    _exit(127);
  }
}

Process::~Process() {
  if (exit_) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Process::Signal(int signal) { kill(pid_, signal); }

void Process::Stop() {
  kill(pid_, SIGSTOP);
  waitpid(pid_, nullptr, WUNTRACED);
}

std::optional<int> Process::Wait(double seconds) {
  const absl::Time deadline = absl::Now() + absl::Seconds(seconds);
  while (!exit_) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (absl::Now() > deadline) {
      break;
    } else {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  return exit_;
}

std::string Process::Output() const { return ReadWhole(output_file_); }
std::string Process::Errors() const { return ReadWhole(errors_file_); }

Ended Run(std::vector<std::string> command, double seconds) {
  Process process(std::move(command));
  const std::optional<int> exit = process.Wait(seconds);
  return {exit, process.Output(), process.Errors()};
}

}  // namespace kvist::testing
