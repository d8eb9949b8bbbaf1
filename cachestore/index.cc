#include "cachestore/index.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;

// It went when its time was over, whenever that is noticed.
Removal Expiry(const Block& block) {
  return {.cause = MissReason::kExpired, .when_ns = block.expires_ns(), .made_room_for = {}};
}

}  // namespace

bool LeaseBudget::TryTake(uint64_t bytes, uint64_t limit_bytes) {
  uint64_t taken = taken_bytes_.load(std::memory_order_relaxed);
  do {
    if (taken > limit_bytes || bytes > limit_bytes - taken) return false;
  } while (!taken_bytes_.compare_exchange_weak(taken, taken + bytes, std::memory_order_relaxed));
  return true;
}

Index::Index(const Options& options)
    : options_(options), tenant_budgets_(new LeaseBudget[options.tenants]), recency_(options.shards, options.tenants) {
  shards_.reserve(options.shards);
  const size_t remembered = (options.remembered_removals + options.shards - 1) / options.shards;
  for (size_t i = 0; i < options.shards; ++i)
    shards_.push_back(std::make_unique<Shard>(&recency_, i, options.tenants, remembered));
}

absl::Status Index::BeginWrite(Block* block, CallTime& time) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (shard.closed) return absl::FailedPreconditionError("the store is closed");
  const auto [entry, inserted] = shard.blocks.try_emplace(block->key(), block);
  if (inserted) return absl::OkStatus();
  Block* present = entry->second;
  if (!present->published() || !present->expires() || present->expires_ns() > time.Exact()) {
    if (block->expires_ns() > present->expires_ns()) Prolong(shard, present, block->traits());
    return absl::AlreadyExistsError(
        absl::StrCat("block ", block->key().Hex(), present->published() ? " is stored" : " is being written"));
  }
  Expire(shard, present);  // its time is over: it makes way
  shard.blocks.emplace(block->key(), block);
  return absl::OkStatus();
}

absl::Status Index::Publish(Block* block, int64_t now_ns) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (shard.closed) return absl::FailedPreconditionError("the store was closed while the block was written");
  block->Publish();
  block->place.last_used_ns = now_ns;
  block->place.stored_s = static_cast<uint32_t>(now_ns / kSecondNs);
  block->place.number = shard.roster.Add(block);
  shard.removals.Forget(block->key());
  blocks_.fetch_add(1, std::memory_order_relaxed);
  List(shard, block);
  if (!block->expires()) return absl::OkStatus();
  shard.expiring.emplace(block->expires_ns(), block->place.number);
  LowerEarliest(block->expires_ns());
  return absl::OkStatus();
}

void Index::AbandonWrite(Block* block) {
  Shard& shard = ShardOf(block->key());
  std::lock_guard<std::mutex> lock(shard.mutex);
  const auto entry = shard.blocks.find(block->key());
  if (entry != shard.blocks.end() && entry->second == block) shard.blocks.erase(entry);
}

inline Index::Found Index::Find(Shard& shard, const Key& key, CallTime& time, std::optional<Removal>* gone) {
  const auto entry = shard.blocks.find(key);
  if (entry == shard.blocks.end()) return Missed(shard, key, gone);
  Block* block = entry->second;
  if (!block->published()) return {.miss = MissReason::kBeingWritten};
  if (block->expires() && block->expires_ns() <= time.Exact()) return Expired(shard, block, gone);
  return {.block = block, .size_bytes = block->size_bytes(), .tokens = block->tokens()};
}

Index::Found Index::Missed(const Shard& shard, const Key& key, std::optional<Removal>* gone) {
  if (gone == nullptr) return {.miss = shard.removals.Cause(key)};
  *gone = shard.removals.Find(key);
  return {.miss = (*gone)->cause};
}

// Told from the block and not from the ring, which may remember nothing.
Index::Found Index::Expired(Shard& shard, Block* block, std::optional<Removal>* gone) {
  if (gone != nullptr) *gone = Expiry(*block);
  Expire(shard, block);
  return {.miss = MissReason::kExpired};
}

void Index::Forget(Shard& shard, Block* block, const Removal& removal) {
  shard.blocks.erase(block->key());
  shard.roster.Remove(block->place.number);
  if (block->expires()) shard.expiring.erase({block->expires_ns(), block->place.number});
  shard.removals.Remember(block->key(), removal);
  const int64_t stored_ns = int64_t{block->place.stored_s} * kSecondNs;
  shard.life.Removed(removal.cause, block->charge_bytes(), removal.when_ns - block->place.last_used_ns,
                     removal.when_ns - stored_ns);
  blocks_.fetch_sub(1, std::memory_order_relaxed);
}

void Index::Remove(Shard& shard, Block* block, const Removal& removal) {
  Forget(shard, block, removal);
  if (block->place.listed) Unlist(shard, block);
  EvictionList& list = shard.ListOf(block);
  if (block->Remove()) Block::Dispose(block);
  list.Publish();
}

void Index::Expire(Shard& shard, Block* block) {
  expired_blocks_.fetch_add(1, std::memory_order_relaxed);
  Remove(shard, block, Expiry(*block));
}

void Index::Use(Shard& shard, Block* block, int64_t now_ns) {
  shard.life.Used(now_ns - block->place.last_used_ns);
  block->place.last_used_ns = now_ns;
}

void Index::TouchLocked(Shard& shard, Block* block, CallTime& time) {
  Use(shard, block, time.Recent());
  if (block->place.listed) shard.ListOf(block).MoveToBack(block);
}

Index::Found Index::Probe(const Key& key, CallTime& time, std::optional<Removal>* gone) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  Found found = Find(shard, key, time, gone);
  found.block = nullptr;
  return found;
}

std::optional<Block::Place> Index::PlaceOf(const Key& key, CallTime& time) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  const Found found = Find(shard, key, time);
  if (found.block == nullptr) return std::nullopt;
  return found.block->place;
}

void Index::Touch(const Key& key, CallTime& time) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  if (const Found found = Find(shard, key, time); found.block != nullptr) TouchLocked(shard, found.block, time);
}

Index::Found Index::Pin(const Key& key, CallTime& time, bool touch, std::optional<Removal>* gone) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  const Found found = Find(shard, key, time, gone);
  if (found.block == nullptr) return found;
  found.block->Pin();
  if (touch) {
    uint32_t& gets = found.block->place.gets;
    gets += gets < UINT32_MAX;
    shard.gets.store(shard.gets.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    TouchLocked(shard, found.block, time);
  }
  return found;
}

Index::Found Index::PinForLease(const Key& key, CallTime& time) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  Found found = Find(shard, key, time);
  if (found.block == nullptr) return found;
  if (found.block->place.leases == 0) {
    if (!TakeLeaseBudget(*found.block)) {
      found.block = nullptr;
      found.over_budget = true;
      return found;
    }
    Unlist(shard, found.block);
    shard.ListOf(found.block).Publish();
  }
  Use(shard, found.block, time.Recent());
  ++found.block->place.leases;
  found.block->Pin();
  return found;
}

bool Index::TakeLeaseBudget(const Block& block) {
  const uint64_t bytes = block.charge_bytes();
  const auto limit = [this](uint64_t of) { return static_cast<uint64_t>(of * options_.leased_fraction); };
  if (!budget_.TryTake(bytes, limit(options_.capacity_bytes))) return false;
  if (options_.quotas == nullptr) return true;
  const TenantId tenant = block.key().tenant;
  const uint64_t quota_bytes = std::min(options_.quotas->max_bytes(tenant), options_.capacity_bytes);
  if (tenant_budgets_[tenant].TryTake(bytes, limit(quota_bytes))) return true;
  budget_.Return(bytes);
  return false;
}

void Index::ReturnLeaseBudget(const Block& block) {
  budget_.Return(block.charge_bytes());
  if (options_.quotas != nullptr) tenant_budgets_[block.key().tenant].Return(block.charge_bytes());
}

void Index::EndLease(Block* block) {
  Shard& shard = ShardOf(block->key());
  {
    std::lock_guard<std::mutex> lock(shard.mutex);
    if (--block->place.leases == 0) {
      ReturnLeaseBudget(*block);
      if (block->published()) List(shard, block);
    }
  }
  block->Unpin();
}

bool Index::Erase(const Key& key, MissReason why, CallTime& time) {
  const int64_t now_ns = time.Exact();
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  const Found found = Find(shard, key, time);
  if (found.block == nullptr) return false;
  Remove(shard, found.block, {.cause = why, .when_ns = now_ns, .made_room_for = {}});
  return true;
}

bool Index::ProlongPresent(const Key& key, const BlockTraits& traits, CallTime& time) {
  Shard& shard = ShardOf(key);
  std::lock_guard<std::mutex> lock(shard.mutex);
  const Found found = Find(shard, key, time);
  if (found.block == nullptr && found.miss != MissReason::kBeingWritten) return false;
  Block* present = shard.blocks.find(key)->second;
  if (absl::ToUnixNanos(traits.expires) > present->expires_ns()) Prolong(shard, present, traits);
  return true;
}

std::optional<Index::Evicted> Index::EvictOne(TenantId tenant, const Key& made_room_for, CallTime& time) {
  const int64_t now_ns = time.Exact();
  // A block that a reader holds is in use at this moment: it goes to the back. When every listed block has been seen
  // that way, there is nothing to evict.
  uint64_t in_use_left = ListedBlocks();
  for (;;) {
    const size_t number = recency_.OldestShard(tenant);
    if (number == shards_.size()) return std::nullopt;
    Shard& shard = *shards_[number];
    std::lock_guard<std::mutex> lock(shard.mutex);
    EvictionList& list = shard.lists[tenant];
    Block* block = list.oldest();
    if (block == nullptr) continue;  // another thread was faster; it has published so
    if (block->expires_ns() <= now_ns) {
      const Key key = block->key();
      Expire(shard, block);
      return Evicted{key, 0};
    }
    if (!block->TryRemoveUnpinned()) {
      if (in_use_left-- == 0) return std::nullopt;
      list.MoveToBack(block);
      continue;
    }
    const Evicted evicted{block->key(), block->charge_bytes()};
    Forget(shard, block, {.cause = MissReason::kEvicted, .when_ns = now_ns, .made_room_for = made_room_for});
    Unlist(shard, block);
    Block::Dispose(block);
    list.Publish();
    return evicted;
  }
}

std::vector<Index::Evicted> Index::NextToEvict(size_t limit) const {
  std::vector<std::pair<uint64_t, Evicted>> by_tick;
  for (const std::unique_ptr<Shard>& shard : shards_) {
    std::lock_guard<std::mutex> lock(shard->mutex);
    for (const EvictionList& list : shard->lists) {
      const Block* block = list.oldest();
      for (size_t i = 0; i < limit && block != nullptr; ++i, block = block->place.newer) {
        by_tick.push_back({block->place.tick, {block->key(), block->charge_bytes()}});
      }
    }
  }
  std::sort(by_tick.begin(), by_tick.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Evicted> next;
  for (size_t i = 0; i < std::min(limit, by_tick.size()); ++i) next.push_back(by_tick[i].second);
  return next;
}

uint64_t Index::gets() const {
  uint64_t sum = 0;
  for (const std::unique_ptr<Shard>& shard : shards_) sum += shard->gets.load(std::memory_order_relaxed);
  return sum;
}

LifeFigures Index::life() const {
  LifeFigures sum;
  for (const std::unique_ptr<Shard>& shard : shards_) shard->life.AddTo(sum);
  return sum;
}

// The set orders by time, so the entry moves. `earliest_expiry_ns_` may be too early then, which costs one look.
void Index::Prolong(Shard& shard, Block* block, const BlockTraits& traits) {
  if (block->published()) shard.expiring.erase({block->expires_ns(), block->place.number});
  block->Prolong(traits);
  if (block->published() && block->expires()) shard.expiring.emplace(block->expires_ns(), block->place.number);
}

size_t Index::DropExpired(size_t limit, CallTime& time) {
  if (earliest_expiry_ns_.load(std::memory_order_relaxed) == kNever) return 0;
  const int64_t now_ns = time.Exact();
  if (earliest_expiry_ns_.load(std::memory_order_relaxed) > now_ns) return 0;
  // Lowered again by whoever publishes meanwhile, since each shard's mutex puts that before or after our look at the
  // shard; and by us, for what stays.
  earliest_expiry_ns_.store(kNever);
  const size_t first = next_to_drop_.load(std::memory_order_relaxed);
  size_t dropped = 0;
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (dropped == limit) {
      LowerEarliest(now_ns);  // the other shards have not been looked at
      next_to_drop_.store(first + i, std::memory_order_relaxed);
      break;
    }
    dropped += DropExpiredOf(*shards_[(first + i) & (shards_.size() - 1)], limit - dropped, now_ns);
  }
  return dropped;
}

size_t Index::DropExpiredOf(Shard& shard, size_t limit, int64_t now_ns) {
  for (size_t dropped = 0;;) {
    std::lock_guard<std::mutex> lock(shard.mutex);
    for (size_t i = 0; i < kDropStep; ++i) {
      if (shard.expiring.empty()) return dropped;
      const auto [expires_ns, number] = *shard.expiring.begin();
      if (expires_ns > now_ns || dropped == limit) {
        LowerEarliest(expires_ns);
        return dropped;
      }
      Expire(shard, shard.roster.At(number));
      ++dropped;
    }
  }
}

void Index::LowerEarliest(int64_t expires_ns) {
  int64_t earliest = earliest_expiry_ns_.load(std::memory_order_relaxed);
  while (expires_ns < earliest && !earliest_expiry_ns_.compare_exchange_weak(earliest, expires_ns)) {
  }
}

BlockStore::ScanResult Index::Scan(uint64_t cursor, size_t limit, CallTime& time) const {
  BlockStore::ScanResult result;
  const int64_t now_ns = time.Exact();
  uint64_t number = static_cast<uint32_t>(cursor), looks = 0;
  for (uint64_t at = cursor >> 32; at < shards_.size();) {
    const Shard& shard = *shards_[at];
    std::lock_guard<std::mutex> lock(shard.mutex);
    const uint64_t end = std::min<uint64_t>(shard.roster.end(), number + kScanStep);
    for (; number < end; ++number, ++looks) {
      const Block* block = shard.roster.At(static_cast<uint32_t>(number));
      const bool listed = block != nullptr && block->expires_ns() > now_ns;
      if (looks >= kScanLooks || (listed && result.blocks.size() == limit)) {
        result.next = at << 32 | number;
        return result;
      }
      if (!listed) continue;
      result.blocks.push_back({block->key(), block->traits(), block->size_bytes(), block->place.gets,
                               FromNanos(block->place.last_used_ns)});
    }
    if (number < shard.roster.end()) continue;
    ++at;
    ++looks;
    number = 0;
  }
  return result;
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
    shard->roster.Clear();
    shard->expiring.clear();
    for (EvictionList& list : shard->lists) list.Publish();
  }
}

void Index::List(Shard& shard, Block* block) {
  shard.ListOf(block).Append(block);
  listed_.fetch_add(1, std::memory_order_relaxed);
}

void Index::Unlist(Shard& shard, Block* block) {
  shard.ListOf(block).Remove(block);
  listed_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace kvist
