// A part of a program in a process of its own, and the lines that pass between the two.
//
// Threads one, at each end.
// Life    a process ends with its parent, whatever ended that.
// Why fork and no exec: the bundle may run its programs by a loader of its own, which a new program would have to be told.
// REQUIRES at construction: no thread and no device in this process yet; a driver does not survive a fork.
#ifndef KVIST_TESTS_GPU_ROLE_PROCESS_H_
#define KVIST_TESTS_GPU_ROLE_PROCESS_H_

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kvist::testing {

// One end.
class Line {
 public:
  explicit Line(int socket) : socket_(socket) {}
  ~Line();
  Line(const Line&) = delete;

  // To nobody, if the other end has gone.
  void Say(const std::string& text);
  // Unavailable: the other end has gone. DeadlineExceeded: it said nothing.
  absl::StatusOr<std::string> Hear(absl::Duration limit);

 private:
  const int socket_;
};

class RoleProcess {
 public:
  // Runs `role` in a new process, which exits with what it returns.
  explicit RoleProcess(const std::function<int(Line&)>& role);
  ~RoleProcess();  // kills it
  RoleProcess(const RoleProcess&) = delete;

  Line& line() { return *line_; }
  void Kill();
  // Its exit status, 128 + signal if one ended it; nothing if it still runs after `limit`.
  std::optional<int> Wait(absl::Duration limit);

 private:
  pid_t pid_ = -1;
  std::optional<int> exit_;
  std::optional<Line> line_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_GPU_ROLE_PROCESS_H_
