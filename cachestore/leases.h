// Holds the pins that callers across the wire were granted, each with a deadline.
//
// Threads every method may be called from any thread (one mutex; none is taken inside it).
// Memory: at most kMaxPins pins, 8 bytes each, over all leases. A Grant beyond that is refused.
#ifndef KVIST_CACHESTORE_LEASES_H_
#define KVIST_CACHESTORE_LEASES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "cachestore/block.h"
#include "cachestore/block_store.h"

namespace kvist {

using LeasedBlocks = std::vector<Block*>;  // deepest first

class Leases {
 public:
  static constexpr size_t kMaxPins = size_t{4} << 20;

  // Ids count up from `first_id`. Take it from the clock, so that a lease of an earlier process is unknown to this one.
  explicit Leases(uint64_t first_id) : next_id_(first_id) {}

  // Keeps `blocks` until Take or the deadline. An empty id when there are kMaxPins pins: `blocks` is left as it was.
  LeaseId Grant(LeasedBlocks& blocks, absl::Time deadline);
  // Ends a lease and hands its blocks back; empty if unknown or ended.
  LeasedBlocks Take(LeaseId id);
  // The leases whose deadline is not after `now`. Costs one atomic load when there are none.
  std::vector<LeasedBlocks> TakeExpired(absl::Time now);
  std::vector<LeasedBlocks> TakeAll() { return TakeExpired(absl::InfiniteFuture()); }
  size_t size() const;

 private:
  struct Lease {
    int64_t deadline = 0;  // ns since the epoch
    LeasedBlocks blocks;
  };
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  LeasedBlocks Remove(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PublishEarliest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<int64_t> earliest_{kNever};
  mutable std::mutex mutex_;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_);
  size_t pins_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, Lease> leases_ ABSL_GUARDED_BY(mutex_);
  absl::btree_set<std::pair<int64_t, uint64_t>> by_deadline_ ABSL_GUARDED_BY(mutex_);  // (deadline, id)
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_LEASES_H_
