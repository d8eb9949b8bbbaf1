// A block in memory: its bytes, its pins, and who may let it go. Internal to the tiers in memory.
//
// States, in one atomic word: bit 0 = in the index, the rest = number of pins.
//   written    0       owned by its Reservation; in the index only as a name that is being written
//   committed  1       evictable
//   pinned     1 + 2n  held by n references or leases; never evicted
//   removed    2n      erased while held; nobody finds it any more
//   gone       0       reached once: by an eviction (1 -> 0), an erase (1 -> 0) or a last Unpin (2 -> 0). Whoever
//                      brought the word to 0 disposes of the block.
// Legal transitions: written -> committed (Publish), written -> gone (abort), committed <-> pinned (Pin, Unpin),
// pinned -> removed (Erase), removed -> gone (last Unpin), committed -> gone (evict, Erase). A pin is only ever taken
// from committed or pinned, under the shard's mutex.
//
// Threads Unpin from any thread, without a lock. The rest says what it needs.
#ifndef KVIST_CACHESTORE_BLOCK_H_
#define KVIST_CACHESTORE_BLOCK_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "cachestore/allocator.h"
#include "cachestore/arena.h"
#include "cachestore/block_store.h"
#include "cachestore/call_time.h"
#include "cachestore/key.h"

namespace kvist {

// A sum that many threads change and few read: one cache line per stripe.
class StripedGauge {
 public:
  void Add(uint64_t stripe, uint64_t amount) { At(stripe).fetch_add(amount, std::memory_order_relaxed); }
  void Subtract(uint64_t stripe, uint64_t amount) { At(stripe).fetch_sub(amount, std::memory_order_relaxed); }
  uint64_t Sum() const;

 private:
  static constexpr size_t kStripes = 16;
  struct alignas(64) Stripe {
    std::atomic<uint64_t> value{0};
  };
  std::atomic<uint64_t>& At(uint64_t stripe) { return stripes_[stripe % kStripes].value; }
  std::array<Stripe, kStripes> stripes_;
};

// The memory of a tier and its account. Every block shares it, so a block may outlive the tier.
class Space {
 public:
  explicit Space(std::unique_ptr<Arena> arena, size_t tenants = 1);
  // Memory that the host does not read: blocks have extents in it and no pieces. `memory` lives as long as the Space.
  // REQUIRES: `capacity_bytes` is a positive multiple of Allocator::kGranularity.
  Space(std::shared_ptr<const void> memory, uint64_t capacity_bytes, size_t tenants = 1);
  ~Space();
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

  std::optional<Extents> Take(uint64_t size_bytes);
  void Return(const Extents& extents);
  void Shrink(Extents& extents, uint64_t size_bytes);

  const Arena& arena() const { return *arena_; }     // REQUIRES: made from one
  uint8_t* host_base() const { return host_base_; }  // null: the host does not read this memory
  uint64_t capacity_bytes() const { return capacity_bytes_; }
  const Allocator& allocator() const { return allocator_; }

  // What one tenant holds of it.
  struct Held {
    std::atomic<uint64_t> bytes{0};   // used and reserved
    std::atomic<uint64_t> blocks{0};  // in any state but gone
  };
  Held& held(TenantId tenant) { return held_[tenant]; }  // REQUIRES: tenant < tenants()
  size_t tenants() const { return tenants_; }

  // Charges: what the allocator took for the blocks, so used + reserved + free = capacity when nothing is in motion.
  std::atomic<uint64_t> used_bytes{0};      // committed blocks, removed ones included until their last pin
  std::atomic<uint64_t> reserved_bytes{0};  // written blocks
  std::atomic<uint64_t> live_blocks{0};     // in any state but gone
  std::atomic<uint64_t> tokens{0};          // that the blocks in used_bytes stand for
  std::atomic<uint64_t> plain_units{0};     // of Block::kPlainUnit bytes: the same blocks, unencoded
  StripedGauge pinned_bytes;

 private:
  void Poison(const Extent& extent) const;
  void Unpoison(const Extent& extent) const;

  const std::unique_ptr<Arena> arena_;
  const std::shared_ptr<const void> memory_;
  uint8_t* const host_base_;
  const uint64_t capacity_bytes_;
  const size_t tenants_;
  const std::unique_ptr<Held[]> held_;
  Allocator allocator_;
};

// In this order: what a shard changes, what finding and pinning read, the rest.
class Block final : public PinnedBlock {
 public:
  static constexpr uint64_t kPlainUnit = 64;
  using Pieces = absl::InlinedVector<absl::Span<const uint8_t>, 2>;

  // A written block without space yet. Counts as live.
  Block(std::shared_ptr<Space> space, const Key& key, const BlockTraits& traits);
  ~Block() override = default;

  size_t size_bytes() const override { return size_bytes_; }
  // None where the host does not read the memory.
  absl::Span<const absl::Span<const uint8_t>> pieces() const override { return pieces_; }
  void Unpin() override;

  const Key& key() const { return key_; }
  // Of a reader without the mutex `expires` and `spare` may be those from before and after a Prolong.
  BlockTraits traits() const { return {group(), FromNanos(expires_ns()), spare_.load(std::memory_order_relaxed)}; }
  Key group() const { return {group_, key_.tenant}; }
  int64_t expires_ns() const { return expires_ns_.load(std::memory_order_relaxed); }
  bool expires() const { return expires_ns() != kNever; }
  uint64_t charge_bytes() const { return Allocator::RoundUp(size_bytes_); }
  uint32_t tokens() const { return static_cast<uint32_t>(tokens_); }
  BlockContent content() const { return {tokens(), uint64_t{plain_units_} * kPlainUnit}; }
  const Extents& extents() const { return extents_; }
  Space& space() const { return *space_; }

  // While written, by the owner of the Reservation:
  enum class Room : uint8_t { kTaken, kNone, kOverQuota };
  Room TakeSpace(uint64_t size_bytes, uint64_t quota_bytes);  // the quota is its tenant's, of all its blocks
  void SetContent(const BlockContent& content);
  void CopyIn(uint64_t offset, absl::Span<const uint8_t> bytes);  // REQUIRES: host memory, like FlipForTest
  // For fault tests: flips the bits of `mask` in one byte, also of a committed block. False beyond its end.
  bool FlipForTest(uint64_t offset, uint8_t mask);
  void Finish(uint64_t size_bytes);  // keeps the first `size_bytes`; from here on the block counts as used

  // REQUIRES: the shard's mutex.
  void Prolong(const BlockTraits& traits);  // takes their time; the index keeps its books
  void Publish() { state_.store(kIndexed, std::memory_order_release); }
  void Pin();
  bool TryRemoveUnpinned();  // committed -> gone; false if pinned. On true the caller disposes.
  bool Remove();             // out of the index; true if the caller is to dispose
  bool published() const { return (state_.load(std::memory_order_relaxed) & kIndexed) != 0; }

  // Returns the space and deletes. REQUIRES: gone, or written and abandoned.
  static void Dispose(Block* block);

  // Guarded by the shard's mutex.
  struct Place {
    Block* older = nullptr;
    Block* newer = nullptr;
    uint64_t tick = 0;
    int64_t last_used_ns = 0;
    uint32_t gets = 0;      // stops at its end
    uint32_t stored_s = 0;  // when it was published, in seconds since the epoch
    uint32_t leases = 0;    // leases that hold it; while there are any it is in no eviction list
    uint32_t number = 0;    // in its shard's Roster, while published
    bool listed = false;
    uint32_t moved = 0;  // from another tier, as the so-manieth such move; 0: a writer brought it
  };
  Place place;

 private:
  static constexpr uint64_t kIndexed = 1;
  static constexpr uint64_t kPin = 2;

  void MakePieces();

  std::atomic<uint64_t> state_{0};
  std::atomic<int64_t> expires_ns_;
  // Constant once published. The bytes of key_ and group_ have the last line but one, so the rest is packed.
  uint64_t size_bytes_ : 47 = 0;
  uint64_t reserved_ : 1 = 1;  // which account carries its charge
  uint64_t tokens_ : 16 = 0;
  uint32_t plain_units_ = 0;  // of kPlainUnit bytes
  std::atomic<bool> spare_;
  const Key key_;
  const std::array<uint8_t, Key::kBytes> group_;  // of key_'s tenant
  const std::shared_ptr<Space> space_;
  Extents extents_;
  Pieces pieces_;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_BLOCK_H_
