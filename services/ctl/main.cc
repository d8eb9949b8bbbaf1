// kvist: the command line. Exit: 0 done (a miss is an answer), 1 fault, 2 wrong flags.
#include <iostream>
#include <memory>
#include <string>

#include "services/ctl/commands.h"
#include "services/ctl/flags.h"

int main(int argc, char** argv) {
  const absl::StatusOr<kvist::ParsedCommand> parsed = kvist::ParseCommand(argc, argv);
  if (!parsed.ok()) {
    std::cerr << "kvist: wrong flags\n" << std::string(parsed.status().message()) << "\n";
    return 2;
  }
  if (!parsed->print_and_exit.empty()) {
    std::cout << parsed->print_and_exit;
    return 0;
  }
  const std::unique_ptr<kvist::Transport> transport = kvist::NewGrpcTransport();
  const absl::Status status = kvist::RunCommand(parsed->command, transport.get(), std::cout);
  if (status.ok()) return 0;
  std::cerr << "kvist: " << std::string(status.message()) << "\n";
  return 1;
}
