#include "services/cluster/hot_copies.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace kvist {

std::vector<Key> HotCopies::Unlisted(const std::vector<Key>& hot) {
  const absl::Time now = runtime_->Now();
  std::vector<Key> unlisted;
  std::lock_guard lock(mutex_);
  size_t room = segments_.size() >= kSegments ? 0 : kSegments - segments_.size();
  for (const Key& segment : hot) {
    const auto found = segments_.find(segment);
    if (found != segments_.end() ? now < found->second.listed + kLookAgain : room == 0) continue;
    if (found == segments_.end()) --room;
    unlisted.push_back(segment);
  }
  return unlisted;
}

// Blocks that share only the head of a hot prompt are not hot: those read less than an eighth of the most read stay.
void HotCopies::List(const Key& segment, uint32_t replicas, std::vector<ScannedBlock> blocks) {
  std::sort(blocks.begin(), blocks.end(), [](const ScannedBlock& a, const ScannedBlock& b) {
    return a.gets != b.gets ? a.gets > b.gets : a.key < b.key;
  });
  std::lock_guard lock(mutex_);
  Segment& entry = segments_[segment];
  entry.listed = runtime_->Now();
  entry.replicas = replicas;
  entry.blocks.clear();
  for (const ScannedBlock& block : blocks) {
    if (entry.blocks.size() == kBlocks || block.gets < blocks[0].gets / 8) break;
    entry.blocks[block.key] = block.size_bytes;
  }
}

uint64_t HotCopies::Bytes() const {
  uint64_t bytes = 0;
  for (const auto& [key, segment] : segments_) {
    for (const auto& [id, copies] : segment.nodes) {
      for (const auto& [block, copy] : copies.blocks) bytes += copy.size_bytes;
    }
  }
  return bytes;
}

std::vector<HotCopies::Order> HotCopies::Plan(const Key& segment, const std::vector<NodeId>& ranked, size_t wanted) {
  const absl::Time now = runtime_->Now();
  std::vector<Order> orders;
  std::lock_guard lock(mutex_);
  const auto found = segments_.find(segment);
  if (found == segments_.end()) return orders;
  uint64_t bytes = Bytes();
  for (size_t rank = found->second.replicas; rank < ranked.size() && wanted > 0; ++rank, --wanted) {
    const NodeId& id = ranked[rank];
    NodeCopies& copies = found->second.nodes[id];
    if (now < copies.not_before) continue;
    std::vector<Key> lacking;
    uint64_t more_bytes = 0;
    for (const auto& [block, size] : found->second.blocks) {
      const auto copy = copies.blocks.find(block);
      if (copy != copies.blocks.end() && (copy->second.under_way || now < copy->second.until)) continue;
      lacking.push_back(block);
      if (copy == copies.blocks.end()) more_bytes += size;
    }
    if (bytes + more_bytes > options_.limit_bytes) continue;
    bytes += more_bytes;
    copies.ttl = options_.ttl * (0.75 + 0.25 * static_cast<double>(runtime_->Random() >> 11) * 0x1p-53);
    for (const Key& block : lacking) {
      BlockCopy& copy = copies.blocks[block];
      copy.size_bytes = found->second.blocks[block];
      copy.under_way = true;
      orders.push_back({segment, block, id, copies.ttl});
    }
  }
  return orders;
}

HotCopies::BlockCopy* HotCopies::Find(const Order& order) {
  const auto segment = segments_.find(order.segment);
  if (segment == segments_.end()) return nullptr;
  const auto node = segment->second.nodes.find(order.to);
  if (node == segment->second.nodes.end()) return nullptr;
  const auto block = node->second.blocks.find(order.block);
  return block == node->second.blocks.end() ? nullptr : &block->second;
}

void HotCopies::Sent(const Order& order, absl::Time began) {
  std::lock_guard lock(mutex_);
  BlockCopy* const copy = Find(order);
  if (copy == nullptr) return;
  copy->under_way = false;
  // The node counts the ttl from its Reserve, which is later than `began`.
  copy->until = began + order.ttl;
  Count();
}

void HotCopies::Failed(const Order& order) {
  std::lock_guard lock(mutex_);
  if (Find(order) == nullptr) return;
  NodeCopies& copies = segments_[order.segment].nodes[order.to];
  copies.blocks.erase(order.block);
  copies.not_before = runtime_->Now() + kLookAgain;
  Count();
}

void HotCopies::Gone(const Order& order) {
  std::lock_guard lock(mutex_);
  const auto segment = segments_.find(order.segment);
  if (segment == segments_.end()) return;
  segment->second.blocks.erase(order.block);
  // What was sent to others before stands there until it expires.
  const auto node = segment->second.nodes.find(order.to);
  if (node != segment->second.nodes.end()) node->second.blocks.erase(order.block);
  Count();
}

std::map<Key, size_t> HotCopies::Tick(const View& view) {
  const absl::Time now = runtime_->Now();
  std::map<Key, size_t> serving;
  std::lock_guard lock(mutex_);
  for (auto segment = segments_.begin(); segment != segments_.end();) {
    size_t nodes = 0;
    auto& all = segment->second.nodes;
    for (auto node = all.begin(); node != all.end();) {
      auto& blocks = node->second.blocks;
      for (auto block = blocks.begin(); block != blocks.end();) {
        const bool over = !block->second.under_way && now >= block->second.until;
        block = over ? blocks.erase(block) : std::next(block);
      }
      const bool over = blocks.empty() && now >= node->second.not_before;
      const Node* const member = view.Find(node->first);
      if (member != nullptr && !node->second.incarnation) node->second.incarnation = member->incarnation;
      if (over || member == nullptr || member->incarnation != *node->second.incarnation) {
        node = all.erase(node);
        continue;
      }
      nodes += Serves(segment->second, node->second, now);
      ++node;
    }
    if (nodes > 0) serving[segment->first] = nodes;
    const bool over = all.empty() && now >= segment->second.listed + kLookAgain;
    segment = over ? segments_.erase(segment) : std::next(segment);
  }
  Count();
  return serving;
}

bool HotCopies::Serves(const Segment& segment, const NodeCopies& copies, absl::Time now) {
  if (segment.blocks.empty()) return false;
  return std::all_of(segment.blocks.begin(), segment.blocks.end(), [&](const auto& block) {
    const auto copy = copies.blocks.find(block.first);
    return copy != copies.blocks.end() && now < copy->second.until - kMargin;
  });
}

void HotCopies::Count() {
  const absl::Time now = runtime_->Now();
  size_t standing = 0;
  for (const auto& [key, segment] : segments_) {
    standing += std::any_of(segment.nodes.begin(), segment.nodes.end(),
                            [&](const auto& node) { return Serves(segment, node.second, now); });
  }
  standing_.store(standing, std::memory_order_relaxed);
}

std::vector<NodeId> HotCopies::Nodes(const Key& segment) const {
  std::vector<NodeId> nodes;
  if (segments() == 0) return nodes;
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  const auto found = segments_.find(segment);
  if (found == segments_.end()) return nodes;
  for (const auto& [id, copies] : found->second.nodes) {
    if (Serves(found->second, copies, now)) nodes.push_back(id);
  }
  return nodes;
}

}  // namespace kvist
