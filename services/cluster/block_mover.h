// Moves single blocks between this node's store and its peers: what replication, adoption, refetching and draining
// share.
//
// Threads any; each call waits for its peer until the deadline given. Errors: those of Channel and BlockStore.
#ifndef KVIST_SERVICES_CLUSTER_BLOCK_MOVER_H_
#define KVIST_SERVICES_CLUSTER_BLOCK_MOVER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/block_store.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"

namespace kvist {

// What a node knows of a block's bytes, given from outside: this folder does not read blocks.
struct BlockReading {
  // Verifies that `bytes` are one whole block of this key, checksums included, and of this namespace unless that is "".
  std::function<absl::Status(absl::Span<const uint8_t> bytes, const Key& key, const std::string& namespace_digest)>
      verify;
  // The 16 bytes of the namespace that a stored block names.
  std::function<absl::StatusOr<std::string>(absl::Span<const absl::Span<const uint8_t>> pieces)> namespace_of;
  // What a block stands for, for the store's account. Empty = not to be known.
  std::function<BlockContent(absl::Span<const absl::Span<const uint8_t>> pieces)> content_of;
  // Told of each block that was fetched and stored. Empty = nobody wants to know.
  std::function<void(const Key& key, absl::Span<const absl::Span<const uint8_t>> pieces)> came;
};

// What a copy is sent with.
struct CopyTerms {
  uint64_t view = 0;
  uint32_t replicas = 0;  // nodes that shall keep the block; 0 = a spare copy (BlockTraits), which needs a ttl
  absl::Duration ttl = absl::InfiniteDuration();
};

struct BlockMoverOptions {
  BlockStore* store = nullptr;  // these two outlive it
  Runtime* runtime = nullptr;
  BlockReading reading;
  uint64_t max_block_bytes = 256 << 20;  // a peer that lies cannot make us take more memory for one block
  // Told of each block of ours that was found damaged and has been dropped. Empty = nobody wants to know.
  std::function<void(const Key& key, const absl::Status& why)> damaged;
  // The name under which peers know a tenant; "" of 0. Empty = there are no tenants.
  std::function<std::string(TenantId)> tenant_name;
};

class BlockMover {
 public:
  explicit BlockMover(BlockMoverOptions options) : options_(std::move(options)) {}

  // Sends our block to a peer, which keeps it as a copy, and no longer than we do. OK also if the peer has it already,
  // which then keeps it as long as the copy would have been kept.
  // Returns the bytes sent: 0 if the peer had it.
  // Errors: NotFound  we do not have it (any more); Aborted  the peer is being sent it by another, who may yet fail;
  //         DataLoss  our copy or what the peer got of it is damaged.
  absl::StatusOr<uint64_t> Send(const Key& key, Channel* to, const CopyTerms& terms, absl::Time deadline);

  // Fetches a block from a peer, verifies it and stores it. Returns its bytes; 0 if we have it: a spare copy is kept
  // from now on.
  // Errors: NotFound  the peer does not have it; DataLoss and others of `verify`  what came is not that block.
  absl::StatusOr<uint64_t> Fetch(const Key& key, const BlockTraits& traits, const std::string& namespace_digest,
                                 Channel* from, uint64_t view, absl::Time deadline);

  // For each key, of any tenants, whether the peer lacks the block and should be sent it; so it should if its copy will expire and ours
  // will not. What it evicted for room, or was told to erase, it should not: a copy would come back for ever.
  absl::StatusOr<std::vector<bool>> Lacks(const std::vector<Key>& keys, Channel* peer, uint64_t view,
                                          absl::Time deadline);

  // This node has come to keep the block: if our copy is a spare one, it is none any more and does not expire.
  void Keep(const Key& key);

  // Verifies our own block, and drops it if it is damaged. True if it was.
  bool DropIfDamaged(const Key& key);

  // The namespace of our block; NotFound if we do not have it.
  absl::StatusOr<std::string> NamespaceOf(const Key& key);

 private:
  bool OursLasts(const Key& key);
  bool ShouldBeSent(const v1::BlockFate& fate, const Key& key);
  std::string TenantOf(const Key& key) const { return options_.tenant_name ? options_.tenant_name(key.tenant) : ""; }
  // Of keys of one tenant.
  absl::StatusOr<v1::ExplainResponse> Ask(const std::vector<Key>& keys, Channel* peer, uint64_t view,
                                          absl::Time deadline) const;

  const BlockMoverOptions options_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_BLOCK_MOVER_H_
