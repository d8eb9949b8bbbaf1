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

absl::Status Index::BeginWrite(Block* block, absl::Time now) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (shard.closed) return absl::FailedPreconditionError("the store is closed");
  Find(shard, block->key(), now);  // an expired one makes way
  const auto [entry, inserted] = shard.blocks.try_emplace(block->key(), block);
  if (inserted) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("block ", block->key().Hex(), entry->second->published() ? " is stored" : " is being written"));
}

absl::Status Index::Publish(Block* block, absl::Time now) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (shard.closed) return absl::FailedPreconditionError("the store was closed while the block was written");
  block->Publish();
  block->place.number = shard.next_number++;
  block->place.last_used = now;
  shard.published.emplace(block->place.number, block);
  shard.removals.Forget(block->key());
  blocks_.fetch_add(1, std::memory_order_relaxed);
  List(shard, block);
  if (block->traits().expires != absl::InfiniteFuture()) {
    shard.expiring.emplace(std::make_pair(block->traits().expires, block->place.number), block);
    const int64_t expires = absl::ToUnixNanos(block->traits().expires);
    int64_t earliest = earliest_expiry_.load(std::memory_order_relaxed);
    while (expires < earliest && !earliest_expiry_.compare_exchange_weak(earliest, expires)) {
    }
  }
  return absl::OkStatus();
}

void Index::AbandonWrite(Block* block) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  const auto entry = shard.blocks.find(block->key());
  if (entry != shard.blocks.end() && entry->second == block) shard.blocks.erase(entry);
}

Index::Found Index::Find(Shard& shard, const Key& key, absl::Time now) {
  const auto entry = shard.blocks.find(key);
  if (entry != shard.blocks.end()) {
    Block* block = entry->second;
    if (!block->published()) return {.miss = MissReason::kBeingWritten, .made_room_for = {}};
    if (!block->expired(now)) return {.block = block, .size_bytes = block->size_bytes(), .made_room_for = {}};
    expired_blocks_.fetch_add(1, std::memory_order_relaxed);
    Remove(shard, block, {.cause = MissReason::kExpired, .when = block->traits().expires, .made_room_for = {}});
  }
  const RecentRemovals::Removal removal = shard.removals.Find(key);
  return {.miss = removal.cause, .gone = removal.when, .made_room_for = removal.made_room_for};
}

void Index::Take(Shard& shard, Block* block) {
  shard.blocks.erase(block->key());
  shard.published.erase(block->place.number);
  if (block->traits().expires != absl::InfiniteFuture()) {
    shard.expiring.erase({block->traits().expires, block->place.number});
  }
  blocks_.fetch_sub(1, std::memory_order_relaxed);
}

// Readers that hold it keep it; nobody finds it any more.
void Index::Remove(Shard& shard, Block* block, const RecentRemovals::Removal& why) {
  Take(shard, block);
  shard.removals.Remember(block->key(), why);
  if (block->place.listed) Unlist(shard, block);
  if (block->Remove()) Block::Dispose(block);
  shard.list.Publish();
}

void Index::TouchLocked(Shard& shard, Block* block, absl::Time now) {
  block->place.last_used = now;
  if (block->place.listed) shard.list.MoveToBack(block);
}

Index::Found Index::Probe(const Key& key, absl::Time now) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  Found found = Find(shard, key, now);
  found.block = nullptr;
  return found;
}

void Index::Touch(const Key& key, absl::Time now) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (const Found found = Find(shard, key, now); found.block != nullptr) TouchLocked(shard, found.block, now);
}

Index::Found Index::Pin(const Key& key, absl::Time now, bool touch) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  const Found found = Find(shard, key, now);
  if (found.block != nullptr) {
    found.block->Pin();
    if (touch) {
      ++found.block->place.gets;
      TouchLocked(shard, found.block, now);
    }
  }
  return found;
}

Index::Found Index::PinForLease(const Key& key, absl::Time now) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  Found found = Find(shard, key, now);
  if (found.block == nullptr) return found;
  found.block->place.last_used = now;
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

bool Index::Erase(const Key& key, MissReason why, absl::Time now) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  const Found found = Find(shard, key, now);
  if (found.block == nullptr) return false;
  Remove(shard, found.block, {.cause = why, .when = now, .made_room_for = {}});
  return true;
}

void Index::DropExpired(absl::Time now) {
  if (earliest_expiry_.load(std::memory_order_relaxed) > absl::ToUnixNanos(now)) return;
  // Lowered again by whoever publishes meanwhile, and below by what stays.
  earliest_expiry_.store(std::numeric_limits<int64_t>::max());
  for (const std::unique_ptr<Shard>& shard : shards_) {
    std::lock_guard<std::mutex> lock(shard->mutex);
    while (!shard->expiring.empty() && shard->expiring.begin()->first.first <= now) {
      Block* block = shard->expiring.begin()->second;
      expired_blocks_.fetch_add(1, std::memory_order_relaxed);
      Remove(*shard, block, {.cause = MissReason::kExpired, .when = block->traits().expires, .made_room_for = {}});
    }
    if (shard->expiring.empty()) continue;
    const int64_t next = absl::ToUnixNanos(shard->expiring.begin()->first.first);
    int64_t earliest = earliest_expiry_.load();
    while (next < earliest && !earliest_expiry_.compare_exchange_weak(earliest, next)) {
    }
  }
}

BlockStore::ScanResult Index::Scan(uint64_t cursor, size_t limit, absl::Time now) const {
  BlockStore::ScanResult result;
  const size_t shards = shards_.size();
  uint64_t number = cursor / shards;
  for (size_t at = cursor % shards; at < shards; ++at, number = 0) {
    const Shard& shard = *shards_[at];
    std::lock_guard<std::mutex> lock(shard.mutex);
    for (auto entry = shard.published.lower_bound(number); entry != shard.published.end(); ++entry) {
      if (result.blocks.size() == limit) {
        result.next = entry->first * shards + at;
        return result;
      }
      const Block* block = entry->second;
      if (block->expired(now)) continue;
      result.blocks.push_back(
          {block->key(), block->traits(), block->size_bytes(), block->place.gets, block->place.last_used});
    }
  }
  return result;
}

std::optional<uint64_t> Index::EvictOne(const Key& made_room_for, absl::Time now) {
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
    Take(shard, block);
    shard.removals.Remember(block->key(), {.cause = MissReason::kEvicted, .when = now, .made_room_for = made_room_for});
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
    shard->published.clear();
    shard->expiring.clear();
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
