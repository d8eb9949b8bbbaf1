// kvistd: reads flags, runs a node, stops it gracefully on SIGTERM or SIGINT, at once on a second one. Exit: 0 stopped,
// 1 fault or stopped at once, 2 wrong flags.
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
#include "services/node/log.h"
#include "services/node/node.h"

int main(int argc, char** argv) {
  const absl::StatusOr<kvist::ParsedFlags> flags = kvist::ParseFlags(argc, argv);
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
  absl::StatusOr<std::unique_ptr<kvist::NodeServer>> node = kvist::NodeServer::Start(flags->config);
  if (!node.ok()) {
    kvist::Log(kvist::LogLevel::kError, "cannot start", {{"error", std::string(node.status().message())}});
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
    kvist::Log(kvist::LogLevel::kWarning, "told twice to stop: stopping at once; what was being handed over is lost");
    std::_Exit(1);
  });
  (*node)->Stop();
  stopped = true;
  kill(getpid(), SIGTERM);  // ends the thread above
  second.join();
  return 0;
}
