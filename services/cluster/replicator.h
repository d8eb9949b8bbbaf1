// What a node does for its blocks beyond its own store: copies for namespaces that want replicas, extra copies of hot
// segments, blocks adopted from a segment's previous owner, damaged blocks fetched again, and the hand-over of a drain.
//
// Everything is asynchronous and bounded: a task that does not fit into the queue, or cannot be done in time, is
// dropped and counted; it costs hits, never correctness.
//
// Copies        after the first commit, to the other nodes that Place names. When a member leaves, the first of a
// block's
//               remaining holders copies it to the nodes that have become its holders.
// Hot segments  heat.h. The owner copies their blocks to the next nodes of the ring, for `hot_ttl`; they expire there,
// and
//               are sent again while the segment stays hot. The bytes of such copies are bounded.
//
// Threads any; `copy_threads` + 3 of its own, from the Runtime.
#ifndef KVIST_SERVICES_CLUSTER_REPLICATOR_H_
#define KVIST_SERVICES_CLUSTER_REPLICATOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "kvist/v1/cluster.pb.h"
#include "services/cluster/block_mover.h"
#include "services/cluster/heat.h"
#include "services/cluster/peers.h"
#include "services/cluster/ring.h"
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

  int copy_threads = 2;
  size_t queue_tasks = 4096;                              // copies, and as many adoptions
  absl::Duration call_deadline = absl::Seconds(10);       // of one block
  absl::Duration give_up = absl::Seconds(60);             // of one task, attempts included
  absl::Duration housekeeping = absl::Milliseconds(500);  // heat and views are looked at so often
  HeatOptions heat;
  size_t hot_copies = 3;       // nodes beside the owner, at most
  double hot_fraction = 0.05;  // of the capacity: bytes of hot copies that stand elsewhere
  absl::Duration hot_ttl = absl::Seconds(60);
};

struct ReplicatorCounters {
  uint64_t queued = 0, copied_blocks = 0, copied_bytes = 0, failed = 0, dropped = 0;
  uint64_t adopted_blocks = 0, adopted_bytes = 0, refetched_blocks = 0, hot_segments = 0;
};

class Replicator {
 public:
  explicit Replicator(ReplicatorOptions options);
  ~Replicator() { Stop(); }
  // Drops what is queued and joins the threads; a hand-over that is under way ends. Later calls do nothing.
  void Stop();

  // A block was committed that is no copy. Does not wait.
  void Stored(const Key& key, const BlockTraits& traits, std::string_view namespace_digest, uint32_t replicas);
  void Read(const Key& group, uint64_t bytes) { heat_.Read(group, bytes); }
  // Where extra copies of a hot segment stand now.
  std::vector<NodeId> HotNodes(const Key& group);
  // Queues what we lack; how many that were. REQUIRES: one segment head for each key.
  uint32_t Adopt(const v1::AdoptRequest& request);
  // Our copy was damaged and has been dropped: fetch it from another holder, if there may be one.
  void Damaged(const Key& key, const BlockTraits& traits);

  // Chooses what is handed over: the most read blocks within the budget.
  void PlanHandOver(absl::Time deadline, uint64_t budget_bytes);
  // Sends them to their next owners, which are those of the view without us. Returns when all are sent or have failed,
  // or at the deadline. REQUIRES: PlanHandOver.
  void HandOver();
  v1::DrainResponse progress() const;  // of the hand-over; PHASE_UNSPECIFIED before it was planned

  ReplicatorCounters counters() const;

 private:
  struct Task {
    Key key;
    NodeId peer;         // to send to; or to fetch from
    bool fetch = false;  // else it is sent
    Key group;           // of what is fetched
    std::string namespace_digest;
    bool refetch = false;
    absl::Time not_before, give_up;
    int attempts = 0;
  };
  struct HotCopies {
    std::vector<NodeId> nodes;
    absl::Time until;  // as HotNodes counts them
    uint64_t bytes = 0;
  };

  void Push(Task task);
  std::optional<Task> Next(std::deque<Task>* queue);
  void Work(std::deque<Task>* queue);
  absl::StatusOr<uint64_t> Do(const Task& task);
  void Settle(Task task, const absl::StatusOr<uint64_t>& done, std::deque<Task>* queue);

  void KeepHouse();
  void RefreshHot();
  void CopyHot(const Heat::Hot& hot, const View& view, const std::vector<ScannedBlock>& blocks);
  void RepairAfter(const View& before, const View& now);
  bool ForEachBlock(const std::function<bool(const ScannedBlock&)>& act);  // false: stopped on the way
  bool Stopping() const;
  View ViewWithoutSelf(const View& view) const;
  void SendPlanned();
  absl::StatusOr<uint64_t> SendToHeir(const ScannedBlock& block, absl::Time deadline);

  const ReplicatorOptions options_;
  Peers peers_;
  BlockMover mover_;
  Heat heat_;
  const std::unique_ptr<Condition> changed_;

  mutable std::mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Task> sends_ ABSL_GUARDED_BY(mutex_), fetches_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<Key> fetching_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint32_t> replicas_ ABSL_GUARDED_BY(mutex_);  // by namespace; at most kNamespaces
  std::map<Key, HotCopies> hot_ ABSL_GUARDED_BY(mutex_);
  ReplicatorCounters counters_ ABSL_GUARDED_BY(mutex_);
  v1::DrainResponse drain_ ABSL_GUARDED_BY(mutex_);
  absl::Time drain_deadline_ ABSL_GUARDED_BY(mutex_);
  std::vector<ScannedBlock> plan_ ABSL_GUARDED_BY(mutex_);
  size_t next_planned_ ABSL_GUARDED_BY(mutex_) = 0;

  std::vector<std::unique_ptr<Thread>> threads_;  // last: they use all of the above
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_REPLICATOR_H_
