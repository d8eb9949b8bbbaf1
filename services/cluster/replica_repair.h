// Finds the blocks that should stand on more nodes than they may: a pass over the store lists, for each peer, the
// blocks whose segment it should hold by the view. Who holds a block checks with all others that should, so that it
// does not matter who lost what: a check costs 32 bytes a block, and only what is lacking is sent.
//
// A pass also makes the spare copies last (BlockTraits) of segments that this node has come to keep: who sent them here
// may be gone, and renews them no more.
//
// A pass is wanted after a change of the view (a member left, came back empty, joined, drains) and after a copy was
// given up. Passes go step by step, so that they can be kept to a rate.
//
// Bounds  replica counts are remembered for kNamespaces namespaces; blocks of others are not repaired. They are learned
//         from puts and copies: a count is that of the last one seen.
// Threads any; Step by one thread.
#ifndef KVIST_SERVICES_CLUSTER_REPLICA_REPAIR_H_
#define KVIST_SERVICES_CLUSTER_REPLICA_REPAIR_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "services/cluster/block_mover.h"
#include "services/cluster/view.h"

namespace kvist {

class ReplicaRepair {
 public:
  static constexpr size_t kNamespaces = 1024;
  static constexpr size_t kCheck = 128;  // blocks in one Check
  static constexpr absl::Duration kLongestPause = absl::Minutes(10);

  ReplicaRepair(NodeId self, BlockStore* store, BlockMover* mover, absl::Duration first_pause)
      : self_(std::move(self)), store_(store), mover_(mover), first_pause_(first_pause) {}

  // What one tenant wants for a namespace is nothing to another that has one of the same digest.
  void Learn(TenantId tenant, std::string_view namespace_digest, uint32_t replicas);
  uint32_t ReplicasOf(TenantId tenant, const std::string& namespace_digest) const;  // 1 if it is not known
  uint32_t MostReplicas() const;

  // The view has changed. (One that differs in nothing that places blocks is no change.)
  void SetView(const View& view, absl::Time now);
  // A copy was given up: a pass is wanted after a pause, which doubles until the view changes.
  void CopyLost(absl::Time now);

  struct Check {
    NodeId peer;
    uint32_t replicas = 0;
    std::vector<Key> keys;
  };
  // Goes on with a pass that is wanted, by about `blocks` blocks.
  std::vector<Check> Step(const View& view, absl::Time now, size_t blocks);

  bool wanted(absl::Time now) const;  // a pass is under way or due

 private:
  bool Begin(absl::Time now);
  void Look(const ScannedBlock& block, const View& view, bool replicated, std::vector<Check>* full);

  const NodeId self_;
  BlockStore* const store_;
  BlockMover* const mover_;
  const absl::Duration first_pause_;

  mutable std::mutex mutex_;
  // Of namespaces that want more than one, by tenant and digest.
  std::map<std::pair<TenantId, std::string>, uint32_t> replicas_ ABSL_GUARDED_BY(mutex_);
  View view_ ABSL_GUARDED_BY(mutex_);
  absl::Time due_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_) = first_pause_;
  bool passing_ ABSL_GUARDED_BY(mutex_) = false;

  // Of Step's thread.
  uint64_t cursor_ = 0;
  std::map<std::pair<NodeId, uint32_t>, std::vector<Key>> batches_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_REPLICA_REPAIR_H_
