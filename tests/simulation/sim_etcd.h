// An etcd of the simulated network: revisions, leases, conditional writes, and watches that go on from a revision.
//
// Time    leases end by the clock of the machine it runs on. Calls take `call_deadline` at most.
// Faults  Stop ends the process: calls to it fail. Start begins another, with the data or, wiped, without: revisions
//         count from 1 then, and the cluster's id is another.
// Why not a real one: it has a clock of its own. tests/services/cluster holds membership to real ones.
#ifndef KVIST_TESTS_SIMULATION_SIM_ETCD_H_
#define KVIST_TESTS_SIMULATION_SIM_ETCD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/cluster/etcd_client.h"
#include "tests/simulation/sim_network.h"

namespace kvist::simulation {

class SimEtcd {
 public:
  SimEtcd(SimNetwork* network, SimHost* host);

  // The client of a process. The etcd outlives it.
  std::unique_ptr<EtcdClient> NewClient(SimProcess* process, absl::Duration call_deadline);

  void Stop();
  void Start(bool wiped);
  // Forgets the history up to now: watches that have to begin earlier are told so.
  void Compact() { compacted_ = revision_; }
  bool stopped() const { return process_->dead(); }

 private:
  friend class SimEtcdClient;
  friend class SimEtcdWatch;
  struct Lease {
    absl::Duration ttl;
    absl::Time ends;
  };
  struct Change {
    int64_t revision;
    EtcdEvent event;
  };

  absl::Time Now() const { return host_->Now(); }
  void EndLeases();
  void Delete(const std::string& key);
  EtcdPut PutIf(const std::string& key, const EtcdCondition& condition, const std::string& value, int64_t lease);
  absl::StatusOr<EtcdChange> Poll(const std::string& prefix, int64_t from, int64_t* next);

  SimNetwork* const network_;
  SimHost* const host_;
  SimProcess* process_;
  int64_t revision_ = 1, compacted_ = 0, next_lease_ = 1000;
  uint64_t cluster_id_ = 1;
  std::map<std::string, EtcdKeyValue> entries_;
  std::map<int64_t, Lease> leases_;
  std::vector<Change> history_;
  Signal changed_;
};

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_SIM_ETCD_H_
