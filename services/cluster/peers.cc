#include "services/cluster/peers.h"

#include <iterator>

namespace kvist {
namespace {

constexpr absl::Duration kLeaveAlone = absl::Seconds(1);

}  // namespace

std::shared_ptr<Channel> Peers::Find(const NodeId& id, const View& view) {
  const Node* node = view.Find(id);
  std::lock_guard lock(mutex_);
  for (auto peer = peers_.begin(); peer != peers_.end();) {
    peer = view.Find(peer->first) == nullptr ? peers_.erase(peer) : std::next(peer);
  }
  if (node == nullptr || node->address.port == 0) return nullptr;
  Peer& peer = peers_[id];
  if (peer.channel == nullptr || peer.address != node->address || peer.incarnation != node->incarnation) {
    peer = {node->address, node->incarnation, transport_->Connect(node->address.ToString())};
  }
  return runtime_->Now() < peer.leave_alone_until ? nullptr : peer.channel;
}

void Peers::Failed(const NodeId& id) {
  std::lock_guard lock(mutex_);
  const auto peer = peers_.find(id);
  if (peer != peers_.end()) peer->second.leave_alone_until = runtime_->Now() + kLeaveAlone;
}

}  // namespace kvist
