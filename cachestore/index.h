// Finds blocks by key and says which one goes next. Sharded by the key's first bytes: no global lock.
//
// Units   bytes; ticks of Recency; nanoseconds since the epoch.
// Threads every method may be called from any thread; each locks one shard at a time, and at most the allocator's mutex
//         inside it (when a block goes).
// Errors  AlreadyExists       BeginWrite of a key that is there or being written.
//         FailedPrecondition  the index was closed.
#ifndef KVIST_CACHESTORE_INDEX_H_
#define KVIST_CACHESTORE_INDEX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "cachestore/block.h"
#include "cachestore/block_store.h"
#include "cachestore/call_time.h"
#include "cachestore/eviction.h"
#include "cachestore/life_figures.h"
#include "cachestore/removals.h"
#include "cachestore/roster.h"

namespace kvist {

// Bytes that leases hold at once. A block under several leases counts once.
class LeaseBudget {
 public:
  bool TryTake(uint64_t bytes, uint64_t limit_bytes);
  void Return(uint64_t bytes) { taken_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> taken_bytes_{0};
};

class Index {
 public:
  struct Options {
    size_t shards = 64;                  // a power of two
    size_t remembered_removals = 65536;  // over all shards
    uint64_t capacity_bytes = 0;
    double leased_fraction = 0;  // that leases may hold: of the capacity, and each tenant's of its quota
    size_t tenants = 1;
    std::shared_ptr<const TenantQuotas> quotas;  // null: none
  };
  explicit Index(const Options& options);

  // Every call comes with its time. A block whose time is over is dropped by whoever looks for it.

  // Writing. A written block is known by name only: it can neither be found nor evicted. AlreadyExists: the one that is
  // there has got the later of both times.
  absl::Status BeginWrite(Block* block, CallTime& time);
  absl::Status Publish(Block* block, int64_t now_ns);
  void AbandonWrite(Block* block);

  struct Found {
    Block* block = nullptr;   // null on a miss, or when none was pinned
    uint64_t size_bytes = 0;  // 0 on a miss
    MissReason miss = MissReason::kNone;
    bool over_budget = false;  // stored, but leases hold all that they may
    uint32_t tokens = 0;       // as the writer said
  };
  // Looks, nothing else. Of a miss it tells what is remembered, if it is asked.
  Found Probe(const Key& key, CallTime& time, std::optional<Removal>* gone = nullptr);
  // What Block::Place says of a stored block; nothing if there is none.
  std::optional<Block::Place> PlaceOf(const Key& key, CallTime& time);
  void Touch(const Key& key, CallTime& time);  // makes it the youngest, if it is there
  // Pins; `touch` makes it the youngest and counts a Get. Of a miss, tells what is remembered.
  Found Pin(const Key& key, CallTime& time, bool touch, std::optional<Removal>* gone);
  Found PinForLease(const Key& key, CallTime& time);  // pins, and takes it off the eviction list
  void EndLease(Block* block);                        // one PinForLease back; with the last, the block is the youngest

  // A block that is there or being written takes the time of `traits` if that is later. False if there is none.
  bool ProlongPresent(const Key& key, const BlockTraits& traits, CallTime& time);
  bool Erase(const Key& key, MissReason why, CallTime& time);
  // Drops this tenant's oldest block that nobody holds. Its charge is 0 if its time was over: then it is counted as expired.
  // Nothing if there is no such block.
  struct Evicted {
    Key key;
    uint64_t charge_bytes = 0;
  };
  std::optional<Evicted> EvictOne(TenantId tenant, const Key& made_room_for, CallTime& time);
  // The keys that were not touched for longest, with their charges, whoever's they are. Looks at up to `limit` blocks of
  // each list.
  std::vector<Evicted> NextToEvict(size_t limit) const;
  // Drops at most `limit` blocks whose time is over; returns how many. Costs one atomic load when none is due.
  size_t DropExpired(size_t limit, CallTime& time);
  // See BlockStore::Scan: a cursor is a shard and a number in its Roster. Holds a shard for kScanStep numbers at most.
  BlockStore::ScanResult Scan(uint64_t cursor, size_t limit, CallTime& time) const;
  bool IsCursor(uint64_t cursor) const { return cursor >> 32 < shards_.size(); }
  // Drops every block, and lets no other in: held ones live on until their last pin.
  void Close();

  uint64_t blocks() const { return blocks_.load(std::memory_order_relaxed); }
  uint64_t expired_blocks() const { return expired_blocks_.load(std::memory_order_relaxed); }
  uint64_t gets() const;  // Pins that touched, since the start
  LifeFigures life() const;

 private:
  static constexpr uint32_t kScanStep = 256;       // numbers looked at under one hold of a shard's mutex
  static constexpr uint64_t kScanLooks = 1 << 16;  // numbers and shards looked at in one call
  static constexpr size_t kDropStep = 64;          // blocks dropped under one hold of a shard's mutex

  struct alignas(64) Shard {
    Shard(Recency* recency, size_t number, size_t tenants, size_t remembered) : removals(remembered) {
      for (size_t tenant = 0; tenant < tenants; ++tenant) {
        lists.emplace_back(recency, number, static_cast<TenantId>(tenant));
      }
    }
    EvictionList& ListOf(const Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return lists[block->key().tenant]; }
    mutable std::mutex mutex;
    absl::flat_hash_map<Key, Block*> blocks ABSL_GUARDED_BY(mutex);
    Roster roster ABSL_GUARDED_BY(mutex);                                           // the published ones of `blocks`
    absl::btree_set<std::pair<int64_t, uint32_t>> expiring ABSL_GUARDED_BY(mutex);  // (expires, number) of those
    std::vector<EvictionList> lists ABSL_GUARDED_BY(mutex);  // of each tenant: published blocks without a lease
    RecentRemovals removals ABSL_GUARDED_BY(mutex);
    bool closed ABSL_GUARDED_BY(mutex) = false;
    // Changed under the mutex only, so without a locked instruction: a Get is some 60 ns.
    std::atomic<uint64_t> gets{0};
    LifeCounts life;
  };

  // A tenant's keys lie as if others' were not there: where one is tells nothing of another's.
  Shard& ShardOf(const Key& key) const {
    return *shards_[(key.Prefix64() ^ key.tenant * 0x9E3779B97F4A7C15) & (shards_.size() - 1)];
  }
  Found Find(Shard& shard, const Key& key, CallTime& time, std::optional<Removal>* gone = nullptr);
  static Found Missed(const Shard& shard, const Key& key, std::optional<Removal>* gone);
  Found Expired(Shard& shard, Block* block, std::optional<Removal>* gone);
  // Out of all that the shard keeps but the eviction list. It went when `removal` says, as far as its life is counted.
  void Forget(Shard& shard, Block* block, const Removal& removal);
  // Readers that hold it keep it; nobody finds it any more.
  void Remove(Shard& shard, Block* block, const Removal& removal);
  void Expire(Shard& shard, Block* block);
  size_t DropExpiredOf(Shard& shard, size_t limit, int64_t now_ns);
  void Prolong(Shard& shard, Block* block, const BlockTraits& traits);
  void LowerEarliest(int64_t expires_ns);
  static void Use(Shard& shard, Block* block, int64_t now_ns);
  static void TouchLocked(Shard& shard, Block* block, CallTime& time);
  size_t ListedBlocks() const { return listed_.load(std::memory_order_relaxed); }
  void List(Shard& shard, Block* block);
  void Unlist(Shard& shard, Block* block);  // Publish of the list is due afterwards

  bool TakeLeaseBudget(const Block& block);
  void ReturnLeaseBudget(const Block& block);

  const Options options_;
  LeaseBudget budget_;
  const std::unique_ptr<LeaseBudget[]> tenant_budgets_;
  Recency recency_;
  std::vector<std::unique_ptr<Shard>> shards_;  // constant after construction
  std::atomic<uint64_t> blocks_{0};             // published
  std::atomic<uint64_t> listed_{0};             // in the eviction lists
  std::atomic<uint64_t> expired_blocks_{0};
  // Never later than the first of all that will expire, but for the length of a DropExpired.
  std::atomic<int64_t> earliest_expiry_ns_{kNever};
  std::atomic<size_t> next_to_drop_{0};  // the shard that DropExpired begins with
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_INDEX_H_
