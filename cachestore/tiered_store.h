// A host tier and a device tier behind one BlockStore. Writers write to the host tier; what readers of device memory ask
// for again is copied up, and what the device would evict and the host does not have is copied down (tier_mover.h).
//
// Units    bytes. A block in both tiers is charged in both.
// Threads  every method from any thread. Two mutexes of its own (of the mover, of the device's end), each held for a moment.
// Waiting  only a host read of a block that is on the device alone waits, for one copy through the staging, at most
//          `copy_deadline`. Everything else costs what it costs in the tiers; a Get of a host block one call more.
// Errors   of Get, for a block on the device alone: ResourceExhausted (no staging room), DeadlineExceeded (the device
//          was not done). Both may be tried again.
//
// What BlockStore leaves open, beyond host_tier.h:
//   Get      finds a block in the host tier, or copies it for the reader (tier = kDevice). It promotes nothing: who reads
//            by the host needs nothing on the device.
//   GetOnDevice  pins it on the device, or says that it is in the host tier, and counts towards a promotion.
//   Reserve  of the waist takes host space: Stats().capacity_bytes is the sum, a block has at most the host's share.
//            Two writers that reserve one key in both tiers in the same instant may both be let through; both blocks
//            stand then, each whole, and an Erase takes both.
//   Match    touches in both tiers, each deepest first: each tier evicts leaves before parents. A lease pins a hit where
//            the host finds it, or else on the device; it has one id, whatever it holds.
//   Scan     lists a block once, with the figures of the tier that lists it (the host's, if it has the block). One that
//            moves between the tiers while a scan passes may be listed twice, and is never missed.
//   misses   tell the later of what both tiers remember.
//   Stats    is the sum of both tiers: a block in both counts twice, a lease over both too. `tiers` has them apart.
//
// The device's end. A device that fails (Unavailable, or so many deadlines in a row) is dropped for good: its blocks are
// misses (kTierLost, with the time) unless the host has them, what reads host memory goes on, and `tiers` says so.
// Pins that were given out stay valid as objects; their memory is the device's own affair.
#ifndef KVIST_CACHESTORE_TIERED_STORE_H_
#define KVIST_CACHESTORE_TIERED_STORE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "cachestore/device_blocks.h"
#include "cachestore/device_tier.h"
#include "cachestore/host_tier.h"
#include "cachestore/life_figures.h"
#include "cachestore/tier_mover.h"

namespace kvist {

enum class DeviceState : uint8_t {
  kNone,   // the store was made without one
  kReady,  //
  kLost    // it failed, and was dropped
};

struct TierFigures {
  StoreStats host, device;  // of a lost device: empty
  LifeFigures host_life, device_life;
  uint64_t host_hits = 0, device_hits = 0;  // Gets that touched, by the tier that served them
  TierMover::Figures moves;
  uint64_t lost_to_eviction = 0;  // blocks that the device evicted and the host did not have
  uint64_t dropped_copies = 0;    // by DropDeviceCopy
  uint64_t staging_bytes = 0, staging_free_bytes = 0, late_copies = 0;
  DeviceState state = DeviceState::kNone;
  std::string why_lost;
};

class TieredStore final : public BlockStore, public DeviceBlocks {
 public:
  static constexpr int kDeadlinesUntilLost = 8;  // in a row

  // Both tiers run by one clock. `device` may be null: then this is the host tier. REQUIRES: `host`.
  TieredStore(std::unique_ptr<HostTier> host, std::unique_ptr<DeviceTier> device, const MoveRules& rules);
  ~TieredStore() override;

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
  // Space on the device, for who writes there itself. As Reserve; and Unavailable when there is no device (any more).
  absl::StatusOr<std::unique_ptr<DeviceReservation>> ReserveOnDevice(const Key& key, size_t size_bytes,
                                                                     const BlockTraits& traits = {});

  // For a reader that found damage on the device where the host's copy is whole: the device forgets its copy, if the
  // host has one, and may be given it anew. True if it did.
  bool DropDeviceCopy(const Key& key);

  TierFigures tiers();
  TenantHolding Held(Tier tier, TenantId tenant) const;  // nothing in a lost device
  DeviceState device_state() const { return state_.load(std::memory_order_acquire); }
  // "" while all is well; else what an operator should read: "device tier lost 3 min ago: ...".
  std::string DeviceTrouble();
  bool moves_are_done() const { return mover_ == nullptr || mover_->idle(); }
  HostTier& host() { return *host_; }
  DeviceTier* device() { return device_.get(); }  // null without one; also of a lost one

 private:
  struct Leased;
  enum class Home : uint8_t { kNowhere, kHost, kDevice };
  struct Found {
    Home home = Home::kNowhere;
    uint64_t size_bytes = 0;
    MissReason miss = MissReason::kNone;
    uint32_t tokens = 0;
  };

  bool live() const { return device_state() == DeviceState::kReady; }
  TierCore& host_core() const { return *host_->core(); }
  TierCore& device_core() const { return *device_->core(); }
  // What the device says of a block that `lookup` says is not in the host tier.
  void GetBelow(const Key& key, bool touch, absl::StatusOr<Lookup>& lookup);
  Found Find(const Key& key, CallTime& time);
  std::optional<Removal> LostWith(const Key& key, CallTime& time);
  Block* PinForLease(const Key& key, CallTime& time, Leased& leased, bool& over_budget);
  void GrantLease(absl::Span<const Key> chain, absl::Duration lease_ttl, CallTime& time, MatchResult& result);
  LeaseId Grant(Leased& leased, int64_t deadline_ns);
  void TouchBoth(absl::Span<const Key> hits, CallTime& time);
  bool IsElsewhere(const ScannedBlock& block, uint32_t scan_start, CallTime& time);
  bool ProlongOnDevice(const Key& key, const BlockTraits& traits);
  void NoteOutcome(const absl::Status& status);  // of a copy, or of a look at the device
  void Lose(const std::string& why);

  const std::unique_ptr<HostTier> host_;
  const std::unique_ptr<DeviceTier> device_;
  std::atomic<DeviceState> state_{DeviceState::kNone};
  std::atomic<int> deadlines_in_a_row_{0};
  std::atomic<uint64_t> lost_to_eviction_{0}, dropped_copies_{0};
  std::mutex end_mutex_;
  std::string why_lost_ ABSL_GUARDED_BY(end_mutex_);
  std::atomic<int64_t> lost_ns_{0};
  std::unique_ptr<TierMover> mover_;  // its thread uses all of this, from Start to End
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_TIERED_STORE_H_
