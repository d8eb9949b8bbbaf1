// Remembers why and when recently dropped keys are gone, so that a miss can say it. Bounded: the oldest is forgotten.
//
// Memory: 88 bytes per key that may be remembered, taken at start, and at most 12 for its place in the hash table.
// Units   nanoseconds since the epoch.
// Threads under the mutex of its shard.
#ifndef KVIST_CACHESTORE_REMOVALS_H_
#define KVIST_CACHESTORE_REMOVALS_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/hash/hash.h"
#include "cachestore/block_store.h"
#include "cachestore/key.h"

namespace kvist {

struct Removal {
  MissReason cause = MissReason::kNeverStored;
  int64_t when_ns = std::numeric_limits<int64_t>::min();  // of one that is not remembered: the infinite past
  Key made_room_for;                                      // of an eviction: the block whose Reserve took the room
};

class RecentRemovals {
 public:
  // REQUIRES: capacity < 2^32.
  explicit RecentRemovals(size_t capacity) : ring_(capacity), slots_(0, Hash{ring_.data()}, Equal{ring_.data()}) {}
  RecentRemovals(const RecentRemovals&) = delete;  // slots_ points into ring_
  RecentRemovals& operator=(const RecentRemovals&) = delete;

  void Remember(const Key& key, const Removal& removal) {
    if (ring_.empty()) return;
    // The slot may still be the one of its key, or void: forgotten, or told anew by a later slot.
    const auto overwritten = slots_.find(ring_[next_].key);
    if (overwritten != slots_.end() && *overwritten == next_) slots_.erase(overwritten);
    ring_[next_] = {key, removal};
    if (const auto [earlier, inserted] = slots_.insert(next_); !inserted) {
      slots_.erase(earlier);
      slots_.insert(next_);
    }
    if (++next_ == ring_.size()) next_ = 0;
  }
  // The key is stored again; what happened to it before is no answer any more.
  void Forget(const Key& key) { slots_.erase(key); }
  Removal Find(const Key& key) const {
    const auto found = slots_.find(key);
    return found == slots_.end() ? Removal() : ring_[*found].removal;
  }
  MissReason Cause(const Key& key) const {
    const auto found = slots_.find(key);
    return found == slots_.end() ? MissReason::kNeverStored : ring_[*found].removal.cause;
  }

 private:
  struct Slot {
    Key key;
    Removal removal;
  };
  // The table holds numbers of slots and compares the keys that are there.
  struct Hash {
    using is_transparent = void;
    const Slot* ring;
    size_t operator()(uint32_t slot) const { return (*this)(ring[slot].key); }
    size_t operator()(const Key& key) const { return absl::Hash<Key>()(key); }
  };
  struct Equal {
    using is_transparent = void;
    const Slot* ring;
    bool operator()(uint32_t a, uint32_t b) const { return ring[a].key == ring[b].key; }
    bool operator()(uint32_t a, const Key& b) const { return ring[a].key == b; }
    bool operator()(const Key& a, uint32_t b) const { return a == ring[b].key; }
  };

  std::vector<Slot> ring_;  // its size never changes
  absl::flat_hash_set<uint32_t, Hash, Equal> slots_;
  uint32_t next_ = 0;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_REMOVALS_H_
