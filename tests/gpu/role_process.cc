#include "tests/gpu/role_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "absl/time/clock.h"

namespace kvist::testing {
namespace {

constexpr size_t kLongest = 4096;

}  // namespace

Line::~Line() { close(socket_); }

void Line::Say(const std::string& text) { (void)!send(socket_, text.data(), text.size(), MSG_NOSIGNAL); }

absl::StatusOr<std::string> Line::Hear(absl::Duration limit) {
  pollfd waiting = {socket_, POLLIN, 0};
  if (poll(&waiting, 1, int(absl::ToInt64Milliseconds(limit))) <= 0) {
    return absl::DeadlineExceededError("the other process says nothing");
  }
  std::array<char, kLongest> text;
  const ssize_t length = recv(socket_, text.data(), text.size(), 0);
  if (length <= 0) return absl::UnavailableError("the other process has gone");
  return std::string(text.data(), size_t(length));
}

RoleProcess::RoleProcess(const std::function<int(Line&)>& role) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) std::abort();
  std::fflush(nullptr);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) std::abort();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    close(ends[0]);
    int status;
    {
      Line line(ends[1]);
      status = role(line);
    }
    std::fflush(nullptr);
    _exit(status);
  }
  close(ends[1]);
  line_.emplace(ends[0]);
}

RoleProcess::~RoleProcess() { Kill(); }

void RoleProcess::Kill() {
  if (exit_.has_value()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  exit_ = 128 + SIGKILL;
}

std::optional<int> RoleProcess::Wait(absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (!exit_.has_value()) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (absl::Now() > end) {
      break;
    } else {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  return exit_;
}

}  // namespace kvist::testing
