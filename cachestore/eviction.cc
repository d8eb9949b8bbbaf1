#include "cachestore/eviction.h"

#include "cachestore/check.h"

namespace kvist {

Recency::Recency(size_t shards, size_t tenants)
    : shards_(shards), oldest_(new std::atomic<uint64_t>[shards * tenants]) {
  for (size_t i = 0; i < shards * tenants; ++i) oldest_[i].store(kNothing, std::memory_order_relaxed);
}

size_t Recency::OldestShard(TenantId tenant) const {
  const std::atomic<uint64_t>* oldest = &oldest_[tenant * shards_];
  size_t oldest_shard = shards_;
  uint64_t oldest_tick = kNothing;
  for (size_t i = 0; i < shards_; ++i) {
    const uint64_t tick = oldest[i].load(std::memory_order_acquire);
    if (tick < oldest_tick) {
      oldest_tick = tick;
      oldest_shard = i;
    }
  }
  return oldest_shard;
}

void EvictionList::Append(Block* block) {
  Link(block);
  if (oldest_ == block) Publish();
}

void EvictionList::MoveToBack(Block* block) {
  const bool was_oldest = oldest_ == block;
  Unlink(block);
  Link(block);
  if (was_oldest) Publish();
}

void EvictionList::Link(Block* block) {
  Check(!block->place.listed, "a block is listed once");
  block->place.tick = recency_->NextTick();
  block->place.listed = true;
  block->place.older = newest_;
  block->place.newer = nullptr;
  (newest_ == nullptr ? oldest_ : newest_->place.newer) = block;
  newest_ = block;
  ++size_;
}

void EvictionList::Unlink(Block* block) {
  Check(block->place.listed, "only a listed block leaves the list");
  Block* older = block->place.older;
  Block* newer = block->place.newer;
  (older == nullptr ? oldest_ : older->place.newer) = newer;
  (newer == nullptr ? newest_ : newer->place.older) = older;
  block->place.listed = false;
  --size_;
}

}  // namespace kvist
