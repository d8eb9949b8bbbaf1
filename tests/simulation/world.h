// A whole cluster under one seed: nodes, an etcd, workers that know every value they should get, and a nemesis.
//
// A run   starts nodes, lets workers put, read, explain and erase while the nemesis acts (nemesis.h) and the auditor
//         looks into the stores (auditor.h), then calms everything and reads what it puts. The seed also draws the
//         cluster: how many nodes, their capacity, the codec, the replicas, which kinds of harm.
// Judged  by worker and auditor as their headers say; after calm all nodes are ready under one view, a block that is
//         put is read, stands on every node that the view names for it, and every node comes to rest: no pin, lease or
//         reservation is left.
// Faults  a broken rule ends the process with status 1 and names the seed (Scheduler::Fail).
#ifndef KVIST_TESTS_SIMULATION_WORLD_H_
#define KVIST_TESTS_SIMULATION_WORLD_H_

#include <cstdint>
#include <string>

namespace kvist::simulation {

// What goes wrong on purpose: shows that the judges see it. Nothing is hurt in a run for figures.
enum class Sabotage : uint8_t { kNone, kWrongValue, kLostBlocks, kLeakedPin };

struct WorldOptions {
  uint64_t seed = 1;
  int seconds = 60;  // of harm, on the virtual clock
  Sabotage sabotage = Sabotage::kNone;
};

struct WorldReport {
  uint64_t trace_hash = 0, switches = 0;
  uint64_t reads = 0, verified_blocks = 0, misses = 0, puts = 0, harms = 0, messages = 0, lost = 0, flips = 0;
  uint64_t held = 0;                   // checks of blocks under a pin or a lease
  void Add(const WorldReport& other);  // all but the trace
};

WorldReport RunWorld(const WorldOptions& options);

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_WORLD_H_
