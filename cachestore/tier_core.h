// What every tier does that keeps its blocks in one span of memory: finding, leases, room, expiry, the account. The
// tiers themselves (host_tier.h, device_tier.h) add how bytes get in and out. Internal to cachestore.
//
// Units   bytes; a block's charge is its size rounded up to 64 bytes. Nanoseconds since the epoch.
// Threads every method of TierCore from any thread; a WrittenBlock belongs to its writer.
// Life    references and reservations keep it; Close ends what is in the index, and lets no other block in.
// Errors  those of BlockStore, in its words.
#ifndef KVIST_CACHESTORE_TIER_CORE_H_
#define KVIST_CACHESTORE_TIER_CORE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/block.h"
#include "cachestore/block_store.h"
#include "cachestore/call_time.h"
#include "cachestore/index.h"
#include "cachestore/leases.h"
#include "cachestore/tier_rules.h"

namespace kvist {

class TierCore {
 public:
  static constexpr size_t kMostDropped = TierRules::kMostDropped;

  // REQUIRES: the rules are right. Leases are numbered from `first_lease` on.
  TierCore(const TierRules& rules, std::shared_ptr<Space> space, uint64_t first_lease);
  void Close();

  // The whole call, as BlockStore says.
  MatchResult Match(absl::Span<const Key> chain, absl::Duration lease_ttl);
  absl::StatusOr<bool> Erase(const Key& key, MissReason why);
  absl::StatusOr<BlockStore::ScanResult> Scan(uint64_t cursor, size_t limit);
  void Release(LeaseId lease);
  StoreStats Stats();
  bool DropExpired();  // true if it stopped at kMostDropped and more may be due

  // A block that is being written, with its space. See BlockStore::Reserve for the errors.
  absl::StatusOr<Block*> BeginBlock(const Key& key, size_t size_bytes, const BlockTraits& traits);

  size_t DropExpired(CallTime& time);  // how many blocks were dropped or let go
  void EndLease(const LeasedBlocks& blocks);
  TenantHolding Held(TenantId tenant) const;  // nothing of one that the tier was not made for

  StoreClock clock;
  // Constant after construction.
  const absl::Duration max_lease;
  const uint64_t capacity_bytes;
  const uint64_t max_blocks;
  const std::shared_ptr<Space> space;
  const std::shared_ptr<const TenantQuotas> tenants;  // null: there is but one
  // Told of every key that went for room, with no lock held. Set before the first call.
  std::function<void(const Key&)> on_evicted;

  Index index;
  Leases leases;
  std::atomic<uint64_t> expired_leases{0};

 private:
  MatchResult CountHits(absl::Span<const Key> chain, CallTime& time);
  void GrantLease(absl::Span<const Key> chain, absl::Duration lease_ttl, CallTime& time, MatchResult& result);
  Block::Room MakeRoom(Block* block, size_t size_bytes, CallTime& time);
  std::optional<Index::Evicted> EvictFor(const Block& block, size_t size_bytes, bool too_many_blocks, CallTime& time);
  absl::Status Refuse(const Block& block, size_t size_bytes, Block::Room room);

  std::atomic<uint64_t> evicted_blocks_{0};
  std::atomic<uint64_t> evicted_bytes_{0};
  std::atomic<uint64_t> erased_blocks_{0};
  std::atomic<uint64_t> refused_reservations_{0};
};

// A block while it is written: its name in the index and its space. What is not published is given back.
class WrittenBlock {
 public:
  WrittenBlock(std::shared_ptr<TierCore> core, Block* block) : core_(std::move(core)), block_(block) {}
  ~WrittenBlock();
  WrittenBlock(const WrittenBlock&) = delete;
  WrittenBlock& operator=(const WrittenBlock&) = delete;

  bool spent() const { return block_ == nullptr || !named_; }
  Block* block() const { return block_; }  // null once published
  static absl::Status Spent() { return absl::FailedPreconditionError("the reservation is spent"); }
  // OutOfRange, or FailedPrecondition once spent.
  absl::Status CheckWrite(size_t offset, size_t size_bytes) const;
  // InvalidArgument, or FailedPrecondition once spent. To be asked before Publish.
  absl::Status CheckCommit(size_t size_bytes) const;
  // The block is there, of this size, and the reservation is spent. FailedPrecondition: the tier was closed.
  absl::Status Publish(size_t size_bytes);
  // Spent, and the key is free again, while the space is held until destruction: something may still write into it.
  void AbandonName();

 private:
  const std::shared_ptr<TierCore> core_;
  Block* block_;
  bool named_ = true;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_TIER_CORE_H_
