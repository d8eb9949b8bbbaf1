// The store of one node in the memory of an accelerator: BlockStore over one arena that is taken whole at start, with the
// index, leases and eviction of the host tier (tier_core.h).
//
// Units    bytes, as in host_tier.h: a block's charge is its size rounded up to 64.
// Threads  every method from any thread; one DeviceReservation from one thread at a time.
// Waiting  Get and Commit of the waist copy through the staging and wait for the device, at most `copy_deadline`.
//          Nothing else here waits for it.
// Life     references and reservations may outlive the DeviceTier. A Commit after it is gone is FailedPrecondition.
// Memory   the arena on the device, `staging_bytes` of pinned memory, and on the heap what a host tier takes for as many
//          blocks.
// Errors   beyond those of BlockStore:
//          ResourceExhausted  also: no staging room. Readers that drop their pins bring it back.
//          DeadlineExceeded   the device was not done in time. The block stays as it is; a written one is gone.
//          Unavailable        the device has failed, for good.
//
// What BlockStore leaves open, where it differs from the host tier:
//   Get      hands out a copy in the staging. The reader holds that, and nothing on the device.
//   Reserve  of the waist takes staging for the whole block as well as its place on the device. Commit copies, and
//            publishes when the copy is done.
// Beside the waist, for those who reach device memory themselves (kernels, CUDA IPC, NCCL):
//   GetOnDevice, ReserveOnDevice: no staging, no copy, no wait.
#ifndef KVIST_CACHESTORE_DEVICE_TIER_H_
#define KVIST_CACHESTORE_DEVICE_TIER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/block_store.h"
#include "cachestore/device.h"
#include "cachestore/device_blocks.h"
#include "cachestore/staging.h"
#include "cachestore/tier_core.h"
#include "cachestore/tier_rules.h"

namespace kvist {

using DeviceExtents = absl::InlinedVector<DeviceExtent, 2>;

struct DeviceTierOptions : TierRules {
  std::shared_ptr<Device> device;
  uint64_t capacity_bytes = 0;                  // rounded down to 64; at least kMinCapacityBytes
  uint64_t staging_bytes = uint64_t{64} << 20;  // rounded down to 64; at least kMinStagingBytes
  absl::Duration copy_deadline = absl::Seconds(2);

  static constexpr uint64_t kMinStagingBytes = uint64_t{64} << 10;
};

// Space on the device for one block, and nobody else's until Commit or destruction (which aborts it).
class DeviceReservation {
 public:
  DeviceReservation(std::shared_ptr<TierCore> core, DeviceAddress base, Block* block);

  uint64_t size_bytes() const { return size_bytes_; }
  const DeviceExtents& extents() const { return extents_; }
  // Publishes the first `size_bytes` bytes as the block. REQUIRES: whatever was written is done on the device.
  // Errors: those of Reservation::Commit.
  absl::Status Commit(size_t size_bytes);
  // The space is not given back while somebody keeps this: whoever lets the device write takes it along.
  std::shared_ptr<void> Hold() const { return written_; }
  // The key is free at once, whoever holds the space.
  void Abandon();

  WrittenBlock& written() { return *written_; }  // for those who move blocks between tiers

 private:
  std::shared_ptr<WrittenBlock> written_;
  const uint64_t size_bytes_;
  const DeviceExtents extents_;
};

class DeviceTier final : public BlockStore, public DeviceBlocks {
 public:
  // Errors: InvalidArgument    names every option that is wrong.
  //         ResourceExhausted  the device or the host has not so much; the message says what was asked and what is free.
  //         Unavailable        the device has failed.
  static absl::StatusOr<std::unique_ptr<DeviceTier>> Create(const DeviceTierOptions& options);
  ~DeviceTier() override;

  absl::StatusOr<MatchResult> Match(absl::Span<const Key> chain, absl::Duration lease_ttl) override;
  absl::StatusOr<Lookup> Get(const Key& key, bool touch = true) override;
  absl::StatusOr<std::unique_ptr<Reservation>> Reserve(const Key& key, size_t size_bytes,
                                                       const BlockTraits& traits = {}) override;
  absl::StatusOr<bool> Erase(const Key& key, MissReason why = MissReason::kErased) override;
  absl::StatusOr<ScanResult> Scan(uint64_t cursor, size_t limit) override;
  absl::Status Release(LeaseId lease) override;
  absl::StatusOr<StoreStats> Stats() override;
  [[nodiscard]] bool DropExpired();  // as HostTier's

  absl::StatusOr<DeviceLookup> GetOnDevice(const Key& key) override;
  absl::StatusOr<std::unique_ptr<DeviceReservation>> ReserveOnDevice(const Key& key, size_t size_bytes,
                                                                     const BlockTraits& traits = {});

  // The arena, whole: to export it (CUDA IPC) or to register it (NCCL).
  const DeviceMemory& memory() const;
  Device& device() const;
  uint64_t staging_bytes() const;
  uint64_t staging_free_bytes() const;
  uint64_t late_copies() const;  // whose deadline has passed and that the device still has

  // For TieredStore, which moves blocks between tiers.
  const std::shared_ptr<TierCore>& core() const;
  Staging& staging() const;
  DeviceAddress base() const { return memory().base(); }

 private:
  struct Parts;
  class StagedBlock;
  class StagedReservation;
  explicit DeviceTier(std::shared_ptr<Parts> parts) : parts_(std::move(parts)) {}

  const std::shared_ptr<Parts> parts_;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_DEVICE_TIER_H_
