// kvist: the command line. Exit: 0 done (a miss is an answer), 1 fault, 2 wrong flags.
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "services/ctl/commands.h"
#include "services/ctl/flags.h"
#include "services/ctl/python_command.h"
#include "services/runtime/trace.h"
#include "services/transport/bearer_token.h"
#include "services/transport/tls.h"

namespace kvist {
namespace {

absl::Status Run(const Command& command) {
  std::shared_ptr<TlsIdentity> tls;
  if (command.tls.any()) {
    absl::StatusOr<std::shared_ptr<TlsIdentity>> loaded = TlsIdentity::Load(command.tls);
    if (!loaded.ok()) return loaded.status();
    tls = *std::move(loaded);
  }
  std::shared_ptr<BearerToken> token;
  if (!command.bearer_file.empty()) {
    absl::StatusOr<std::shared_ptr<BearerToken>> loaded = BearerToken::Load(command.bearer_file);
    if (!loaded.ok()) return loaded.status();
    token = *std::move(loaded);
  }
  const std::unique_ptr<Transport> transport = NewGrpcTransport(std::move(tls), std::move(token));
  return RunCommand(command, transport.get(), std::cout);
}

}  // namespace
}  // namespace kvist

int main(int argc, char** argv) {
  if (argc >= 2 && kvist::IsPythonCommand(argv[1])) {
    const absl::Status status = kvist::BecomePython(argc, argv);
    std::cerr << "kvist: " << std::string(status.message()) << "\n";
    return 1;
  }
  const absl::StatusOr<kvist::ParsedCommand> parsed = kvist::ParseCommand(argc, argv);
  if (!parsed.ok()) {
    std::cerr << "kvist: wrong flags\n" << std::string(parsed.status().message()) << "\n";
    return 2;
  }
  if (!parsed->print_and_exit.empty()) {
    std::cout << parsed->print_and_exit;
    return 0;
  }
  const char* const traceparent = std::getenv("TRACEPARENT");  // whoever calls us may trace what it does
  const kvist::TraceScope trace(
      kvist::ParseTraceparent(traceparent != nullptr ? traceparent : "").value_or(kvist::Trace()));
  const absl::Status status = kvist::Run(parsed->command);
  if (status.ok()) return 0;
  std::cerr << "kvist: " << std::string(status.message()) << "\n";
  return 1;
}
