// A worker of a simulated cluster: puts, matches, reads, explains and erases prompts, and judges every answer.
//
// Rules   A value that comes is the one that was put. Every call ends by its deadline, and none fails. A lease ends
//         within its bound. Counts of a result add up.
// Faults  Scheduler::Fail, with a sentence.
// Threads of one fiber at a time.
#ifndef KVIST_TESTS_SIMULATION_SIM_WORKER_H_
#define KVIST_TESTS_SIMULATION_SIM_WORKER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "services/worker/client.h"
#include "tests/chaos/block_values.h"
#include "tests/simulation/journal.h"
#include "tests/simulation/sim_network.h"
#include "tests/simulation/world.h"

namespace kvist::simulation {

struct WorkerOptions {
  uint64_t salt = 0;  // of the values
  Codec codec = Codec::kRaw16;
  int replicas = 1;
  std::vector<std::string> seeds;
  bool lies_to_itself = false;      // changes what came before it judges: shows that the judge sees it
  std::function<uint64_t()> stops;  // of workers' machines so far: a call meanwhile may take longer
  WorldReport* report = nullptr;    // both outlive it
  Journal* journal = nullptr;
};

class SimWorker {
 public:
  SimWorker(SimNetwork* network, SimHost* host, WorkerOptions options);

  // Works until `until`, through as many lives as it takes: some end in the middle, with leases held.
  void Work(absl::Time until);

  // Puts prompts that nobody else has, reads all of them, and has them explained. Returns their keys.
  // REQUIRES: calm.
  std::vector<Key> PutAndRead();

 private:
  ClientOptions OptionsOf(SimProcess* process) const;
  void Live(SimProcess* process, absl::Time until);
  static std::vector<Key> ChainOf(const Client& client, uint64_t prompt);
  // Says what did not come; "" = all did.
  std::string PutAndReadOne(Client* client, const std::vector<Key>& chain);
  void Act(Client* client, const std::vector<Key>& chain, uint64_t prompt);
  PutResult Put(Client* client, const std::vector<Key>& chain);
  size_t Look(Client* client, const std::vector<Key>& chain);
  ExplainResult Explain(Client* client, const std::vector<Key>& chain);
  void Erase(Client* client, const std::vector<Key>& chain);
  void Compare(const std::vector<Key>& chain, size_t blocks, const std::vector<uint16_t>& pages);

  struct Began {
    absl::Time at;
    uint64_t stops;
  };
  Began Begin() const { return {scheduler_->now(), options_.stops ? options_.stops() : 0}; }
  void Judge(const char* call, const Began& began, const absl::Status& status);

  SimNetwork* const network_;
  Scheduler* const scheduler_;
  SimHost* const host_;
  const WorkerOptions options_;
  const Namespace ns_;
  testing::BlockValues values_;
};

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_SIM_WORKER_H_
