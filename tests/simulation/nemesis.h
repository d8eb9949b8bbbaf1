// Does harm to a simulated cluster, at chance from the scheduler's seed, and takes it back.
//
// Kinds   crash and restart of nodes, stopped machines (nodes and workers), a drain, links that are cut, lossy, slow,
//         late, doubling or flipping bits, a split of the network in two, etcd stopped, wiped or compacted, bits
//         flipped in resting blocks. Each run draws which of them it knows: few kinds together go deeper than all.
// Threads of one fiber, the one that starts and crashes nodes.
#ifndef KVIST_TESTS_SIMULATION_NEMESIS_H_
#define KVIST_TESTS_SIMULATION_NEMESIS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/simulation/journal.h"
#include "tests/simulation/sim_etcd.h"
#include "tests/simulation/sim_network.h"
#include "tests/simulation/sim_node.h"

namespace kvist::simulation {

class Nemesis {
 public:
  using Nodes = std::vector<std::unique_ptr<SimNode>>;

  Nemesis(SimNetwork* network, SimEtcd* etcd, const Nodes* nodes, const std::vector<SimHost*>* workers,
          Journal* journal);

  void Harm();
  // Everything is whole again: links, etcd, machines, nodes.
  void Calm();
  void ThawWorkers();

  uint64_t harms() const { return harms_; }
  uint64_t stops_of_workers() const { return stops_of_workers_; }  // so far; their calls take longer then

 private:
  struct Kind {
    void (Nemesis::*act)();
    double chance;  // that a run knows it
  };
  SimNode& AnyNode() { return *(*nodes_)[scheduler_->Below(nodes_->size())]; }
  std::string AnyHost();
  Link& AnyLink();

  void CrashOne();
  void RestartAll();
  void StopOrThaw();
  void StopOrThawWorker();
  void DrainOne();
  void CutLink();
  void Split();
  void LoseMessages();
  void DamageMessages();
  void DelayMessages();
  void NarrowLink();
  void HarmEtcd();
  void FlipResting();
  void HealLinks();

  SimNetwork* const network_;
  Scheduler* const scheduler_;
  SimEtcd* const etcd_;
  const Nodes* const nodes_;
  const std::vector<SimHost*>* const workers_;
  Journal* const journal_;
  std::vector<void (Nemesis::*)()> known_;
  uint64_t harms_ = 0, stops_of_workers_ = 0;
};

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_NEMESIS_H_
