#include "cachestore/host_tier.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cachestore/allocator.h"
#include "cachestore/arena.h"
#include "cachestore/block.h"
#include "cachestore/call_time.h"
#include "cachestore/index.h"
#include "cachestore/leases.h"

namespace kvist {
namespace {

absl::Status Validate(const HostTierOptions& options) {
  std::vector<std::string> wrong;
  if (options.capacity_bytes < HostTierOptions::kMinCapacityBytes) {
    wrong.push_back(
        absl::StrCat("capacity_bytes is ", options.capacity_bytes, ", less than ", HostTierOptions::kMinCapacityBytes));
  }
  if (!options.clock) wrong.push_back("clock is missing");
  if (options.max_lease <= absl::ZeroDuration()) {
    wrong.push_back(absl::StrCat("max_lease is ", absl::FormatDuration(options.max_lease), ", not positive"));
  }
  if (!(options.max_pinned_fraction >= 0.0 && options.max_pinned_fraction <= 1.0)) {
    wrong.push_back(absl::StrCat("max_pinned_fraction is ", options.max_pinned_fraction, ", not in [0, 1]"));
  }
  if (!std::has_single_bit(options.index_shards) || options.index_shards > HostTierOptions::kMaxShards) {
    wrong.push_back(absl::StrCat("index_shards is ", options.index_shards, ", not a power of two up to ",
                                 HostTierOptions::kMaxShards));
  }
  if (options.remembered_removals > HostTierOptions::kMaxRememberedRemovals) {
    wrong.push_back(absl::StrCat("remembered_removals is ", options.remembered_removals, ", more than ",
                                 HostTierOptions::kMaxRememberedRemovals));
  }
  if (wrong.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("host tier: ", absl::StrJoin(wrong, "; ")));
}

}  // namespace

// What references and reservations need beyond the life of the HostTier.
struct HostTier::Core {
  Core(const HostTierOptions& options, std::unique_ptr<Arena> arena)
      : clock(options.clock),
        max_lease(options.max_lease),
        capacity_bytes(arena->size_bytes()),
        max_blocks(options.max_blocks != 0 ? options.max_blocks : capacity_bytes / 4096 + 1024),
        space(std::make_shared<Space>(std::move(arena))),
        index({.shards = options.index_shards,
               .remembered_removals = options.remembered_removals,
               .leased_bytes_limit = static_cast<uint64_t>(capacity_bytes * options.max_pinned_fraction)}),
        leases(std::max<int64_t>(1, clock.Recent())) {}

  void EndLease(const LeasedBlocks& blocks) {
    for (Block* block : blocks) index.EndLease(block);
  }
  size_t DropExpired(CallTime& time);
  MatchResult CountHits(absl::Span<const Key> chain, CallTime& time);
  void GrantLease(absl::Span<const Key> chain, absl::Duration lease_ttl, CallTime& time, MatchResult& result);
  bool MakeRoom(Block* block, size_t size_bytes, CallTime& time);
  absl::Status Refuse(size_t size_bytes);

  StoreClock clock;
  // Constant after construction.
  const absl::Duration max_lease;
  const uint64_t capacity_bytes;
  const uint64_t max_blocks;
  const std::shared_ptr<Space> space;

  Index index;
  Leases leases;
  std::atomic<uint64_t> evicted_blocks{0};
  std::atomic<uint64_t> evicted_bytes{0};
  std::atomic<uint64_t> erased_blocks{0};
  std::atomic<uint64_t> expired_leases{0};
  std::atomic<uint64_t> refused_reservations{0};
};

// Owns a written block: its name in the index and its space.
class HostTier::HostReservation final : public Reservation {
 public:
  HostReservation(std::shared_ptr<Core> core, Block* block) : core_(std::move(core)), block_(block) {}
  ~HostReservation() override {
    if (block_ != nullptr) Abort();
  }

  absl::Status Write(size_t offset, absl::Span<const uint8_t> bytes) override {
    if (block_ == nullptr) return Spent();
    const size_t reserved = block_->size_bytes();
    if (offset > reserved || bytes.size() > reserved - offset) {
      return absl::OutOfRangeError(
          absl::StrCat("write of ", bytes.size(), " bytes at ", offset, " into a reservation of ", reserved, " bytes"));
    }
    block_->CopyIn(offset, bytes);
    return absl::OkStatus();
  }

  absl::Span<const absl::Span<const uint8_t>> pieces() const override {
    if (block_ == nullptr) return {};
    return block_->pieces();
  }

  absl::Status Commit(size_t size_bytes) override {
    if (block_ == nullptr) return Spent();
    if (size_bytes == 0 || size_bytes > block_->size_bytes()) {
      return absl::InvalidArgumentError(
          absl::StrCat("commit of ", size_bytes, " bytes of a reservation of ", block_->size_bytes(), " bytes"));
    }
    block_->Finish(size_bytes);
    absl::Status published = core_->index.Publish(block_, core_->clock.Recent());
    if (!published.ok()) Abort();
    block_ = nullptr;
    return published;
  }

 private:
  static absl::Status Spent() { return absl::FailedPreconditionError("the reservation is spent"); }
  void Abort() {
    core_->index.AbandonWrite(block_);
    Block::Dispose(block_);
    block_ = nullptr;
  }

  const std::shared_ptr<Core> core_;
  Block* block_;  // null once spent
};

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::Create(const HostTierOptions& options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Arena>> arena =
      Arena::Create({.size_bytes = options.capacity_bytes / Allocator::kGranularity * Allocator::kGranularity,
                     .huge_pages = options.huge_pages,
                     .prefault = options.prefault});
  if (!arena.ok()) return arena.status();
  return std::unique_ptr<HostTier>(new HostTier(std::make_shared<Core>(options, *std::move(arena))));
}

HostTier::~HostTier() {
  for (const LeasedBlocks& blocks : core_->leases.TakeAll()) core_->EndLease(blocks);
  core_->index.Close();
}

absl::StatusOr<MatchResult> HostTier::Match(absl::Span<const Key> chain, absl::Duration lease_ttl) {
  const bool wants_lease = lease_ttl > absl::ZeroDuration();
  CallTime time(&core_->clock);
  time.Exact();
  if (wants_lease) core_->DropExpired(time);
  MatchResult result = core_->CountHits(chain, time);
  if (wants_lease && result.hits > 0) core_->GrantLease(chain, lease_ttl, time, result);
  if (result.lease == LeaseId{}) {
    for (size_t i = result.hits; i-- > 0;) core_->index.Touch(chain[i], time);
  }
  return result;
}

MatchResult HostTier::Core::CountHits(absl::Span<const Key> chain, CallTime& time) {
  MatchResult result;
  for (const Key& key : chain) {
    const Index::Found found = index.Probe(key, time);
    if (found.size_bytes == 0) {
      result.miss = found.miss;
      break;
    }
    ++result.hits;
    result.hit_bytes += found.size_bytes;
  }
  return result;
}

// Pins the hits, deepest first. A block may have gone since it was counted: then the chain ends there.
void HostTier::Core::GrantLease(absl::Span<const Key> chain, absl::Duration lease_ttl, CallTime& time,
                                MatchResult& result) {
  MatchResult granted = result;
  granted.hit_bytes = 0;
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
  }
  result = granted;
  if (blocks.empty()) return;
  const absl::Duration ttl = std::min(lease_ttl, max_lease);
  result.lease = leases.Grant(blocks, time.Exact() + absl::ToInt64Nanoseconds(ttl));
  if (result.lease == LeaseId{}) return EndLease(blocks);
  result.lease_ttl = ttl;
}

absl::StatusOr<Lookup> HostTier::Get(const Key& key, bool touch) {
  CallTime time(&core_->clock);
  std::optional<Removal> removal;
  const Index::Found found = core_->index.Pin(key, time, touch, &removal);
  absl::StatusOr<Lookup> lookup(absl::in_place);
  if (found.block != nullptr) {
    lookup->block = BlockRef(found.block);
    lookup->traits.group = found.block->group();
    if (found.block->expires()) lookup->traits = found.block->traits();
    lookup->tier = Tier::kHost;
    return lookup;
  }
  lookup->miss = found.miss;
  if (!removal) return lookup;
  lookup->gone = FromNanos(removal->when_ns);
  lookup->made_room_for = removal->made_room_for;
  return lookup;
}

absl::StatusOr<std::unique_ptr<Reservation>> HostTier::Reserve(const Key& key, size_t size_bytes,
                                                               const BlockTraits& traits) {
  if (size_bytes == 0 || size_bytes > core_->capacity_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("reserve of ", size_bytes, " bytes: a block has 1 to ",
                                                   core_->capacity_bytes, " bytes, the capacity"));
  }
  CallTime time(&core_->clock);
  if (absl::ToUnixNanos(traits.expires) <= time.Exact()) {
    return absl::InvalidArgumentError(absl::StrCat("the block would expire at ", absl::FormatTime(traits.expires),
                                                   ", which is past: give a later time"));
  }
  core_->DropExpired(time);
  Block* block = new Block(core_->space, key, traits);
  if (absl::Status status = core_->index.BeginWrite(block, time); !status.ok()) {
    Block::Dispose(block);
    return status;
  }
  auto reservation = std::make_unique<HostReservation>(core_, block);
  if (!core_->MakeRoom(block, size_bytes, time)) return core_->Refuse(size_bytes);
  return std::unique_ptr<Reservation>(std::move(reservation));
}

// Evicts until the block fits. Gives up only if nothing came back while it looked: space that another thread has just
// evicted is worth another try, and so is what leases held whose time is over.
bool HostTier::Core::MakeRoom(Block* block, size_t size_bytes, CallTime& time) {
  for (;;) {
    const uint64_t returns_before = space->allocator().returns();
    const bool few_enough = space->live_blocks.load(std::memory_order_relaxed) <= max_blocks;
    if (few_enough && block->TakeSpace(size_bytes)) return true;
    if (const std::optional<uint64_t> charge_bytes = index.EvictOne(block->key(), time)) {
      evicted_blocks.fetch_add(*charge_bytes > 0, std::memory_order_relaxed);
      evicted_bytes.fetch_add(*charge_bytes, std::memory_order_relaxed);
    } else if (DropExpired(time) == 0 && space->allocator().returns() == returns_before) {
      return false;
    }
  }
}

absl::Status HostTier::Core::Refuse(size_t size_bytes) {
  refused_reservations.fetch_add(1, std::memory_order_relaxed);
  return absl::ResourceExhaustedError(
      absl::StrCat("no room for ", size_bytes, " bytes: of ", capacity_bytes, " bytes ", space->used_bytes.load(),
                   " are used (", space->pinned_bytes.Sum(), " pinned), ", space->reserved_bytes.load(), " reserved, ",
                   space->allocator().state().free_bytes, " free; ", space->live_blocks.load(), " of ", max_blocks,
                   " blocks; nothing that is left can be evicted"));
}

absl::StatusOr<bool> HostTier::Erase(const Key& key, MissReason why) {
  if (why != MissReason::kErased && why != MissReason::kDamaged) {
    return absl::InvalidArgumentError("erase: a block is erased by request (kErased) or as damaged (kDamaged)");
  }
  CallTime time(&core_->clock);
  const bool erased = core_->index.Erase(key, why, time);
  if (erased) core_->erased_blocks.fetch_add(1, std::memory_order_relaxed);
  return erased;
}

absl::StatusOr<BlockStore::ScanResult> HostTier::Scan(uint64_t cursor, size_t limit) {
  if (limit == 0) return absl::InvalidArgumentError("scan: limit is 0, so it would never end");
  if (!core_->index.IsCursor(cursor)) {
    return absl::InvalidArgumentError(absl::StrCat("scan: cursor ", cursor, " is none that Scan has returned"));
  }
  CallTime time(&core_->clock);
  return core_->index.Scan(cursor, limit, time);
}

absl::Status HostTier::Release(LeaseId lease) {
  CallTime time(&core_->clock);
  core_->DropExpired(time);
  core_->EndLease(core_->leases.Take(lease));
  return absl::OkStatus();
}

absl::StatusOr<StoreStats> HostTier::Stats() {
  CallTime time(&core_->clock);
  time.Exact();
  core_->DropExpired(time);
  StoreStats stats;
  stats.capacity_bytes = core_->capacity_bytes;
  stats.used_bytes = core_->space->used_bytes.load(std::memory_order_relaxed);
  stats.pinned_bytes = core_->space->pinned_bytes.Sum();
  stats.reserved_bytes = core_->space->reserved_bytes.load(std::memory_order_relaxed);
  stats.blocks = core_->index.blocks();
  stats.leases = core_->leases.size();
  stats.evicted_blocks = core_->evicted_blocks.load(std::memory_order_relaxed);
  stats.evicted_bytes = core_->evicted_bytes.load(std::memory_order_relaxed);
  stats.erased_blocks = core_->erased_blocks.load(std::memory_order_relaxed);
  stats.expired_leases = core_->expired_leases.load(std::memory_order_relaxed);
  stats.expired_blocks = core_->index.expired_blocks();
  stats.refused_reservations = core_->refused_reservations.load(std::memory_order_relaxed);
  return stats;
}

bool HostTier::DropExpired() {
  CallTime time(&core_->clock);
  time.Exact();
  return core_->DropExpired(time) >= kMostDropped;
}

// Returns how many blocks were dropped or let go.
size_t HostTier::Core::DropExpired(CallTime& time) {
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

bool HostTier::FlipBitsForTest(const Key& key, uint64_t offset, uint8_t mask) {
  CallTime time(&core_->clock);
  const Index::Found found = core_->index.Pin(key, time, /*touch=*/false, /*gone=*/nullptr);
  if (found.block == nullptr) return false;
  const bool flipped = found.block->FlipForTest(offset, mask);
  found.block->Unpin();
  return flipped;
}

bool HostTier::huge_pages_advised() const { return core_->space->arena().huge_pages_advised(); }
uint64_t HostTier::HugePageBytes() const { return core_->space->arena().HugePageBytes(); }

}  // namespace kvist
