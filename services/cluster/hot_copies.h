// The books of the extra copies that this node, a segment's owner, keeps of its hot segments on other nodes: which
// blocks, where, until when, and what is to be sent next. It sends nothing itself.
//
// A copy expires by itself at its node (ttl); while its segment is hot it is sent again when it has. Each copy is given
// a ttl of its own between three quarters of the whole and the whole, so that those of a segment do not end together.
//
// Bounds  bytes of copies that stand, are on their way or are to be sent, whether their blocks are still listed or not;
//         kSegments segments; kBlocks blocks of each, the most read. A node is sent all that it lacks of a segment or
//         nothing: a part of one serves nobody.
// Threads any.
#ifndef KVIST_SERVICES_CLUSTER_HOT_COPIES_H_
#define KVIST_SERVICES_CLUSTER_HOT_COPIES_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "cachestore/key.h"
#include "services/cluster/view.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct HotCopiesOptions {
  uint64_t limit_bytes = 0;
  absl::Duration ttl = absl::Seconds(60);
};

class HotCopies {
 public:
  static constexpr size_t kSegments = 64, kBlocks = 64;
  // Readers are not sent to a copy that is about to expire.
  static constexpr absl::Duration kMargin = absl::Seconds(1);
  // After a failure a node is not tried again for this segment so long, and a segment's blocks are listed anew after it.
  static constexpr absl::Duration kLookAgain = absl::Seconds(10);

  HotCopies(HotCopiesOptions options, Runtime* runtime) : options_(options), runtime_(runtime) {}

  struct Order {
    Key segment, block;
    NodeId to;
    absl::Duration ttl;
  };

  // Of `hot` segments, those whose blocks must be listed (List) before Plan can order copies of them.
  std::vector<Key> Unlisted(const std::vector<Key>& hot);
  // `replicas` nodes, the best of the ring, keep the segment anyway.
  void List(const Key& segment, uint32_t replicas, std::vector<ScannedBlock> blocks);

  // What to send so that the segment stands on `wanted` more nodes than those that keep it anyway. `ranked` are the
  // ring's, the best first. Orders of earlier plans that have not come back count.
  std::vector<Order> Plan(const Key& segment, const std::vector<NodeId>& ranked, size_t wanted);

  // What came of an order. `began` is before it was sent. A node that had the block keeps it as long as one that got it.
  void Sent(const Order& order, absl::Time began);
  void Failed(const Order& order);
  void Gone(const Order& order);  // this node no longer has the block

  // Forgets what has expired, and the nodes that are not in the view or have started anew. For each segment, how many
  // nodes serve it.
  std::map<Key, size_t> Tick(const View& view);

  // The nodes that hold all of the segment's listed blocks now. Cheap when nothing is hot.
  std::vector<NodeId> Nodes(const Key& segment) const;
  size_t segments() const { return standing_.load(std::memory_order_relaxed); }  // with a copy that readers may use

 private:
  struct BlockCopy {
    uint64_t size_bytes = 0;
    bool under_way = false;
    absl::Time until = absl::InfinitePast();  // of the copy at the node
  };
  struct NodeCopies {
    std::map<Key, BlockCopy> blocks;
    absl::Time not_before = absl::InfinitePast();
    absl::Duration ttl;
    std::optional<uint64_t> incarnation;  // of the node: a later one has lost them
  };
  struct Segment {
    std::map<Key, uint64_t> blocks;  // sizes
    uint32_t replicas = 1;
    absl::Time listed = absl::InfinitePast();
    std::map<NodeId, NodeCopies> nodes;
  };
  BlockCopy* Find(const Order& order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t Bytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static bool Serves(const Segment& segment, const NodeCopies& copies, absl::Time now);
  void Count() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const HotCopiesOptions options_;
  Runtime* const runtime_;
  mutable std::mutex mutex_;
  std::map<Key, Segment> segments_ ABSL_GUARDED_BY(mutex_);
  std::atomic<size_t> standing_{0};
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_HOT_COPIES_H_
