// What was done to blocks in a simulation, for whoever judges them. Of one scheduler's fibers.
#ifndef KVIST_TESTS_SIMULATION_JOURNAL_H_
#define KVIST_TESTS_SIMULATION_JOURNAL_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "cachestore/key.h"

namespace kvist::simulation {

struct Journal {
  static constexpr size_t kMostPut = 2000;
  std::vector<Key> put;                      // the first that a worker tried to store
  absl::flat_hash_set<Key> damaged, erased;  // at rest on some node; by a worker. Only looked up
  uint64_t flips = 0;                        // of bits at rest

  // A block that may be gone although it is pinned.
  bool MayBeGone(const Key& key) const { return damaged.contains(key) || erased.contains(key); }
};

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_JOURNAL_H_
