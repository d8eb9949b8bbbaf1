// A program under test, as a real process: started with flags, its output read, signalled, waited for with a deadline.
#ifndef KVIST_TESTS_E2E_PROCESS_H_
#define KVIST_TESTS_E2E_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace kvist::testing {

// The path of a file that the test's `data` names, for example "services/node/kvistd".
std::string Runfile(const std::string& path);

class Process {
 public:
  // Standard output and error go to files of the test's folder.
  explicit Process(std::vector<std::string> command);
  ~Process();  // SIGKILL if it still runs
  Process(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal);
  void Stop();  // SIGSTOP, and waits until every thread has stopped
  // Exit status (128 + signal if killed by one), or nothing if it still runs after `seconds`.
  std::optional<int> Wait(double seconds);
  std::string Output() const;  // standard output so far
  std::string Errors() const;  // standard error so far

 private:
  pid_t pid_ = -1;
  std::optional<int> exit_;
  std::string output_file_, errors_file_;
};

struct Ended {
  std::optional<int> exit;  // nothing: it had to be killed
  std::string output, errors;
};
Ended Run(std::vector<std::string> command, double seconds = 30);

}  // namespace kvist::testing

#endif  // KVIST_TESTS_E2E_PROCESS_H_
