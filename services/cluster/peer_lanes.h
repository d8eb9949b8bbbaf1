// Tasks that wait for peers, in lanes of one kind and one peer: what holds one peer up holds nobody else up.
//
// A lane is first in, first out, and has at most `lane_width` tasks under way; a peer at most `peer_width` in all its
// lanes. A lane rests after a failure; a whole peer can rest (it said when to come again), and so can a kind (to keep
// to a rate). Lanes take turns.
//
// Threads the caller serializes.
#ifndef KVIST_SERVICES_CLUSTER_PEER_LANES_H_
#define KVIST_SERVICES_CLUSTER_PEER_LANES_H_

#include <algorithm>
#include <compare>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "services/cluster/view.h"

namespace kvist {

struct LaneId {
  int kind = 0;
  NodeId peer;
  friend auto operator<=>(const LaneId&, const LaneId&) = default;
};

template <typename Task>
class PeerLanes {
 public:
  struct Taken {
    LaneId lane;
    Task task;
  };

  PeerLanes(int lane_width, int peer_width) : lane_width_(lane_width), peer_width_(peer_width) {}

  void Push(const LaneId& id, Task task) {
    lanes_[id].tasks.push_back(std::move(task));
    ++waiting_[id.kind];
  }

  // A task that may start now; it is under way until Done or Retry. If there is none, `wake` is when there may be one
  // without further calls (InfiniteFuture: never).
  std::optional<Taken> Take(absl::Time now, absl::Time* wake) {
    *wake = absl::InfiniteFuture();
    auto lane = lanes_.upper_bound(last_);
    for (size_t i = 0; i < lanes_.size(); ++i, ++lane) {
      if (lane == lanes_.end()) lane = lanes_.begin();
      if (lane->second.tasks.empty() || lane->second.under_way >= lane_width_) continue;
      const auto peer = peers_.find(lane->first.peer);
      if (peer != peers_.end() && peer->second >= peer_width_) continue;
      const absl::Time start = StartOf(lane->first, lane->second);
      if (start > now) {
        *wake = std::min(*wake, start);
        continue;
      }
      last_ = lane->first;
      ++lane->second.under_way;
      ++peers_[last_.peer];
      --waiting_[last_.kind];
      Taken taken{last_, std::move(lane->second.tasks.front())};
      lane->second.tasks.pop_front();
      return taken;
    }
    return std::nullopt;
  }

  // The task is over; `failed` says whether the peer is to blame, which counts for Retry and failing_since.
  void Done(const LaneId& id, bool failed) {
    End(id);
    const auto lane = lanes_.find(id);
    if (!failed) lane->second.failures = 0;
    if (lane->second.tasks.empty() && lane->second.under_way == 0) lanes_.erase(lane);
  }
  // The task comes first again once the lane has rested.
  void Retry(const LaneId& id, Task task, absl::Time now, absl::Time rest_until) {
    End(id);
    Lane& lane = lanes_[id];
    if (lane.failures++ == 0) lane.failing_since = now;
    lane.rest_until = std::max(lane.rest_until, rest_until);
    lane.tasks.push_front(std::move(task));
    ++waiting_[id.kind];
  }
  // The task comes last once the lane has rested; nobody is to blame.
  void Postpone(const LaneId& id, Task task, absl::Time rest_until) {
    End(id);
    Lane& lane = lanes_[id];
    lane.rest_until = std::max(lane.rest_until, rest_until);
    lane.tasks.push_back(std::move(task));
    ++waiting_[id.kind];
  }
  void RestKind(int kind, absl::Time until) { kind_rests_until_[kind] = until; }
  // Until then, unless it rests longer already.
  void RestPeer(const NodeId& peer, absl::Time now, absl::Time until) {
    for (auto rest = peer_rests_until_.begin(); rest != peer_rests_until_.end();) {
      rest = rest->second <= now ? peer_rests_until_.erase(rest) : std::next(rest);
    }
    absl::Time& rest = peer_rests_until_.try_emplace(peer, until).first->second;
    rest = std::max(rest, until);
  }

  // Takes out all that wait in a lane.
  std::vector<Task> Drop(const LaneId& id) {
    std::vector<Task> dropped;
    const auto lane = lanes_.find(id);
    if (lane == lanes_.end()) return dropped;
    for (Task& task : lane->second.tasks) dropped.push_back(std::move(task));
    lane->second.tasks.clear();
    waiting_[id.kind] -= dropped.size();
    if (lane->second.under_way == 0) lanes_.erase(lane);
    return dropped;
  }

  std::vector<LaneId> ids() const {
    std::vector<LaneId> ids;
    for (const auto& [id, lane] : lanes_) ids.push_back(id);
    return ids;
  }
  int failures(const LaneId& id) const {
    const auto lane = lanes_.find(id);
    return lane == lanes_.end() ? 0 : lane->second.failures;
  }
  // InfiniteFuture: the last task of the lane did not fail.
  absl::Time failing_since(const LaneId& id) const {
    const auto lane = lanes_.find(id);
    return lane == lanes_.end() || lane->second.failures == 0 ? absl::InfiniteFuture() : lane->second.failing_since;
  }
  size_t waiting(int kind) const {
    const auto count = waiting_.find(kind);
    return count == waiting_.end() ? 0 : count->second;
  }
  size_t waiting(const LaneId& id) const {
    const auto lane = lanes_.find(id);
    return lane == lanes_.end() ? 0 : lane->second.tasks.size();
  }
  bool empty() const { return lanes_.empty(); }  // nothing waits, and nothing is under way

 private:
  struct Lane {
    std::deque<Task> tasks;
    int under_way = 0, failures = 0;
    absl::Time rest_until = absl::InfinitePast(), failing_since;
  };

  absl::Time StartOf(const LaneId& id, const Lane& lane) const {
    const auto kind = kind_rests_until_.find(id.kind);
    const auto peer = peer_rests_until_.find(id.peer);
    return std::max({lane.rest_until, kind == kind_rests_until_.end() ? absl::InfinitePast() : kind->second,
                     peer == peer_rests_until_.end() ? absl::InfinitePast() : peer->second});
  }
  void End(const LaneId& id) {
    --lanes_[id].under_way;
    if (--peers_[id.peer] == 0) peers_.erase(id.peer);
  }

  const int lane_width_, peer_width_;
  std::map<LaneId, Lane> lanes_;  // a lane is there while a task of it waits or is under way
  std::map<NodeId, int> peers_;   // tasks under way
  std::map<int, size_t> waiting_;
  std::map<int, absl::Time> kind_rests_until_;
  std::map<NodeId, absl::Time> peer_rests_until_;
  LaneId last_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_PEER_LANES_H_
