// A real etcd of one member, as a child process on ports of its own, that tests may kill, stop, restart and wipe.
#ifndef KVIST_TESTS_SERVICES_TESTING_ETCD_PROCESS_H_
#define KVIST_TESTS_SERVICES_TESTING_ETCD_PROCESS_H_

#include <memory>
#include <string>
#include <vector>

#include "services/cluster/view.h"
#include "tests/e2e/process.h"

namespace kvist::testing {

class EtcdProcess {
 public:
  // Starts it and waits until it serves. `more` are further flags, TLS for example; `scheme` is of its client port.
  explicit EtcdProcess(std::vector<std::string> more = {}, std::string scheme = "http");
  ~EtcdProcess() = default;  // SIGKILL

  Address client_address() const { return {"127.0.0.1", client_port_}; }

  void Kill();     // SIGKILL; its data stay
  void Restart();  // on the same ports, with the data that are there; waits until it serves. REQUIRES: killed
  void Wipe();     // forgets everything; REQUIRES: killed
  void Stop();     // SIGSTOP
  void Continue();

  // `etcdctl` against it. REQUIRES: no TLS.
  Ended Etcdctl(std::vector<std::string> words) const;

 private:
  const std::vector<std::string> more_;
  const std::string scheme_, folder_;
  const uint16_t client_port_, peer_port_, health_port_;
  std::unique_ptr<Process> process_;
};

// A port of loopback that nobody listens on now.
uint16_t FreePort();

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TESTING_ETCD_PROCESS_H_
