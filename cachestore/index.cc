#include "cachestore/index.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace kvist {

bool LeaseBudget::TryTake(uint64_t bytes) {
  uint64_t taken = taken_bytes_.load(std::memory_order_relaxed);
  do {
    if (bytes > limit_bytes_ - taken) return false;
  } while (!taken_bytes_.compare_exchange_weak(taken, taken + bytes, std::memory_order_relaxed));
  return true;
}

Index::Index(const Options& options) : recency_(options.shards), budget_(options.leased_bytes_limit) {
  shards_.reserve(options.shards);
  const size_t remembered = (options.remembered_removals + options.shards - 1) / options.shards;
  for (size_t i = 0; i < options.shards; ++i) shards_.push_back(std::make_unique<Shard>(&recency_, i, remembered));
}

absl::Status Index::BeginWrite(Block* block) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (shard.closed) return absl::FailedPreconditionError("the store is closed");
  const auto [entry, inserted] = shard.blocks.try_emplace(block->key(), block);
  if (inserted) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("block ", block->key().Hex(), entry->second->published() ? " is stored" : " is being written"));
}

absl::Status Index::Publish(Block* block) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (shard.closed) return absl::FailedPreconditionError("the store was closed while the block was written");
  block->Publish();
  shard.removals.Forget(block->key());
  blocks_.fetch_add(1, std::memory_order_relaxed);
  List(shard, block);
  return absl::OkStatus();
}

void Index::AbandonWrite(Block* block) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  const auto entry = shard.blocks.find(block->key());
  if (entry != shard.blocks.end() && entry->second == block) shard.blocks.erase(entry);
}

Index::Found Index::Find(const Shard& shard, const Key& key) {
  const auto entry = shard.blocks.find(key);
  if (entry == shard.blocks.end()) return {.miss = shard.removals.Cause(key)};
  Block* block = entry->second;
  if (!block->published()) return {.miss = MissReason::kBeingWritten};
  return {.block = block, .size_bytes = block->size_bytes()};
}

void Index::TouchLocked(Shard& shard, Block* block) {
  if (block->place.listed) shard.list.MoveToBack(block);
}

Index::Found Index::Probe(const Key& key) const {
  const Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  Found found = Find(shard, key);
  found.block = nullptr;
  return found;
}

void Index::Touch(const Key& key) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (const Found found = Find(shard, key); found.block != nullptr) TouchLocked(shard, found.block);
}

Index::Found Index::Pin(const Key& key) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  const Found found = Find(shard, key);
  if (found.block != nullptr) {
    found.block->Pin();
    TouchLocked(shard, found.block);
  }
  return found;
}

Index::Found Index::PinForLease(const Key& key) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  Found found = Find(shard, key);
  if (found.block == nullptr) return found;
  if (found.block->place.leases == 0) {
    if (!budget_.TryTake(found.block->charge_bytes())) {
      found.block = nullptr;
      found.over_budget = true;
      return found;
    }
    Unlist(shard, found.block);
    shard.list.Publish();
  }
  ++found.block->place.leases;
  found.block->Pin();
  return found;
}

void Index::EndLease(Block* block) {
  Shard& shard = ShardOf(block->key());
  {
    std::lock_guard<std::mutex> lock(shard.mutex);
    if (--block->place.leases == 0) {
      budget_.Return(block->charge_bytes());
      if (block->published()) List(shard, block);
    }
  }
  block->Unpin();
}

bool Index::Erase(const Key& key) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  const Found found = Find(shard, key);
  if (found.block == nullptr) return false;
  shard.blocks.erase(key);
  shard.removals.Remember(key, MissReason::kErased);
  blocks_.fetch_sub(1, std::memory_order_relaxed);
  if (found.block->place.listed) Unlist(shard, found.block);
  if (found.block->Remove()) Block::Dispose(found.block);
  shard.list.Publish();
  return true;
}

std::optional<uint64_t> Index::EvictOne() {
  // A block that a reader holds is in use at this moment: it goes to the back. When every listed block has been seen
  // that way, there is nothing to evict.
  uint64_t in_use_left = ListedBlocks();
  for (;;) {
    const size_t number = recency_.OldestShard();
    if (number == shards_.size()) return std::nullopt;
    Shard& shard = *shards_[number];
    std::lock_guard<std::mutex> lock(shard.mutex);
    Block* block = shard.list.oldest();
    if (block == nullptr) continue;  // another thread was faster; it has published so
    if (!block->TryRemoveUnpinned()) {
      if (in_use_left-- == 0) return std::nullopt;
      shard.list.MoveToBack(block);
      continue;
    }
    const uint64_t charge_bytes = block->charge_bytes();
    shard.blocks.erase(block->key());
    shard.removals.Remember(block->key(), MissReason::kEvicted);
    blocks_.fetch_sub(1, std::memory_order_relaxed);
    Unlist(shard, block);
    Block::Dispose(block);
    shard.list.Publish();
    return charge_bytes;
  }
}

void Index::Close() {
  for (const std::unique_ptr<Shard>& shard : shards_) {
    std::lock_guard<std::mutex> lock(shard->mutex);
    shard->closed = true;
    for (const auto& [key, block] : shard->blocks) {
      if (!block->published()) continue;  // its Reservation owns it
      blocks_.fetch_sub(1, std::memory_order_relaxed);
      if (block->place.listed) Unlist(*shard, block);
      if (block->Remove()) Block::Dispose(block);
    }
    shard->blocks.clear();
    shard->list.Publish();
  }
}

void Index::List(Shard& shard, Block* block) {
  shard.list.Append(block);
  listed_.fetch_add(1, std::memory_order_relaxed);
}

void Index::Unlist(Shard& shard, Block* block) {
  shard.list.Remove(block);
  listed_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace kvist
