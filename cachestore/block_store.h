// Keeps opaque, immutable blocks by key. Every tier and the remote store implement this; tests/conformance/ states it.
//
// Units   bytes in names that end in _bytes; absl::Time is read from the Clock that a store was built with.
// Threads every method may be called from any thread. Nothing here waits for I/O longer than the store's deadline.
// Errors  a miss is a value (an empty BlockRef, a MissReason), never a Status; a Status is a fault.
#ifndef KVIST_CACHESTORE_BLOCK_STORE_H_
#define KVIST_CACHESTORE_BLOCK_STORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/key.h"

namespace kvist {

enum class MissReason : uint8_t {
  kNone = 0,
  kNeverStored,
  kEvicted,
  kErased,
  kExpired,
  kBeingWritten,
  kDamaged,
  kTierLost  // the memory that held it has failed
};
enum class Tier : uint8_t { kNone = 0, kDevice, kHost, kDisk };

// A committed block under a pin: its bytes stay where they are, unchanged, until `Unpin`.
class PinnedBlock {
 public:
  virtual ~PinnedBlock() = default;
  virtual size_t size_bytes() const = 0;
  // The block's bytes in order, in as few pieces as the store could place them (often one). A piece is 64-byte aligned.
  virtual absl::Span<const absl::Span<const uint8_t>> pieces() const = 0;
  virtual void Unpin() = 0;
};

struct UnpinDeleter {
  void operator()(PinnedBlock* block) const { block->Unpin(); }
};
using BlockRef = std::unique_ptr<PinnedBlock, UnpinDeleter>;  // empty = a miss

// What a store keeps beside a block's bytes without understanding it.
struct BlockTraits {
  Key group;                                    // blocks of one group are placed together (a segment's head key)
  absl::Time expires = absl::InfiniteFuture();  // from then on the block is a miss (kExpired) and its space is free
  // It expires because others keep the block: whoever comes to keep it here may prolong it. One that never expires is
  // none.
  bool spare = false;
  friend bool operator==(const BlockTraits&, const BlockTraits&) = default;
};

// What a block stands for, if its writer says so. A store sums it up and understands nothing of it.
struct BlockContent {
  uint32_t tokens = 0;       // at most kMaxTokens
  uint64_t plain_bytes = 0;  // unencoded; kept in whole 64 bytes
  static constexpr uint32_t kMaxTokens = 65535;
};

struct Lookup {
  BlockRef block;
  BlockTraits traits;  // of a hit
  MissReason miss = MissReason::kNone;
  Tier tier = Tier::kNone;
  // Of a miss, if the store remembers: when the block went, and for kEvicted which block's Reserve took its room.
  absl::Time gone = absl::InfinitePast();
  Key made_room_for;
};

// One block as Scan sees it.
struct ScannedBlock {
  Key key;
  BlockTraits traits;
  uint64_t size_bytes = 0;
  uint64_t gets = 0;     // successful Gets since it was stored
  absl::Time last_used;  // by Match or Get, at first by Commit; as coarse as the store says
};

// Space that was reserved for one block, and nobody else's until Commit or destruction (which aborts it).
class Reservation {
 public:
  virtual ~Reservation() = default;
  // Copies `bytes` to `offset` of the block. Parts may come in any order and overlap nothing.
  // Errors: OutOfRange  beyond the reserved size; nothing is written.
  virtual absl::Status Write(size_t offset, absl::Span<const uint8_t> bytes) = 0;
  // The reserved bytes in order, to be read before Commit (verification in place).
  virtual absl::Span<const absl::Span<const uint8_t>> pieces() const = 0;
  // Says what the block stands for, before Commit. A store that counts no such thing ignores it.
  virtual void SetContent(const BlockContent& content) {}
  // Publishes the first `size_bytes` bytes as the block, and returns the rest of the space. The reservation is spent.
  // Errors: InvalidArgument     more than reserved, or zero.
  //         FailedPrecondition  spent already.
  virtual absl::Status Commit(size_t size_bytes) = 0;
};

struct LeaseId {
  uint64_t value = 0;   // 0 = none granted
  TenantId tenant = 0;  // whose blocks it holds; under another it is unknown
  friend bool operator==(const LeaseId&, const LeaseId&) = default;
};

struct MatchResult {
  size_t hits = 0;                      // leading keys of the chain that are stored
  MissReason miss = MissReason::kNone;  // of chain[hits]; kNone when all hit
  uint64_t hit_bytes = 0;
  uint64_t hit_tokens = 0;   // as the writers said (BlockContent)
  LeaseId lease;             // pins exactly the `hits` blocks; none if no time was asked or the pin limit is reached
  absl::Duration lease_ttl;  // granted; at most what was asked and what the store allows
};

struct StoreStats {
  uint64_t capacity_bytes = 0, used_bytes = 0, pinned_bytes = 0, reserved_bytes = 0;
  uint64_t blocks = 0, leases = 0;
  uint64_t tokens = 0, plain_bytes = 0;            // of the blocks in used_bytes, as their writers said (BlockContent)
  uint64_t evicted_blocks = 0, evicted_bytes = 0;  // for room
  uint64_t erased_blocks = 0, expired_blocks = 0, expired_leases = 0, refused_reservations = 0;
};

class BlockStore {
 public:
  virtual ~BlockStore() = default;

  // Counts the leading hits of a chain (keys in order from the first token) and touches them, deepest first, so that a
  // leaf is always evicted before its parents. A positive `lease_ttl` also pins the hits until Release or the deadline.
  virtual absl::StatusOr<MatchResult> Match(absl::Span<const Key> chain, absl::Duration lease_ttl) = 0;

  // Finds one block and pins it; `touch` makes it the most recently used and counts it.
  virtual absl::StatusOr<Lookup> Get(const Key& key, bool touch = true) = 0;

  // Takes space for a block of at most `size_bytes`, evicting unpinned blocks if there is need.
  // A block that is there, or being written, and would expire before `traits.expires` is prolonged: it takes that time,
  // and `traits.spare`. So what is there stays at least as long as what the caller would have stored.
  // Errors: AlreadyExists      committed, or being written by another reservation.
  //         InvalidArgument    zero bytes, more than the store's whole capacity, or a time that is over; a tenant that the
  //                            store was not made for.
  //         ResourceExhausted  what is left is pinned or reserved, or its tenant's quota is; try later.
  virtual absl::StatusOr<std::unique_ptr<Reservation>> Reserve(const Key& key, size_t size_bytes,
                                                               const BlockTraits& traits = {}) = 0;

  // Forgets a block; true if there was one. Readers that hold it keep it, and its space returns with their last pin.
  // `why` is what later lookups are told: kErased (by request) or kDamaged (its bytes are not those that were written).
  // Errors: InvalidArgument  another reason.
  virtual absl::StatusOr<bool> Erase(const Key& key, MissReason why = MissReason::kErased) = 0;

  // Lists committed blocks in an order of the store's own, at most `limit` a call; touches nothing. Start with cursor 0
  // and go on with the one returned, until it is 0 again. A block that is there all the while is listed exactly once.
  // A call may return fewer blocks than `limit`, or none, and still go on.
  // Errors: InvalidArgument  `limit` is 0, or a cursor that was never returned.
  struct ScanResult {
    std::vector<ScannedBlock> blocks;
    uint64_t next = 0;
  };
  virtual absl::StatusOr<ScanResult> Scan(uint64_t cursor, size_t limit) = 0;

  // Ends a lease before its deadline. Unknown or ended leases are no error: the deadline may have been first; nor is one
  // of another tenant, which stays.
  virtual absl::Status Release(LeaseId lease) = 0;

  virtual absl::StatusOr<StoreStats> Stats() = 0;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_BLOCK_STORE_H_
