// Finds blocks by key and says which one goes next. Sharded by the key's first bytes: no global lock.
//
// Units   bytes; ticks of Recency.
// Threads every method may be called from any thread; each locks one shard at a time, and at most the allocator's mutex
//         inside it (when a block goes).
// Errors  AlreadyExists       BeginWrite of a key that is there or being written.
//         FailedPrecondition  the index was closed.
#ifndef KVIST_CACHESTORE_INDEX_H_
#define KVIST_CACHESTORE_INDEX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cachestore/block.h"
#include "cachestore/block_store.h"
#include "cachestore/eviction.h"
#include "cachestore/removals.h"

namespace kvist {

// Bytes that leases may hold at once. A block under several leases counts once.
class LeaseBudget {
 public:
  explicit LeaseBudget(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  bool TryTake(uint64_t bytes);
  void Return(uint64_t bytes) { taken_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }
  uint64_t taken_bytes() const { return taken_bytes_.load(std::memory_order_relaxed); }

 private:
  const uint64_t limit_bytes_;
  std::atomic<uint64_t> taken_bytes_{0};
};

class Index {
 public:
  struct Options {
    size_t shards = 64;                  // a power of two
    size_t remembered_removals = 65536;  // over all shards
    uint64_t leased_bytes_limit = 0;
  };
  explicit Index(const Options& options);

  // Writing. A written block is known by name only: it can neither be found nor evicted.
  absl::Status BeginWrite(Block* block, absl::Time now);
  absl::Status Publish(Block* block, absl::Time now);
  void AbandonWrite(Block* block);

  struct Found {
    Block* block = nullptr;   // null on a miss, or when none was pinned
    uint64_t size_bytes = 0;  // 0 on a miss
    MissReason miss = MissReason::kNone;
    absl::Time gone = absl::InfinitePast();  // of a miss, with the next: RecentRemovals
    Key made_room_for;
    bool over_budget = false;  // stored, but leases hold all that they may
  };
  // A block whose time is over at `now` is dropped by whoever looks for it.
  Found Probe(const Key& key, absl::Time now);            // looks, nothing else
  void Touch(const Key& key, absl::Time now);             // makes it the youngest, if it is there
  Found Pin(const Key& key, absl::Time now, bool touch);  // pins; `touch` makes it the youngest and counts a Get
  Found PinForLease(const Key& key, absl::Time now);      // pins, and takes it off the eviction list
  void EndLease(Block* block);  // one PinForLease back; with the last, the block is the youngest

  bool Erase(const Key& key, MissReason why, absl::Time now);
  // Drops the oldest block that nobody holds. Returns its charge; nothing if there is none.
  std::optional<uint64_t> EvictOne(const Key& made_room_for, absl::Time now);
  // Drops blocks whose time is over. Costs one atomic load when none is due.
  void DropExpired(absl::Time now);
  // See BlockStore::Scan. A cursor is a shard and the number of the next block in it.
  BlockStore::ScanResult Scan(uint64_t cursor, size_t limit, absl::Time now) const;
  // Drops every block, and lets no other in: held ones live on until their last pin.
  void Close();

  uint64_t blocks() const { return blocks_.load(std::memory_order_relaxed); }
  uint64_t expired_blocks() const { return expired_blocks_.load(std::memory_order_relaxed); }

 private:
  struct alignas(64) Shard {
    Shard(Recency* recency, size_t number, size_t remembered) : list(recency, number), removals(remembered) {}
    mutable std::mutex mutex;
    absl::flat_hash_map<Key, Block*> blocks ABSL_GUARDED_BY(mutex);
    absl::btree_map<uint64_t, Block*> published ABSL_GUARDED_BY(mutex);  // by place.number
    uint64_t next_number ABSL_GUARDED_BY(mutex) = 0;
    absl::btree_map<std::pair<absl::Time, uint64_t>, Block*> expiring ABSL_GUARDED_BY(mutex);  // (expires, number)
    EvictionList list ABSL_GUARDED_BY(mutex);  // published blocks without a lease
    RecentRemovals removals ABSL_GUARDED_BY(mutex);
    bool closed ABSL_GUARDED_BY(mutex) = false;
  };

  Shard& ShardOf(const Key& key) const { return *shards_[key.Prefix64() & (shards_.size() - 1)]; }
  Found Find(Shard& shard, const Key& key, absl::Time now);
  void Take(Shard& shard, Block* block);  // out of all that the shard keeps by number
  void Remove(Shard& shard, Block* block, const RecentRemovals::Removal& why);
  static void TouchLocked(Shard& shard, Block* block, absl::Time now);
  size_t ListedBlocks() const { return listed_.load(std::memory_order_relaxed); }
  void List(Shard& shard, Block* block);
  void Unlist(Shard& shard, Block* block);  // Publish of the list is due afterwards

  Recency recency_;
  LeaseBudget budget_;
  std::vector<std::unique_ptr<Shard>> shards_;  // constant after construction
  std::atomic<uint64_t> blocks_{0};             // published
  std::atomic<uint64_t> listed_{0};             // in the eviction lists
  std::atomic<uint64_t> expired_blocks_{0};
  std::atomic<int64_t> earliest_expiry_{std::numeric_limits<int64_t>::max()};  // ns since the epoch; never too late
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_INDEX_H_
