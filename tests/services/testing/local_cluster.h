// Several nodes in the test's process, all of a node but its sockets, that reach each other without a wire under a view
// that the test sets.
#ifndef KVIST_TESTS_SERVICES_TESTING_LOCAL_CLUSTER_H_
#define KVIST_TESTS_SERVICES_TESTING_LOCAL_CLUSTER_H_

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "services/cluster/membership.h"
#include "services/node/local_channel.h"
#include "services/node/node_core.h"
#include "services/node/replication.h"

namespace kvist::testing {

// One view for everybody, which shows what its members report of themselves.
class GivenMembership final : public Membership {
 public:
  void Set(View view) {
    std::vector<std::function<void(std::shared_ptr<const View>)>> watchers;
    std::shared_ptr<const View> current;
    {
      std::lock_guard lock(mutex_);
      view_ = current = std::make_shared<const View>(std::move(view));
      watchers = watchers_;
    }
    for (const auto& watcher : watchers) watcher(current);
  }
  std::shared_ptr<const View> view() const override {
    std::lock_guard lock(mutex_);
    return view_;
  }
  void Watch(std::function<void(std::shared_ptr<const View>)> watcher) override {
    std::lock_guard lock(mutex_);
    watchers_.push_back(std::move(watcher));
  }
  absl::Status Register(const Node& self, absl::Time deadline) override { return Update(self, deadline); }
  absl::Status Update(const Node& self, absl::Time) override {
    std::lock_guard updating(update_mutex_);
    View view = *this->view();
    for (Node& node : view.nodes) {
      if (node.id == self.id) node = self;
    }
    ++view.number.value;
    Set(std::move(view));
    return absl::OkStatus();
  }
  absl::Status Leave(absl::Time) override { return absl::OkStatus(); }
  MembershipHealth health() const override {
    MembershipHealth health;
    health.connected = health.registered = true;
    return health;
  }

 private:
  std::mutex update_mutex_;  // one change at a time
  mutable std::mutex mutex_;
  std::shared_ptr<const View> view_;
  std::vector<std::function<void(std::shared_ptr<const View>)>> watchers_;
};

class LocalCluster final : public Transport {
 public:
  // Nodes n0, n1, ... of `capacity_bytes` each, all serving. A view may also name nodes that do not exist.
  LocalCluster(size_t nodes, uint64_t capacity_bytes) {
    View view;
    view.number.value = 1;
    for (size_t i = 0; i < nodes; ++i) {
      Node node;
      node.id.value = "n" + std::to_string(i);
      node.address = {node.id.value, 1};
      node.capacity_bytes = capacity_bytes;
      view.nodes.push_back(node);
    }
    membership_.Set(view);
    for (const Node& node : view.nodes) {
      NodeCoreOptions options;
      options.fixed_view = nullptr;
      options.id = node.id;
      options.capacity_bytes = capacity_bytes;
      options.prefault = false;
      options.weight = 1;
      options.join_ramp = options.join_window = absl::ZeroDuration();
      options.make_hooks = [capacity_bytes](const NodeParts& parts) { return ReplicationHooks(parts, capacity_bytes); };
      cores_[node.id.value] = *NodeCore::Create(std::move(options), RealRuntime(), this, &membership_);
    }
    for (const auto& [id, core] : cores_) core->Start({id, 1}, {id, 2});
    // By the view, which is told of a node's state a moment after the node knows it.
    const auto serves = [](const Node& node) { return node.state == NodeState::kServing; };
    for (const auto& [id, core] : cores_) {
      while (!core->status().ready || core->status().state != NodeState::kServing)
        absl::SleepFor(absl::Milliseconds(1));
    }
    for (View now = this->view(); !std::all_of(now.nodes.begin(), now.nodes.end(), serves); now = this->view()) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  ~LocalCluster() override;  // no call is let through any more, and none is under way when the nodes go

  std::unique_ptr<Channel> Connect(const std::string& address) override;

  View view() const { return *membership_.view(); }
  void SetView(View view) {
    view.number.value = membership_.view()->number.value + 1;
    membership_.Set(std::move(view));
  }
  NodeCore* node(const std::string& id) { return cores_.at(id).get(); }
  // Calls to a node that is cut off fail as Unavailable.
  void CutOff(const std::string& id, bool cut = true) {
    std::lock_guard lock(mutex_);
    cut ? (void)cut_.insert(id) : (void)cut_.erase(id);
  }

  // A call of one node to another, for its length.
  class Call {
   public:
    Call(LocalCluster* cluster, const std::string& id);
    ~Call();
    Call(const Call&) = delete;
    bool let_through() const { return let_through_; }

   private:
    LocalCluster* const cluster_;
    bool let_through_ = false;
  };

 private:
  GivenMembership membership_;
  std::mutex mutex_;
  std::condition_variable call_ended_;
  int calls_ = 0;  // let through and under way
  bool closing_ = false;
  std::set<std::string> cut_;
  std::map<std::string, std::unique_ptr<NodeCore>> cores_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TESTING_LOCAL_CLUSTER_H_
