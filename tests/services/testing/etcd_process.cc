#include "tests/services/testing/etcd_process.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <httplib.h>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvist::testing {
namespace {

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// It has a leader and answers. It listens long before that, and if it is killed then it never starts again.
bool Serves(uint16_t health_port) {
  httplib::Client client("127.0.0.1", health_port);
  client.set_read_timeout(1);
  const httplib::Result health = client.Get("/health");
  return health && health->status == 200;
}

std::string NewFolder() {
  static std::atomic<int> made = 0;
  const char* root = std::getenv("TEST_TMPDIR");
  return absl::StrCat(root != nullptr ? root : "/tmp", "/etcd.", getpid(), ".", made++);
}

}  // namespace

uint16_t FreePort() {
  const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  if (bind(descriptor, reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::perror("no free port");
    std::abort();
  }
  close(descriptor);
  return ntohs(address.sin_port);
}

EtcdProcess::EtcdProcess(std::vector<std::string> more, std::string scheme)
    : more_(std::move(more)),
      scheme_(std::move(scheme)),
      folder_(NewFolder()),
      client_port_(FreePort()),
      peer_port_(FreePort()),
      health_port_(FreePort()) {
  std::filesystem::remove_all(folder_);
  Restart();
}

void EtcdProcess::Kill() {
  process_->Signal(SIGKILL);
  process_->Wait(10);
}

void EtcdProcess::Restart() {
  const std::string client = absl::StrCat(scheme_, "://127.0.0.1:", client_port_);
  const std::string peer = absl::StrCat("http://127.0.0.1:", peer_port_);
  std::vector<std::string> command = {"/usr/bin/etcd",
                                      "--name=e",
                                      "--data-dir=" + folder_,
                                      "--heartbeat-interval=50",
                                      "--election-timeout=500",
                                      absl::StrCat("--listen-metrics-urls=http://127.0.0.1:", health_port_),
                                      "--listen-client-urls=" + client,
                                      "--advertise-client-urls=" + client,
                                      "--listen-peer-urls=" + peer,
                                      "--initial-advertise-peer-urls=" + peer,
                                      "--initial-cluster=e=" + peer};
  command.insert(command.end(), more_.begin(), more_.end());
  process_ = std::make_unique<Process>(command);
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (!Serves(health_port_)) {
    if (absl::Now() > deadline || process_->Wait(0.05)) {
      std::fprintf(stderr, "etcd does not start: %s\n", process_->Errors().c_str());
      std::abort();
    }
  }
}

void EtcdProcess::Wipe() { std::filesystem::remove_all(folder_); }
void EtcdProcess::Stop() { process_->Stop(); }
void EtcdProcess::Continue() { process_->Signal(SIGCONT); }

Ended EtcdProcess::Etcdctl(std::vector<std::string> words) const {
  words.insert(words.begin(), {"/usr/bin/env", "ETCDCTL_API=3", "/usr/bin/etcdctl",
                               absl::StrCat("--endpoints=127.0.0.1:", client_port_)});
  return Run(words);
}

}  // namespace kvist::testing
