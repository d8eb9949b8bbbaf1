// Remembers why recently dropped keys are gone, so that a miss can say it. Bounded: the oldest is forgotten.
//
// Memory: about 180 bytes per remembered key (a ring slot and a hash entry), at most `capacity` keys.
// Threads under the mutex of its shard.
#ifndef KVIST_CACHESTORE_REMOVALS_H_
#define KVIST_CACHESTORE_REMOVALS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "cachestore/key.h"

namespace kvist {

class RecentRemovals {
 public:
  explicit RecentRemovals(size_t capacity) : ring_(capacity) {}

  struct Removal {
    MissReason cause = MissReason::kNeverStored;
    absl::Time when = absl::InfinitePast();
    Key made_room_for;  // of an eviction: the block whose Reserve took the room
  };

  void Remember(const Key& key, const Removal& removal) {
    if (ring_.empty()) return;
    Key& slot = ring_[sequence_ % ring_.size()];
    if (sequence_ >= ring_.size()) {
      const auto overwritten = causes_.find(slot);
      if (overwritten != causes_.end() && overwritten->second.sequence + ring_.size() == sequence_) {
        causes_.erase(overwritten);
      }
    }
    slot = key;
    causes_[key] = {removal, sequence_++};
  }
  // The key is stored again; what happened to it before is no answer any more.
  void Forget(const Key& key) { causes_.erase(key); }
  Removal Find(const Key& key) const {
    const auto found = causes_.find(key);
    return found == causes_.end() ? Removal() : found->second.removal;
  }

 private:
  struct Record {
    Removal removal;
    uint64_t sequence = 0;  // of its newest slot; older slots of the same key are void
  };
  std::vector<Key> ring_;
  absl::flat_hash_map<Key, Record> causes_;
  uint64_t sequence_ = 0;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_REMOVALS_H_
