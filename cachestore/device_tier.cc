#include "cachestore/device_tier.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvist {
namespace {

// Lease ids of device tiers, so that they never meet those of a host tier, which count up from the clock's nanoseconds.
constexpr uint64_t kFirstLeaseBit = uint64_t{1} << 62;

absl::Status Validate(const DeviceTierOptions& options) {
  std::vector<std::string> wrong;
  if (options.device == nullptr) wrong.push_back("device is missing");
  if (options.capacity_bytes < TierRules::kMinCapacityBytes) {
    wrong.push_back(
        absl::StrCat("capacity_bytes is ", options.capacity_bytes, ", less than ", TierRules::kMinCapacityBytes));
  }
  if (options.staging_bytes < DeviceTierOptions::kMinStagingBytes) {
    wrong.push_back(
        absl::StrCat("staging_bytes is ", options.staging_bytes, ", less than ", DeviceTierOptions::kMinStagingBytes));
  }
  if (options.copy_deadline <= absl::ZeroDuration()) {
    wrong.push_back(absl::StrCat("copy_deadline is ", absl::FormatDuration(options.copy_deadline), ", not positive"));
  }
  ListWrongRules(options, wrong);
  if (wrong.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("device tier: ", absl::StrJoin(wrong, "; ")));
}

constexpr uint64_t WholeGranules(uint64_t bytes) { return bytes / Allocator::kGranularity * Allocator::kGranularity; }

DeviceExtents Place(DeviceAddress base, const Block& block) {
  DeviceExtents extents;
  uint64_t left = block.size_bytes();
  for (const Extent& extent : block.extents()) {
    extents.push_back({base + extent.offset, std::min(left, extent.size_bytes)});
    left -= extents.back().size_bytes;
  }
  return extents;
}

// The pin keeps the block, the block keeps the memory.
class BlockOnDevice final : public DevicePin {
 public:
  BlockOnDevice(DeviceAddress base, Block* block) : block_(block), extents_(Place(base, *block)) {}
  uint64_t size_bytes() const override { return block_->size_bytes(); }
  absl::Span<const DeviceExtent> extents() const override { return extents_; }

 private:
  const BlockRef block_;
  const DeviceExtents extents_;
};

}  // namespace

// What references and reservations need beyond the life of the DeviceTier. The core's space keeps device and memory.
struct DeviceTier::Parts {
  std::shared_ptr<Device> device;
  std::shared_ptr<DeviceMemory> memory;
  std::shared_ptr<TierCore> core;
  std::unique_ptr<Staging> staging;  // goes before what its late copies hold

  absl::Status NoStaging(uint64_t size_bytes) const {
    return absl::ResourceExhaustedError(absl::StrCat("no staging room for ", size_bytes, " bytes: of ",
                                                     staging->size_bytes(), " bytes ", staging->free_bytes(),
                                                     " are free; try again when readers have let go"));
  }
};

// A copy for the host, in the staging.
class DeviceTier::StagedBlock final : public PinnedBlock {
 public:
  StagedBlock(std::shared_ptr<Parts> parts, Staging::BufferRef buffer)
      : parts_(std::move(parts)), buffer_(std::move(buffer)) {}
  size_t size_bytes() const override { return buffer_->size_bytes(); }
  absl::Span<const absl::Span<const uint8_t>> pieces() const override { return buffer_->pieces(); }
  void Unpin() override { delete this; }

 private:
  const std::shared_ptr<Parts> parts_;  // outlives the buffer
  const Staging::BufferRef buffer_;
};

class DeviceTier::StagedReservation final : public Reservation {
 public:
  StagedReservation(std::shared_ptr<Parts> parts, std::unique_ptr<DeviceReservation> place, Staging::BufferRef buffer)
      : parts_(std::move(parts)), place_(std::move(place)), buffer_(std::move(buffer)) {}

  absl::Status Write(size_t offset, absl::Span<const uint8_t> bytes) override {
    if (absl::Status status = place_->written().CheckWrite(offset, bytes.size()); !status.ok()) return status;
    buffer_->Write(offset, bytes);
    return absl::OkStatus();
  }
  absl::Span<const absl::Span<const uint8_t>> pieces() const override {
    if (place_->written().spent()) return {};
    return buffer_->pieces();
  }
  void SetContent(const BlockContent& content) override {
    if (!place_->written().spent()) place_->written().block()->SetContent(content);
  }
  absl::Status Commit(size_t size_bytes) override {
    WrittenBlock& written = place_->written();
    if (absl::Status status = written.CheckCommit(size_bytes); !status.ok()) return status;
    const Staging::Target target{parts_->memory->base(), &written.block()->extents(), 0, size_bytes};
    absl::Status status = parts_->staging->CopyToDevice(target, buffer_, place_->Hold());
    status = status.ok() ? place_->Commit(size_bytes) : status;
    if (!status.ok()) place_->Abandon();
    buffer_.reset();
    return status;
  }

 private:
  const std::shared_ptr<Parts> parts_;  // outlives the buffer
  const std::unique_ptr<DeviceReservation> place_;
  Staging::BufferRef buffer_;
};

DeviceReservation::DeviceReservation(std::shared_ptr<TierCore> core, DeviceAddress base, Block* block)
    : written_(std::make_shared<WrittenBlock>(std::move(core), block)),
      size_bytes_(block->size_bytes()),
      extents_(Place(base, *block)) {}

absl::Status DeviceReservation::Commit(size_t size_bytes) {
  if (absl::Status status = written_->CheckCommit(size_bytes); !status.ok()) return status;
  return written_->Publish(size_bytes);
}

void DeviceReservation::Abandon() { written_->AbandonName(); }

absl::StatusOr<std::unique_ptr<DeviceTier>> DeviceTier::Create(const DeviceTierOptions& options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  auto memory = options.device->Allocate(WholeGranules(options.capacity_bytes));
  if (!memory.ok()) return memory.status();
  auto staging = Staging::Create(options.device, WholeGranules(options.staging_bytes), options.copy_deadline);
  if (!staging.ok()) return staging.status();
  const auto parts = std::make_shared<Parts>();
  parts->device = options.device;
  // The last block may outlive the tier: it keeps the memory, and that its device.
  parts->memory =
      std::shared_ptr<DeviceMemory>(memory->release(), [device = options.device](DeviceMemory* last) mutable {
        delete last;
        device.reset();
      });
  const uint64_t first_lease = kFirstLeaseBit + std::max<int64_t>(1, absl::ToUnixNanos(options.clock()));
  parts->core = std::make_shared<TierCore>(
      options, std::make_shared<Space>(parts->memory, parts->memory->size_bytes(), TenantsOf(options)), first_lease);
  parts->staging = *std::move(staging);
  return std::unique_ptr<DeviceTier>(new DeviceTier(parts));
}

DeviceTier::~DeviceTier() { parts_->core->Close(); }

absl::StatusOr<MatchResult> DeviceTier::Match(absl::Span<const Key> chain, absl::Duration lease_ttl) {
  return parts_->core->Match(chain, lease_ttl);
}

absl::StatusOr<Lookup> DeviceTier::Get(const Key& key, bool touch) {
  CallTime time(&parts_->core->clock);
  std::optional<Removal> removal;
  const Index::Found found = parts_->core->index.Pin(key, time, touch, &removal);
  Lookup lookup;
  if (found.block == nullptr) {
    lookup.miss = found.miss;
    if (!removal) return lookup;
    lookup.gone = FromNanos(removal->when_ns);
    lookup.made_room_for = removal->made_room_for;
    return lookup;
  }
  // Held until the copy is done, however late that is.
  const std::shared_ptr<Block> pinned(found.block, UnpinDeleter());
  Staging::BufferRef buffer = parts_->staging->Take(pinned->size_bytes());
  if (buffer == nullptr) return parts_->NoStaging(pinned->size_bytes());
  const Staging::Target source{base(), &pinned->extents(), 0, pinned->size_bytes()};
  if (absl::Status status = parts_->staging->CopyToHost(buffer, source, pinned); !status.ok()) return status;
  lookup.block = BlockRef(new StagedBlock(parts_, std::move(buffer)));
  lookup.traits = pinned->traits();
  lookup.tier = Tier::kDevice;
  return lookup;
}

absl::StatusOr<DeviceLookup> DeviceTier::GetOnDevice(const Key& key) {
  CallTime time(&parts_->core->clock);
  const Index::Found found = parts_->core->index.Pin(key, time, /*touch=*/true, /*gone=*/nullptr);
  DeviceLookup lookup;
  lookup.miss = found.miss;
  if (found.block == nullptr) return lookup;
  lookup.tier = Tier::kDevice;
  lookup.pin = std::make_unique<BlockOnDevice>(base(), found.block);
  return lookup;
}

absl::StatusOr<std::unique_ptr<Reservation>> DeviceTier::Reserve(const Key& key, size_t size_bytes,
                                                                 const BlockTraits& traits) {
  absl::StatusOr<std::unique_ptr<DeviceReservation>> place = ReserveOnDevice(key, size_bytes, traits);
  if (!place.ok()) return place.status();
  Staging::BufferRef buffer = parts_->staging->Take(size_bytes);
  if (buffer == nullptr) return parts_->NoStaging(size_bytes);
  return std::make_unique<StagedReservation>(parts_, *std::move(place), std::move(buffer));
}

absl::StatusOr<std::unique_ptr<DeviceReservation>> DeviceTier::ReserveOnDevice(const Key& key, size_t size_bytes,
                                                                               const BlockTraits& traits) {
  const absl::StatusOr<Block*> block = parts_->core->BeginBlock(key, size_bytes, traits);
  if (!block.ok()) return block.status();
  return std::make_unique<DeviceReservation>(parts_->core, base(), *block);
}

absl::StatusOr<bool> DeviceTier::Erase(const Key& key, MissReason why) { return parts_->core->Erase(key, why); }

absl::StatusOr<BlockStore::ScanResult> DeviceTier::Scan(uint64_t cursor, size_t limit) {
  return parts_->core->Scan(cursor, limit);
}

absl::Status DeviceTier::Release(LeaseId lease) {
  parts_->core->Release(lease);
  return absl::OkStatus();
}

absl::StatusOr<StoreStats> DeviceTier::Stats() { return parts_->core->Stats(); }
bool DeviceTier::DropExpired() { return parts_->core->DropExpired(); }
const DeviceMemory& DeviceTier::memory() const { return *parts_->memory; }
Device& DeviceTier::device() const { return *parts_->device; }
uint64_t DeviceTier::staging_bytes() const { return parts_->staging->size_bytes(); }
uint64_t DeviceTier::staging_free_bytes() const { return parts_->staging->free_bytes(); }
uint64_t DeviceTier::late_copies() const { return parts_->staging->late_copies(); }
const std::shared_ptr<TierCore>& DeviceTier::core() const { return parts_->core; }
Staging& DeviceTier::staging() const { return *parts_->staging; }

}  // namespace kvist
