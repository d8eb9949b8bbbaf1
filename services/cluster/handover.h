// The hand-over of a node that drains: its hottest blocks go to the nodes that will hold them without it, within a
// budget of bytes and by a deadline.
//
// It may be interrupted at any moment, by Stop or by the end of the process: what was sent stands, nothing else
// changed, and what is lost is hits. Planned again it goes on with what has not been sent yet. Puts that were open when
// it was planned still commit: Run waits for them, and hands over what they stored.
//
// Heat     (gets + 1) / (time since the last use + 60 s): blocks that were read often and lately first.
// Heir     of a block that one node keeps: the owner in the view without this node. Of a replicated one: the node that
//          becomes a holder when this one goes; if there is none, the others have it.
// Peers    a lane for each heir (peer_lanes.h), so that a slow one holds up its own blocks alone. An heir that stays
//          unreachable for `patience` is given up; if the view changes meanwhile, its blocks go to the next one.
//
// Threads any; Run uses `streams` of the Runtime's. Plan and Run by one thread at a time.
#ifndef KVIST_SERVICES_CLUSTER_HANDOVER_H_
#define KVIST_SERVICES_CLUSTER_HANDOVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "kvist/v1/cluster.pb.h"
#include "services/cluster/block_mover.h"
#include "services/cluster/peer_lanes.h"
#include "services/cluster/peers.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct HandoverOptions {
  NodeId self;
  BlockStore* store = nullptr;  // these four outlive it
  BlockMover* mover = nullptr;
  Peers* peers = nullptr;
  Runtime* runtime = nullptr;
  std::function<std::shared_ptr<const View>()> view;
  std::function<uint32_t(TenantId tenant, const std::string& namespace_digest)> replicas_of;
  int streams = 4;
  absl::Duration call_deadline = absl::Seconds(2);  // of a call beside the time that the block takes at 8 MiB a second
  absl::Duration patience = absl::Seconds(15);
};

class Handover {
 public:
  explicit Handover(HandoverOptions options);

  // Chooses what is handed over.
  void Plan(absl::Time deadline, uint64_t budget_bytes);
  // Sends it. Returns when all is sent or has failed and no Put is open, at the deadline, or after Stop. REQUIRES: Plan.
  void Run();
  void Stop();

  // Of all plans so far; PHASE_HANDING_OVER from Plan to the end of Run. Blocks that are left at the deadline have
  // failed.
  v1::DrainResponse progress() const;

 private:
  struct Choice {
    Key key, group;
    uint64_t size_bytes = 0;
    double heat = 0;
  };
  struct Task {
    Key key, group;
    uint64_t size_bytes = 0;
    uint32_t replicas = 1;
  };
  // The view as it was before this node drained, and as it will be when it has left.
  struct Around {
    View with, without;
  };
  using Lanes = PeerLanes<Task>;

  void AddChosen();
  bool AwaitPuts();
  void SendAll();
  bool Settled(const Key& key) const;
  std::vector<Choice> Choose(uint64_t budget_bytes) const;
  Around ViewsAround() const;
  std::optional<NodeId> Heir(const Around& around, const Key& group, uint32_t replicas) const;
  void Send();
  absl::StatusOr<uint64_t> SendTo(const NodeId& heir, const Task& task);
  std::optional<Lanes::Taken> Next();
  void Settle(Lanes::Taken taken, const absl::StatusOr<uint64_t>& sent);
  absl::Time deadline() const;
  void Count(const Task& task, bool sent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const HandoverOptions options_;
  const std::unique_ptr<Condition> changed_;

  mutable std::mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_);
  Lanes lanes_ ABSL_GUARDED_BY(mutex_);
  uint64_t budget_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool puts_open_ ABSL_GUARDED_BY(mutex_) = false;  // at the last look at the store
  absl::flat_hash_set<Key> sent_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<Key> failed_ ABSL_GUARDED_BY(mutex_);  // since Plan
  v1::DrainResponse progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_HANDOVER_H_
