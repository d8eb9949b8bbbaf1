#include "services/cluster/peers.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/transport/retry_hint.h"

namespace kvist {

absl::StatusOr<std::shared_ptr<Channel>> Peers::Connect(const NodeId& id, const View& view) {
  std::vector<std::shared_ptr<Channel>> closed;  // destroyed without the lock
  const Node* node = view.Find(id);
  std::lock_guard lock(mutex_);
  if (view.number > pruned_) {
    pruned_ = view.number;
    for (auto peer = peers_.begin(); peer != peers_.end();) {
      if (view.Find(peer->first) != nullptr) {
        ++peer;
        continue;
      }
      closed.push_back(std::move(peer->second.channel));
      peer = peers_.erase(peer);
    }
  }
  if (node == nullptr) {
    return absl::NotFoundError(absl::StrCat("view ", view.number.value, " has no node ", id.value));
  }
  if (node->address.port == 0) {
    return WithRetryHint(absl::UnavailableError(absl::StrCat("the address of ", id.value, " is not known yet")),
                         kFirstPause);
  }
  Peer& peer = peers_[id];
  if (peer.channel == nullptr || peer.address != node->address || peer.incarnation != node->incarnation) {
    closed.push_back(std::move(peer.channel));
    peer = Peer{node->address, node->incarnation, transport_->Connect(node->address.ToString())};
  }
  const absl::Time now = runtime_->Now();
  if (now < peer.leave_alone_until) {
    return WithRetryHint(absl::UnavailableError(absl::StrCat(id.value, " does not answer")),
                         peer.leave_alone_until - now);
  }
  if (peer.failures > 0) LeaveAlone(&peer);  // this caller finds out for the others
  return peer.channel;
}

void Peers::LeaveAlone(Peer* peer) {
  const absl::Duration pause = std::min(kLongestPause, kFirstPause * (1 << std::min(peer->failures - 1, 10)));
  const double chance = static_cast<double>(runtime_->Random() >> 11) * 0x1p-53;
  peer->leave_alone_until = runtime_->Now() + pause * (0.75 + 0.5 * chance);
}

void Peers::Report(const NodeId& id, const std::shared_ptr<Channel>& channel, const absl::Status& status) {
  std::lock_guard lock(mutex_);
  const auto found = peers_.find(id);
  if (found == peers_.end() || found->second.channel != channel) return;  // of a life that is over
  Peer& peer = found->second;
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
    ++peer.failures;
    LeaveAlone(&peer);
  } else {
    peer.failures = 0;
    peer.leave_alone_until = absl::InfinitePast();
  }
}

}  // namespace kvist
