// What a node does for its blocks beyond its own store: copies for namespaces that want replicas, extra copies of hot
// segments, blocks adopted from a segment's previous owner, damaged blocks fetched again, and the hand-over of a drain.
//
// Everything is asynchronous and bounded: a task that does not fit into its queue, or cannot be done in time, is
// dropped and counted; it costs hits, never correctness.
//
// Copies        after the first commit, to the other nodes that Place names; what got lost on the way, or with a
//               member, is found and sent again (replica_repair.h).
// Hot segments  heat.h, hot_copies.h. The owner copies their blocks to the next nodes of the ring, for `hot_ttl`; they
//               expire there, and are sent again while the segment stays hot. The bytes of such copies are bounded.
// Hand-over     handover.h.
// Peers         tasks wait in a lane for each peer (peer_lanes.h): one that is dead, full or slow holds up its own. A
//               retry hint rests its lane. Repair, adoption and hot copies keep to `background_rate`.
//
// Threads any; `threads` + 1 of its own, from the Runtime, and those of a hand-over.
#ifndef KVIST_SERVICES_CLUSTER_REPLICATOR_H_
#define KVIST_SERVICES_CLUSTER_REPLICATOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "kvist/v1/cluster.pb.h"
#include "services/cluster/block_mover.h"
#include "services/cluster/handover.h"
#include "services/cluster/heat.h"
#include "services/cluster/hot_copies.h"
#include "services/cluster/peer_lanes.h"
#include "services/cluster/peers.h"
#include "services/cluster/replica_repair.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct ReplicatorOptions {
  NodeId self;
  BlockStore* store = nullptr;  // these three outlive it
  Transport* transport = nullptr;
  Runtime* runtime = nullptr;
  std::function<std::shared_ptr<const View>()> view;  // null: there is none yet
  BlockReading reading;
  uint64_t capacity_bytes = 0;
  std::function<std::string(TenantId)> tenant_name;  // as of BlockMoverOptions
  // Told of each block of ours that copying has found damaged; it has been dropped. Empty = nobody wants to know.
  std::function<void(const Key& key, const absl::Status& why)> damaged;

  int threads = 3;
  size_t queue_blocks = 8192;                // copies that wait, and as many adoptions; half of it for one peer
  uint64_t queue_bytes = uint64_t{1} << 30;  // of the copies; half of it for one peer
  // Of a call beside the time that the block takes at 8 MiB a second.
  absl::Duration call_deadline = absl::Seconds(2);
  absl::Duration give_up = absl::Seconds(60);             // of one task, attempts included
  absl::Duration housekeeping = absl::Milliseconds(250);  // heat and views are looked at so often
  uint64_t background_rate = 256 << 20;                   // bytes a second, each of repair, adoption and hot copies
  absl::Duration repair_pause = absl::Seconds(5);         // after a copy was given up; doubles to ten minutes
  uint64_t scan_rate = 50000;                             // blocks a second of a repair's pass
  HeatOptions heat;
  size_t hot_copies = 3;       // nodes beside the owner and its replicas, at most
  double hot_fraction = 0.05;  // of the capacity: bytes of hot copies that stand elsewhere
  absl::Duration hot_ttl = absl::Seconds(60);
};

struct ReplicatorCounters {
  uint64_t queued = 0, copied_blocks = 0, copied_bytes = 0;  // repaired and hot ones included
  uint64_t failed = 0;                                       // refused, gone meanwhile, or given up
  uint64_t dropped = 0;                                      // for the bounds of the queues
  uint64_t adopted_blocks = 0, adopted_bytes = 0, refetched_blocks = 0, damaged_blocks = 0;
  uint64_t hot_segments = 0;  // now
};

class Replicator {
 public:
  explicit Replicator(ReplicatorOptions options);
  ~Replicator() { Stop(); }
  // Drops what is queued and joins the threads; a hand-over that is under way ends. Later calls do nothing.
  void Stop();

  // A block was committed that is no copy. Does not wait.
  void Stored(const Key& key, const BlockTraits& traits, std::string_view namespace_digest, uint32_t replicas);
  // A copy came of a block that so many nodes shall keep.
  void Copied(TenantId tenant, std::string_view namespace_digest, uint32_t replicas);
  void Read(const Key& group, uint64_t bytes) { heat_.Read(group, bytes); }
  Heat::Reading ReadLately(size_t top) const { return heat_.Look(top); }
  // Where extra copies of a hot segment stand now.
  std::vector<NodeId> HotNodes(const Key& group) { return hot_.Nodes(group); }
  // Queues what we lack; how many that were: none while this node drains. What we have as a spare copy, we keep.
  // REQUIRES: one segment head for each key.
  uint32_t Adopt(TenantId tenant, const v1::AdoptRequest& request);
  // Our copy was damaged and has been dropped: fetch it from another holder, if there may be one and we do not drain.
  void Damaged(const Key& key, const BlockTraits& traits);

  // As of Handover.
  void PlanHandOver(absl::Time deadline, uint64_t budget_bytes) { handover_.Plan(deadline, budget_bytes); }
  void HandOver() { handover_.Run(); }
  v1::DrainResponse progress() const { return handover_.progress(); }

  // Nothing is queued or under way, and no repair is due: what this node can do for the view it knows is done.
  bool Idle();
  ReplicatorCounters counters() const;

 private:
  enum Kind : int { kCopy, kRepair, kHot, kFetch };
  struct Task {
    Key key;
    uint64_t size_bytes = 0;  // of a copy
    uint32_t replicas = 0;    // of what is sent
    std::vector<Key> check;   // of a repair: blocks that the peer may lack; `key` is not used
    std::optional<HotCopies::Order> order;
    BlockTraits traits;            // of what is fetched
    std::string namespace_digest;  // of what is fetched; "" = not known
    bool refetch = false;
    std::vector<NodeId> others;  // who may be asked next
    int came_damaged = 0;        // how often
    absl::Time give_up;
  };
  using Lanes = PeerLanes<Task>;

  bool Push(Kind kind, const NodeId& peer, Task task);
  void Spread(const Key& key, const Key& group, uint32_t replicas);
  bool Fits(const LaneId& lane, const Task& task) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Work();
  std::optional<Lanes::Taken> Next();
  absl::StatusOr<uint64_t> Do(const LaneId& lane, const Task& task);
  absl::StatusOr<uint64_t> CheckPeer(const Task& task, const NodeId& peer, Channel* channel, uint64_t view);
  void Settle(Lanes::Taken taken, absl::Time began, const absl::StatusOr<uint64_t>& done);
  bool TryAgain(Lanes::Taken* taken, const absl::Status& status);
  void Conclude(const LaneId& lane, Task task, absl::Time began, const absl::StatusOr<uint64_t>& done);
  void ConcludeFetch(const NodeId& peer, Task task, const absl::StatusOr<uint64_t>& done);

  void KeepHouse();
  void RefreshHot(const View& view);
  void ListHot(const std::vector<Key>& segments);
  void StepRepair(const View& view);

  const ReplicatorOptions options_;
  Peers peers_;
  BlockMover mover_;
  Heat heat_;
  HotCopies hot_;
  ReplicaRepair repair_;
  Handover handover_;
  const std::unique_ptr<Condition> changed_, stopped_;

  mutable std::mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Lanes lanes_ ABSL_GUARDED_BY(mutex_);
  std::map<NodeId, uint64_t> copy_bytes_ ABSL_GUARDED_BY(mutex_);  // of the copies in lanes
  int concluding_ ABSL_GUARDED_BY(mutex_) = 0;                     // tasks that are over but may queue others
  absl::flat_hash_set<Key> fetching_ ABSL_GUARDED_BY(mutex_);
  uint64_t seen_view_ ABSL_GUARDED_BY(mutex_) = 0;  // by KeepHouse
  ReplicatorCounters counters_ ABSL_GUARDED_BY(mutex_);

  std::vector<std::unique_ptr<Thread>> threads_;  // last: they use all of the above
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_REPLICATOR_H_
