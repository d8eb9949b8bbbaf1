// Holds the pins that callers across the wire were granted, each with a deadline.
//
// Units   nanoseconds since the epoch.
// Threads every method may be called from any thread (one mutex; none is taken inside it).
// Memory: at most kMaxPins pins, 8 bytes each, over all leases. A Grant beyond that is refused.
#ifndef KVIST_CACHESTORE_LEASES_H_
#define KVIST_CACHESTORE_LEASES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "cachestore/block.h"
#include "cachestore/block_store.h"
#include "cachestore/call_time.h"

namespace kvist {

using LeasedBlocks = std::vector<Block*>;  // deepest first

class Leases {
 public:
  static constexpr size_t kMaxPins = size_t{4} << 20;

  // Ids count up from `first_id`. Take it from the clock, so that a lease of an earlier process is unknown to this one.
  explicit Leases(uint64_t first_id) : next_id_(first_id) {}

  // Keeps `blocks` until Take or the deadline. An empty id when there are kMaxPins pins: `blocks` is left as it was.
  LeaseId Grant(LeasedBlocks& blocks, int64_t deadline_ns);
  // The same under an id that another tier's Leases has granted: one lease over two tiers. False when it is refused.
  bool GrantAs(LeaseId id, LeasedBlocks& blocks, int64_t deadline_ns);
  // Ends a lease and hands its blocks back; empty if unknown, ended or another tenant's.
  LeasedBlocks Take(LeaseId id);
  // The leases whose deadline is not after `now_ns`, first come first, until they hold `pins` or more.
  std::vector<LeasedBlocks> TakeExpired(int64_t now_ns, size_t pins);
  std::vector<LeasedBlocks> TakeAll() { return TakeExpired(kNever, kMaxPins); }
  // Whether TakeExpired would find one: one atomic load.
  bool AnyExpired(int64_t now_ns) const { return earliest_ns_.load(std::memory_order_acquire) <= now_ns; }
  bool any() const { return earliest_ns_.load(std::memory_order_acquire) != kNever; }
  size_t size() const;

 private:
  struct Lease {
    int64_t deadline_ns = 0;
    LeasedBlocks blocks;
  };
  bool Keep(uint64_t id, LeasedBlocks& blocks, int64_t deadline_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  LeasedBlocks Remove(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PublishEarliest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<int64_t> earliest_ns_{kNever};
  mutable std::mutex mutex_;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_);
  size_t pins_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, Lease> leases_ ABSL_GUARDED_BY(mutex_);
  absl::btree_set<std::pair<int64_t, uint64_t>> by_deadline_ ABSL_GUARDED_BY(mutex_);  // (deadline, id)
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_LEASES_H_
