#include "services/node/kvistd.h"

#include <google/protobuf/stubs/logging.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "services/node/config.h"
#include "services/node/grpc_log.h"
#include "services/node/log.h"
#include "services/node/node.h"

namespace kvist {

int RunKvistd(int argc, const char* const* argv, const DeviceOpener& open_device) {
  const absl::StatusOr<ParsedFlags> flags = ParseFlags(argc, argv);
  if (!flags.ok()) {
    std::fprintf(stderr, "kvistd: wrong flags\n%s\n", std::string(flags.status().message()).c_str());
    return 2;
  }
  if (!flags->print_and_exit.empty()) {
    std::fputs(flags->print_and_exit.c_str(), stdout);
    return 0;
  }
  // Blocked before any thread starts, so that every thread inherits it and sigwait below is the one receiver.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  // protobuf would write a line to stderr for each request with a string that is not UTF-8: the caller is told, not the
  // log.
  google::protobuf::SetLogHandler(nullptr);
  TakeGrpcLog();
  absl::StatusOr<std::unique_ptr<NodeServer>> node = NodeServer::Start(flags->config, open_device);
  if (!node.ok()) {
    Log(LogLevel::kError, "cannot start", {{"error", std::string(node.status().message())}});
    return 1;
  }
  (*node)->OnLeft([] { kill(getpid(), SIGTERM); });
  int signal = 0;
  sigwait(&stop_signals, &signal);
  std::atomic<bool> stopped = false;
  std::thread second([&] {
    int again = 0;
    sigwait(&stop_signals, &again);
    if (stopped) return;
    Log(LogLevel::kWarning, "told twice to stop: stopping at once; what was being handed over is lost");
    std::_Exit(1);
  });
  (*node)->Stop();
  stopped = true;
  kill(getpid(), SIGTERM);  // ends the thread above
  second.join();
  return 0;
}

}  // namespace kvist
