#include "cachestore/host_tier.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cachestore/arena.h"
#include "cachestore/tier_core.h"

namespace kvist {
namespace {

absl::Status Validate(const HostTierOptions& options) {
  std::vector<std::string> wrong;
  if (options.capacity_bytes < TierRules::kMinCapacityBytes) {
    wrong.push_back(
        absl::StrCat("capacity_bytes is ", options.capacity_bytes, ", less than ", TierRules::kMinCapacityBytes));
  }
  ListWrongRules(options, wrong);
  if (wrong.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("host tier: ", absl::StrJoin(wrong, "; ")));
}

class HostReservation final : public Reservation {
 public:
  HostReservation(std::shared_ptr<TierCore> core, Block* block) : written_(std::move(core), block) {}

  absl::Status Write(size_t offset, absl::Span<const uint8_t> bytes) override {
    if (absl::Status status = written_.CheckWrite(offset, bytes.size()); !status.ok()) return status;
    written_.block()->CopyIn(offset, bytes);
    return absl::OkStatus();
  }
  absl::Span<const absl::Span<const uint8_t>> pieces() const override {
    if (written_.spent()) return {};
    return written_.block()->pieces();
  }
  void SetContent(const BlockContent& content) override {
    if (!written_.spent()) written_.block()->SetContent(content);
  }
  absl::Status Commit(size_t size_bytes) override {
    if (absl::Status status = written_.CheckCommit(size_bytes); !status.ok()) return status;
    return written_.Publish(size_bytes);
  }

 private:
  WrittenBlock written_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::Create(const HostTierOptions& options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Arena>> arena =
      Arena::Create({.size_bytes = options.capacity_bytes / Allocator::kGranularity * Allocator::kGranularity,
                     .huge_pages = options.huge_pages,
                     .prefault = options.prefault});
  if (!arena.ok()) return arena.status();
  // From the clock, so that a lease of an earlier process is unknown to this one.
  const int64_t first_lease = std::max<int64_t>(1, absl::ToUnixNanos(options.clock()));
  return std::unique_ptr<HostTier>(new HostTier(std::make_shared<TierCore>(
      options, std::make_shared<Space>(*std::move(arena), TenantsOf(options)), first_lease)));
}

HostTier::~HostTier() { core_->Close(); }

absl::StatusOr<MatchResult> HostTier::Match(absl::Span<const Key> chain, absl::Duration lease_ttl) {
  return core_->Match(chain, lease_ttl);
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
  const absl::StatusOr<Block*> block = core_->BeginBlock(key, size_bytes, traits);
  if (!block.ok()) return block.status();
  return std::make_unique<HostReservation>(core_, *block);
}

absl::StatusOr<bool> HostTier::Erase(const Key& key, MissReason why) { return core_->Erase(key, why); }

absl::StatusOr<BlockStore::ScanResult> HostTier::Scan(uint64_t cursor, size_t limit) {
  return core_->Scan(cursor, limit);
}

absl::Status HostTier::Release(LeaseId lease) {
  core_->Release(lease);
  return absl::OkStatus();
}

absl::StatusOr<StoreStats> HostTier::Stats() { return core_->Stats(); }

bool HostTier::DropExpired() { return core_->DropExpired(); }

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
