// Which node keeps a block: a pure function of the block's segment and the view. No directory, no round trip.
//
// Placement is weighted rendezvous hashing of the key of the segment's first block:
//   u(node)     = ((XXH3-64(key bytes || node id bytes) >> 11) + 0.5) / 2^53        uniform in (0, 1)
//   score(node) = -weight / ln(u)                                                  the highest score owns
// so node i owns a share weight_i / sum of the segments, and a node that joins or leaves moves only its own share.
//
// Why by segment: by prompt root, the prompts that share one system text put 16 times the mean on one node; with equal
// runs, the shared first block pulls every chain behind it to one node (1.6 to 7 times the mean, simulated). Segments
// that start geometrically (blocks 0, 1, 2, 4, 8, then every multiple of 8) gave 1.02, and a long prompt still costs
// one call per owner.
//
// Threads pure.
#ifndef KVIST_SERVICES_CLUSTER_RING_H_
#define KVIST_SERVICES_CLUSTER_RING_H_

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "cachestore/key.h"
#include "services/cluster/view.h"

namespace kvist {

inline constexpr size_t kSegmentBlocks = 8;  // of the segments past the geometric start

// The first block of the segment that holds this block of a chain.
size_t SegmentHead(size_t block_index);

double PlacementScore(const Key& segment_head, const NodeId& node, double weight);

// What counts of a node's weight for new blocks: all of it when serving, weight * ramp when joining, 0 when draining.
double PlacementWeight(const Node& node);

// Where the blocks of one segment go and where they may be found, as positions in view.nodes.
struct SegmentNodes {
  // Owner first, then the replicas: the best by PlacementWeight. Only if every node drains or joins at ramp 0 do all
  // nodes count, with their whole weights.
  std::vector<size_t> owners;
  // Who owned the segment before the change that is under way: the best of the nodes that are not joining (draining
  // ones included, whole weights), if it is none of `owners`. Readers ask it second, until the joining node serves or
  // the draining one has left; that is how the time is bounded.
  std::optional<size_t> previous;
};
// REQUIRES: the view has a node; replicas >= 1.
SegmentNodes Place(const Key& segment_head, const View& view, size_t replicas);

// Position in view.nodes of the node that keeps the segment with this head key. Equal scores go to the lesser node id.
// REQUIRES: the view has a node.
size_t Owner(const Key& segment_head, const View& view);

// The `n` best nodes by PlacementWeight, the owner first: where replicas belong. Fewer if fewer have a weight.
std::vector<size_t> Owners(const Key& segment_head, const View& view, size_t n);

// The owner of every block of a chain. `chain` starts at block 0 of the prompt.
// REQUIRES: the view has a node.
std::vector<size_t> ChainOwners(absl::Span<const Key> chain, const View& view);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_RING_H_
