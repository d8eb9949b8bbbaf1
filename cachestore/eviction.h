// The order in which blocks are given up: least recently touched first, over all shards. Each tenant has an order of its
// own; tenants.h says whose turn it is.
//
// Each shard keeps a tenant's blocks in a list, oldest first, and publishes the tick of its oldest; ticks come from one
// counter and are stamped under the shard's mutex, so a list is sorted by tick. To evict, one reads the published ticks
// of all shards (a few cache lines, no lock), takes the shard with the smallest and pops its head. In one thread that
// is exact LRU; with several, a tick may be stale by the touches that are under way.
//
// Leaves before parents: Match touches a chain deepest first, so a child is always older than its parent. Blocks under
// a lease are in no list; they come back when the lease ends, again deepest first, so that the Gets made under the
// lease (which go from the root down) do not turn the order round.
//
// Threads Recency: any. EvictionList: under its shard's mutex.
#ifndef KVIST_CACHESTORE_EVICTION_H_
#define KVIST_CACHESTORE_EVICTION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>

#include "cachestore/block.h"

namespace kvist {

class Recency {
 public:
  static constexpr uint64_t kNothing = std::numeric_limits<uint64_t>::max();  // the tick of an empty list

  Recency(size_t shards, size_t tenants);

  uint64_t NextTick() { return next_.fetch_add(1, std::memory_order_relaxed); }
  void Publish(TenantId tenant, size_t shard, uint64_t oldest) {
    oldest_[tenant * shards_ + shard].store(oldest, std::memory_order_release);
  }
  // The shard whose oldest block is the oldest of all of this tenant; `shards` when every list is empty.
  size_t OldestShard(TenantId tenant) const;

 private:
  const size_t shards_;
  alignas(64) std::atomic<uint64_t> next_{1};
  alignas(64) const std::unique_ptr<std::atomic<uint64_t>[]> oldest_;
};

// One tenant's blocks in one shard, oldest first.
class EvictionList {
 public:
  EvictionList(Recency* recency, size_t shard, TenantId tenant) : recency_(recency), shard_(shard), tenant_(tenant) {}

  Block* oldest() const { return oldest_; }
  size_t size() const { return size_; }
  void Append(Block* block);  // as the most recently touched
  void MoveToBack(Block* block);
  // Leaves the published tick to the caller: one who frees the block first never lets another thread see an empty list
  // while the space is not back yet.
  void Remove(Block* block) { Unlink(block); }
  void Publish() { recency_->Publish(tenant_, shard_, oldest_ == nullptr ? Recency::kNothing : oldest_->place.tick); }

 private:
  void Link(Block* block);
  void Unlink(Block* block);

  Recency* const recency_;
  const size_t shard_;
  const TenantId tenant_;
  Block* oldest_ = nullptr;
  Block* newest_ = nullptr;
  size_t size_ = 0;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_EVICTION_H_
