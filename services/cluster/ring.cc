#include "services/cluster/ring.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace kvist {

size_t SegmentHead(size_t block_index) {
  if (block_index >= kSegmentBlocks) return block_index - block_index % kSegmentBlocks;
  size_t head = block_index == 0 ? 0 : 1;
  while (head != 0 && head * 2 <= block_index) head *= 2;
  return head;
}

double PlacementScore(const Key& segment_head, const NodeId& node, double weight) {
  std::string input(reinterpret_cast<const char*>(segment_head.bytes.data()), segment_head.bytes.size());
  input += node.value;
  const uint64_t hash = XXH3_64bits(input.data(), input.size());
  const double u = (static_cast<double>(hash >> 11) + 0.5) * 0x1p-53;
  return -weight / std::log(u);
}

namespace {

// The `n` best nodes among those with a positive weight, best first.
template <typename Weight>
std::vector<size_t> Best(const Key& segment_head, const View& view, size_t n, Weight weight) {
  struct Candidate {
    double score;
    size_t node;
  };
  std::vector<Candidate> candidates;
  candidates.reserve(view.nodes.size());
  for (size_t i = 0; i < view.nodes.size(); ++i) {
    const double w = weight(view.nodes[i]);
    if (w > 0) candidates.push_back({PlacementScore(segment_head, view.nodes[i].id, w), i});
  }
  n = std::min(n, candidates.size());
  const auto better = [&](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : view.nodes[a.node].id < view.nodes[b.node].id;
  };
  std::partial_sort(candidates.begin(), candidates.begin() + n, candidates.end(), better);
  std::vector<size_t> best;
  for (size_t i = 0; i < n; ++i) best.push_back(candidates[i].node);
  return best;
}

}  // namespace

double PlacementWeight(const Node& node) {
  switch (node.state) {
    case NodeState::kServing:
      return node.weight;
    case NodeState::kJoining:
      return node.weight * node.ramp;
    case NodeState::kDraining:
      return 0;
  }
  return 0;
}

std::vector<size_t> Owners(const Key& segment_head, const View& view, size_t n) {
  std::vector<size_t> owners = Best(segment_head, view, n, PlacementWeight);
  if (!owners.empty()) return owners;
  return Best(segment_head, view, n, [](const Node& node) { return node.weight; });
}

SegmentNodes Place(const Key& segment_head, const View& view, size_t replicas) {
  SegmentNodes nodes{Owners(segment_head, view, replicas), std::nullopt};
  const auto settled = [](const Node& node) { return node.state == NodeState::kServing; };
  if (std::all_of(view.nodes.begin(), view.nodes.end(), settled)) return nodes;
  const std::vector<size_t> before =
      Best(segment_head, view, 1, [](const Node& node) { return node.state == NodeState::kJoining ? 0 : node.weight; });
  if (!before.empty() && std::find(nodes.owners.begin(), nodes.owners.end(), before[0]) == nodes.owners.end()) {
    nodes.previous = before[0];
  }
  return nodes;
}

size_t Owner(const Key& segment_head, const View& view) { return Owners(segment_head, view, 1).front(); }

std::vector<size_t> ChainOwners(absl::Span<const Key> chain, const View& view) {
  std::vector<size_t> owners(chain.size());
  for (size_t block = 0; block < chain.size(); ++block) {
    const size_t head = SegmentHead(block);
    owners[block] = head == block ? Owner(chain[block], view) : owners[head];
  }
  return owners;
}

}  // namespace kvist
