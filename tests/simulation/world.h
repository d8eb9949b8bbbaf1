// A whole cluster under one seed: nodes, an etcd, workers that know every value they should get, and a nemesis.
//
// A run   starts nodes, lets workers put and read while the nemesis acts (crashes, restarts, stopped machines, links
// that
//         are cut, slow, lossy or flip bits, bits flipped in resting blocks, etcd stopped, wiped or compacted), then
//         calms everything and reads what it puts.
// Judged  never a value that was not put; every call ends by its deadline, on a virtual clock; no lease outlives its
//         bound; after calm all nodes are ready under one view and a block that is put is read.
// Faults  a broken rule ends the process with status 1 and names the seed (Scheduler::Fail).
#ifndef KVIST_TESTS_SIMULATION_WORLD_H_
#define KVIST_TESTS_SIMULATION_WORLD_H_

#include <cstdint>
#include <string>

namespace kvist::simulation {

struct WorldOptions {
  uint64_t seed = 1;
  int nodes = 3, workers = 3;
  int seconds = 60;          // of harm, on the virtual clock
  bool lying_store = false;  // nodes flip bits behind the checks' back: shows that the judge sees a wrong value
};

struct WorldReport {
  uint64_t trace_hash = 0, switches = 0;
  uint64_t reads = 0, verified_blocks = 0, misses = 0, puts = 0, harms = 0, messages = 0, lost = 0, flips = 0;
  uint64_t wrong = 0;  // always 0, but for a judge that is itself tested
};

WorldReport RunWorld(const WorldOptions& options);

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_WORLD_H_
