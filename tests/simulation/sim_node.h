// One node of a simulated cluster: the machine, and the lives of kvistd on it, all but its sockets (node_core.h).
//
// Threads Start and Crash are called by one fiber; what core() leads to is gone after Crash.
#ifndef KVIST_TESTS_SIMULATION_SIM_NODE_H_
#define KVIST_TESTS_SIMULATION_SIM_NODE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "services/cluster/membership.h"
#include "services/node/node_core.h"
#include "tests/simulation/sim_etcd.h"
#include "tests/simulation/sim_network.h"

namespace kvist::simulation {

struct SimNodeOptions {
  uint64_t capacity_bytes = 512 << 10;
  bool tight = false;  // so few requests at once are admitted that some are refused
};

class SimNode {
 public:
  SimNode(SimNetwork* network, SimEtcd* etcd, SimHost* host, const SimNodeOptions& options)
      : network_(network), etcd_(etcd), host_(host), options_(options) {}

  void Start();
  // As SIGKILL. REQUIRES: the machine is not stopped.
  void Crash();

  bool up() const { return core_ != nullptr; }
  uint64_t life() const { return life_; }  // how often it was started
  NodeCore* core() const { return core_.get(); }
  TieredStore* store() const { return core_->store(); }
  SimHost* host() const { return host_; }
  const std::string& name() const { return host_->name(); }
  std::string address() const;

  // Begins to hand over and leave, as `kvist drain` makes it.
  void Drain();

 private:
  SimNetwork* const network_;
  SimEtcd* const etcd_;
  SimHost* const host_;
  const SimNodeOptions options_;
  uint64_t life_ = 0;
  SimProcess* process_ = nullptr;
  std::unique_ptr<Membership> membership_;
  std::unique_ptr<NodeCore> core_;
  std::unique_ptr<Channel> channel_;
};

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_SIM_NODE_H_
