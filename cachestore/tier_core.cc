#include "cachestore/tier_core.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace kvist {

void ListWrongRules(const TierRules& rules, std::vector<std::string>& wrong) {
  if (!rules.clock) wrong.push_back("clock is missing");
  if (rules.max_lease <= absl::ZeroDuration()) {
    wrong.push_back(absl::StrCat("max_lease is ", absl::FormatDuration(rules.max_lease), ", not positive"));
  }
  if (!(rules.max_pinned_fraction >= 0.0 && rules.max_pinned_fraction <= 1.0)) {
    wrong.push_back(absl::StrCat("max_pinned_fraction is ", rules.max_pinned_fraction, ", not in [0, 1]"));
  }
  if (!std::has_single_bit(rules.index_shards) || rules.index_shards > TierRules::kMaxShards) {
    wrong.push_back(
        absl::StrCat("index_shards is ", rules.index_shards, ", not a power of two up to ", TierRules::kMaxShards));
  }
  if (rules.remembered_removals > TierRules::kMaxRememberedRemovals) {
    wrong.push_back(absl::StrCat("remembered_removals is ", rules.remembered_removals, ", more than ",
                                 TierRules::kMaxRememberedRemovals));
  }
}

TierCore::TierCore(const TierRules& rules, std::shared_ptr<Space> space_of_blocks, uint64_t first_lease)
    : clock(rules.clock),
      max_lease(rules.max_lease),
      capacity_bytes(space_of_blocks->capacity_bytes()),
      max_blocks(rules.max_blocks != 0 ? rules.max_blocks : capacity_bytes / 4096 + 1024),
      space(std::move(space_of_blocks)),
      tenants(rules.tenants),
      index({.shards = rules.index_shards,
             .remembered_removals = rules.remembered_removals,
             .capacity_bytes = capacity_bytes,
             .leased_fraction = rules.max_pinned_fraction,
             .tenants = space->tenants(),
             .quotas = rules.tenants}),
      leases(first_lease) {}

void TierCore::Close() {
  for (const LeasedBlocks& blocks : leases.TakeAll()) EndLease(blocks);
  index.Close();
}

void TierCore::EndLease(const LeasedBlocks& blocks) {
  for (Block* block : blocks) index.EndLease(block);
}

MatchResult TierCore::Match(absl::Span<const Key> chain, absl::Duration lease_ttl) {
  const bool wants_lease = lease_ttl > absl::ZeroDuration();
  CallTime time(&clock);
  time.Exact();
  if (wants_lease) DropExpired(time);
  MatchResult result = CountHits(chain, time);
  if (wants_lease && result.hits > 0) GrantLease(chain, lease_ttl, time, result);
  if (result.lease == LeaseId{}) {
    for (size_t i = result.hits; i-- > 0;) index.Touch(chain[i], time);
  }
  return result;
}

MatchResult TierCore::CountHits(absl::Span<const Key> chain, CallTime& time) {
  MatchResult result;
  for (const Key& key : chain) {
    const Index::Found found = index.Probe(key, time);
    if (found.size_bytes == 0) {
      result.miss = found.miss;
      break;
    }
    ++result.hits;
    result.hit_bytes += found.size_bytes;
    result.hit_tokens += found.tokens;
  }
  return result;
}

// Pins the hits, deepest first. A block may have gone since it was counted: then the chain ends there.
void TierCore::GrantLease(absl::Span<const Key> chain, absl::Duration lease_ttl, CallTime& time, MatchResult& result) {
  MatchResult granted = result;
  granted.hit_bytes = granted.hit_tokens = 0;
  LeasedBlocks blocks;
  blocks.reserve(result.hits);
  for (size_t i = result.hits; i-- > 0;) {
    const Index::Found found = index.PinForLease(chain[i], time);
    if (found.over_budget) return EndLease(blocks);
    if (found.block == nullptr) {
      EndLease(blocks);
      blocks.clear();
      granted = MatchResult{};
      granted.hits = i;
      granted.miss = found.miss;
      continue;
    }
    blocks.push_back(found.block);
    granted.hit_bytes += found.size_bytes;
    granted.hit_tokens += found.tokens;
  }
  result = granted;
  if (blocks.empty()) return;
  const absl::Duration ttl = std::min(lease_ttl, max_lease);
  result.lease = leases.Grant(blocks, time.Exact() + absl::ToInt64Nanoseconds(ttl));
  if (result.lease == LeaseId{}) return EndLease(blocks);
  result.lease_ttl = ttl;
}

absl::StatusOr<Block*> TierCore::BeginBlock(const Key& key, size_t size_bytes, const BlockTraits& traits) {
  if (size_bytes == 0 || size_bytes > capacity_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("reserve of ", size_bytes, " bytes: a block has 1 to ", capacity_bytes, " bytes, the capacity"));
  }
  if (key.tenant >= space->tenants()) {
    return absl::InvalidArgumentError(
        absl::StrCat("reserve for tenant ", key.tenant, ": this store was made for ", space->tenants()));
  }
  CallTime time(&clock);
  if (absl::ToUnixNanos(traits.expires) <= time.Exact()) {
    return absl::InvalidArgumentError(absl::StrCat("the block would expire at ", absl::FormatTime(traits.expires),
                                                   ", which is past: give a later time"));
  }
  DropExpired(time);
  Block* block = new Block(space, key, traits);
  if (absl::Status status = index.BeginWrite(block, time); !status.ok()) {
    Block::Dispose(block);
    return status;
  }
  const Block::Room room = MakeRoom(block, size_bytes, time);
  if (room == Block::Room::kTaken) return block;
  const absl::Status refused = Refuse(*block, size_bytes, room);
  index.AbandonWrite(block);
  Block::Dispose(block);
  return refused;
}

// Evicts until the block fits. Gives up only if nothing came back while it looked: space that another thread has just
// evicted is worth another try, and so is what leases held whose time is over.
Block::Room TierCore::MakeRoom(Block* block, size_t size_bytes, CallTime& time) {
  const TenantId tenant = block->key().tenant;
  for (;;) {
    const uint64_t returns_before = space->allocator().returns();
    const bool few_enough = space->live_blocks.load(std::memory_order_relaxed) <= max_blocks;
    Block::Room room = Block::Room::kNone;
    if (few_enough) {
      room = block->TakeSpace(size_bytes, tenants == nullptr ? TenantQuotas::kNoBound : tenants->max_bytes(tenant));
    }
    if (room == Block::Room::kTaken) return room;
    const std::optional<Index::Evicted> evicted = room == Block::Room::kOverQuota
                                                      ? index.EvictOne(tenant, block->key(), time)
                                                      : EvictFor(*block, size_bytes, !few_enough, time);
    if (evicted) {
      evicted_blocks_.fetch_add(evicted->charge_bytes > 0, std::memory_order_relaxed);
      evicted_bytes_.fetch_add(evicted->charge_bytes, std::memory_order_relaxed);
      if (on_evicted && evicted->charge_bytes > 0) on_evicted(evicted->key);
    } else if (DropExpired(time) == 0 && space->allocator().returns() == returns_before) {
      return room;
    }
  }
}

// One block of whoever holds the most for its share, of bytes or of blocks, whichever is short; then of the next.
std::optional<Index::Evicted> TierCore::EvictFor(const Block& block, size_t size_bytes, bool too_many_blocks,
                                                 CallTime& time) {
  if (space->tenants() == 1) return index.EvictOne(0, block.key(), time);
  std::vector<std::pair<double, TenantId>> order;
  for (size_t i = 0; i < space->tenants(); ++i) {
    const auto tenant = static_cast<TenantId>(i);
    const Space::Held& held = space->held(tenant);
    double holds = static_cast<double>((too_many_blocks ? held.blocks : held.bytes).load(std::memory_order_relaxed));
    if (holds == 0) continue;
    if (tenant == block.key().tenant && !too_many_blocks) holds += static_cast<double>(size_bytes);
    const uint32_t share = tenants == nullptr ? 1 : tenants->share(tenant);
    order.push_back({share == 0 ? std::numeric_limits<double>::infinity() : holds / share, tenant});
  }
  while (!order.empty()) {
    const auto most = std::max_element(order.begin(), order.end());
    if (std::optional<Index::Evicted> evicted = index.EvictOne(most->second, block.key(), time)) return evicted;
    order.erase(most);
  }
  return std::nullopt;
}

absl::Status TierCore::Refuse(const Block& block, size_t size_bytes, Block::Room room) {
  refused_reservations_.fetch_add(1, std::memory_order_relaxed);
  if (room == Block::Room::kOverQuota) {
    const TenantId tenant = block.key().tenant;
    return absl::ResourceExhaustedError(absl::StrCat("no room for ", size_bytes, " bytes: of the tenant's quota of ",
                                                     tenants->max_bytes(tenant), " bytes ", Held(tenant).bytes,
                                                     " are held, and what is left of them cannot be evicted"));
  }
  if (space->tenants() > 1) {  // what others hold is not the caller's to know
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for ", size_bytes, " bytes: nothing that may go for this tenant can be evicted"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("no room for ", size_bytes, " bytes: of ", capacity_bytes, " bytes ", space->used_bytes.load(),
                   " are used (", space->pinned_bytes.Sum(), " pinned), ", space->reserved_bytes.load(), " reserved, ",
                   space->allocator().state().free_bytes, " free; ", space->live_blocks.load(), " of ", max_blocks,
                   " blocks; nothing that is left can be evicted"));
}

TenantHolding TierCore::Held(TenantId tenant) const {
  if (tenant >= space->tenants()) return {};
  const Space::Held& held = space->held(tenant);
  return {held.bytes.load(std::memory_order_relaxed), held.blocks.load(std::memory_order_relaxed)};
}

absl::StatusOr<bool> TierCore::Erase(const Key& key, MissReason why) {
  if (why != MissReason::kErased && why != MissReason::kDamaged) {
    return absl::InvalidArgumentError("erase: a block is erased by request (kErased) or as damaged (kDamaged)");
  }
  CallTime time(&clock);
  const bool erased = index.Erase(key, why, time);
  if (erased) erased_blocks_.fetch_add(1, std::memory_order_relaxed);
  return erased;
}

absl::StatusOr<BlockStore::ScanResult> TierCore::Scan(uint64_t cursor, size_t limit) {
  if (limit == 0) return absl::InvalidArgumentError("scan: limit is 0, so it would never end");
  if (!index.IsCursor(cursor)) {
    return absl::InvalidArgumentError(absl::StrCat("scan: cursor ", cursor, " is none that Scan has returned"));
  }
  CallTime time(&clock);
  return index.Scan(cursor, limit, time);
}

void TierCore::Release(LeaseId lease) {
  CallTime time(&clock);
  DropExpired(time);
  EndLease(leases.Take(lease));
}

StoreStats TierCore::Stats() {
  CallTime time(&clock);
  time.Exact();
  DropExpired(time);
  StoreStats stats;
  stats.capacity_bytes = capacity_bytes;
  stats.used_bytes = space->used_bytes.load(std::memory_order_relaxed);
  stats.pinned_bytes = space->pinned_bytes.Sum();
  stats.reserved_bytes = space->reserved_bytes.load(std::memory_order_relaxed);
  stats.blocks = index.blocks();
  stats.tokens = space->tokens.load(std::memory_order_relaxed);
  stats.plain_bytes = space->plain_units.load(std::memory_order_relaxed) * Block::kPlainUnit;
  stats.leases = leases.size();
  stats.evicted_blocks = evicted_blocks_.load(std::memory_order_relaxed);
  stats.evicted_bytes = evicted_bytes_.load(std::memory_order_relaxed);
  stats.erased_blocks = erased_blocks_.load(std::memory_order_relaxed);
  stats.expired_leases = expired_leases.load(std::memory_order_relaxed);
  stats.expired_blocks = index.expired_blocks();
  stats.refused_reservations = refused_reservations_.load(std::memory_order_relaxed);
  return stats;
}

bool TierCore::DropExpired() {
  CallTime time(&clock);
  time.Exact();
  return DropExpired(time) >= kMostDropped;
}

// Returns how many blocks were dropped or let go.
size_t TierCore::DropExpired(CallTime& time) {
  size_t dropped = index.DropExpired(kMostDropped, time);
  if (!leases.any()) return dropped;
  const std::vector<LeasedBlocks> expired = leases.TakeExpired(time.Exact(), kMostDropped);
  for (const LeasedBlocks& blocks : expired) {
    EndLease(blocks);
    dropped += blocks.size();
  }
  if (!expired.empty()) expired_leases.fetch_add(expired.size(), std::memory_order_relaxed);
  return dropped;
}

WrittenBlock::~WrittenBlock() {
  if (block_ == nullptr) return;
  AbandonName();
  Block::Dispose(block_);
}

void WrittenBlock::AbandonName() {
  if (named_ && block_ != nullptr) core_->index.AbandonWrite(block_);
  named_ = false;
}

absl::Status WrittenBlock::CheckWrite(size_t offset, size_t size_bytes) const {
  if (spent()) return Spent();
  const size_t reserved = block_->size_bytes();
  if (offset <= reserved && size_bytes <= reserved - offset) return absl::OkStatus();
  return absl::OutOfRangeError(
      absl::StrCat("write of ", size_bytes, " bytes at ", offset, " into a reservation of ", reserved, " bytes"));
}

absl::Status WrittenBlock::CheckCommit(size_t size_bytes) const {
  if (spent()) return Spent();
  if (size_bytes > 0 && size_bytes <= block_->size_bytes()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("commit of ", size_bytes, " bytes of a reservation of ", block_->size_bytes(), " bytes"));
}

absl::Status WrittenBlock::Publish(size_t size_bytes) {
  block_->Finish(size_bytes);
  absl::Status published = core_->index.Publish(block_, core_->clock.Recent());
  if (!published.ok()) {
    AbandonName();
    Block::Dispose(block_);
  }
  block_ = nullptr;
  return published;
}

}  // namespace kvist
