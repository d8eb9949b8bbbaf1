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

std::vector<size_t> Owners(const Key& segment_head, const View& view, size_t n) {
  struct Candidate {
    double score;
    size_t node;
  };
  std::vector<Candidate> candidates;
  candidates.reserve(view.nodes.size());
  for (size_t i = 0; i < view.nodes.size(); ++i) {
    candidates.push_back({PlacementScore(segment_head, view.nodes[i].id, view.nodes[i].weight), i});
  }
  std::sort(candidates.begin(), candidates.end(), [&](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : view.nodes[a.node].id < view.nodes[b.node].id;
  });
  std::vector<size_t> owners;
  for (size_t i = 0; i < std::min(n, candidates.size()); ++i) owners.push_back(candidates[i].node);
  return owners;
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
