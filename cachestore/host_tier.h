// The store of one node in main memory: BlockStore over one arena that is mapped whole at start.
//
// Units    bytes. A block's charge is its size rounded up to 64 bytes: what the allocator takes, and what every figure
//          in StoreStats counts. used + reserved + free = capacity; used includes blocks that were erased or expired
//          and that a reader still holds.
// Threads  every method from any thread. References, reservations and their bytes are free of the store's locks; one
//          reservation may be written from several threads (disjoint parts), with Commit after the last of them.
// Life     references and reservations may outlive the HostTier: the arena is unmapped with the last of them. A Commit
//          after the store is gone is FailedPrecondition, and its space returns.
// Memory   the arena, and beside it on the heap: about 370 bytes a block (at most `max_blocks` of them), 20 more if it
//          expires, at most 100 bytes a remembered removal (88 of them taken at start), 8 bytes a leased pin
//          (Leases::kMaxPins).
//
// What BlockStore leaves open:
//   Get      under a lease does not change the order of eviction; the end of the lease does, deepest first. A chain
//            that is stored key by key from the root down lies the wrong way round until the first Match: writers put
//            it deepest first, or match it once when it is stored.
//   Match    with a lease also drops leases and blocks whose time is over, as do Reserve, Release and Stats; each drops
//            about kMostDropped blocks at most. A lease is refused (none granted, the hits are reported all the same)
//            when leases hold `max_pinned_fraction` of the capacity.
//   Erase    of a key that is being written is false; the writer goes on. It counts in erased_blocks whatever `why`.
//   expires  is kept in whole nanoseconds. A block whose time is over is dropped by whoever looks for it, wants its
//            room, or calls DropExpired; its `gone` is that time, not the moment of the drop.
//   gone     is known of the last `remembered_removals` keys.
//   Scan     counts through the places that blocks have in their shards; a block that was dropped and stored again may
//            be listed again. A call looks at 65,536 places at most, so it may return few blocks, or none, and go on.
//   last_used  is at most a millisecond before the last call but Get that the store had (Get reads the clock only for a
//            block that will expire, and else takes the last reading); of a block never used, when it was stored.
#ifndef KVIST_CACHESTORE_HOST_TIER_H_
#define KVIST_CACHESTORE_HOST_TIER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "cachestore/tier_rules.h"

namespace kvist {

struct HostTierOptions : TierRules {
  uint64_t capacity_bytes = 0;  // rounded down to 64; at least kMinCapacityBytes
  bool huge_pages = true;
  bool prefault = false;
};

class TierCore;

class HostTier final : public BlockStore {
 public:
  // Errors: InvalidArgument    names every option that is wrong.
  //         ResourceExhausted  the memory is not there.
  static absl::StatusOr<std::unique_ptr<HostTier>> Create(const HostTierOptions& options);
  ~HostTier() override;

  absl::StatusOr<MatchResult> Match(absl::Span<const Key> chain, absl::Duration lease_ttl) override;
  absl::StatusOr<Lookup> Get(const Key& key, bool touch = true) override;
  absl::StatusOr<std::unique_ptr<Reservation>> Reserve(const Key& key, size_t size_bytes,
                                                       const BlockTraits& traits = {}) override;
  absl::StatusOr<bool> Erase(const Key& key, MissReason why = MissReason::kErased) override;
  absl::StatusOr<ScanResult> Scan(uint64_t cursor, size_t limit) override;
  absl::Status Release(LeaseId lease) override;
  absl::StatusOr<StoreStats> Stats() override;

  // Drops leases and blocks whose time is over, about kMostDropped blocks a call; true if it stopped there and more may
  // be due. Call it on a timer: an idle store gets no other call that would. Costs a few loads when nothing is due.
  [[nodiscard]] bool DropExpired();
  static constexpr size_t kMostDropped = TierRules::kMostDropped;

  // For fault tests: flips the bits of `mask` in one byte of a resting block. False if there is no such block or byte.
  // Nothing on the wire leads here.
  bool FlipBitsForTest(const Key& key, uint64_t offset, uint8_t mask);

  bool huge_pages_advised() const;
  uint64_t HugePageBytes() const;  // backed by huge pages now; reads /proc, not for the data path

  const std::shared_ptr<TierCore>& core() const { return core_; }  // for TieredStore, which moves blocks between tiers

 private:
  explicit HostTier(std::shared_ptr<TierCore> core) : core_(std::move(core)) {}

  const std::shared_ptr<TierCore> core_;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_HOST_TIER_H_
