// What the membership tests share: nodes, waits for conditions, and members of one real etcd.
#ifndef KVIST_TESTS_SERVICES_CLUSTER_MEMBERSHIP_FIXTURE_H_
#define KVIST_TESTS_SERVICES_CLUSTER_MEMBERSHIP_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "services/cluster/membership.h"
#include "tests/services/testing/etcd_process.h"

namespace kvist::testing {

inline absl::Time In(double seconds) { return absl::Now() + absl::Seconds(seconds); }

inline bool WaitFor(const std::function<bool()>& condition, double seconds = 20) {
  for (const absl::Time deadline = In(seconds); !condition();) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

inline Node NodeOf(const std::string& id, uint16_t port) {
  Node node;
  node.id.value = id;
  node.address = {"127.0.0.1", port};
  node.capacity_bytes = 1 << 20;
  return node;
}

inline std::string Ids(const Membership& member) {
  const auto view = member.view();
  if (view == nullptr) return "none";
  return absl::StrJoin(view->nodes, " ",
                       [](std::string* out, const Node& node) { absl::StrAppend(out, node.id.value); });
}
inline uint64_t Number(const Membership& member) {
  const auto view = member.view();
  return view == nullptr ? 0 : view->number.value;
}
inline uint64_t Incarnation(const Membership& member, const std::string& id) {
  const auto view = member.view();
  const Node* node = view == nullptr ? nullptr : view->Find(NodeId{id});
  return node == nullptr ? 0 : node->incarnation;
}

// Follows the views of a member, and complains when one is not newer than the last.
class Follower {
 public:
  explicit Follower(Membership* member) {
    member->Watch([state = state_](std::shared_ptr<const View> view) {
      std::lock_guard lock(state->mutex);
      EXPECT_GT(view->number, state->last);
      state->last = view->number;
      state->fewest = std::min(state->fewest, view->nodes.size());
      ++state->views;
    });
  }
  size_t fewest() const {
    std::lock_guard lock(state_->mutex);
    return state_->fewest;
  }
  size_t views() const {
    std::lock_guard lock(state_->mutex);
    return state_->views;
  }

 private:
  struct State {
    std::mutex mutex;
    ViewNumber last;
    size_t fewest = SIZE_MAX, views = 0;
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

class EtcdTest : public ::testing::Test {
 protected:
  explicit EtcdTest(std::vector<std::string> flags = {}, std::string scheme = "http")
      : etcd_(std::move(flags), std::move(scheme)) {}

  EtcdOptions Options() const {
    EtcdOptions options;
    options.endpoints = {etcd_.client_address().ToString()};
    options.lease = absl::Seconds(2);
    options.call_deadline = absl::Seconds(1);
    options.hold = absl::Seconds(4);
    return options;
  }
  static std::unique_ptr<Membership> NewMember(const EtcdOptions& options) {
    auto made = NewEtcdMembership(options, RealRuntime());
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  std::unique_ptr<Membership> NewMember() const { return NewMember(Options()); }
  // Members n0, n1, ... that all see each other.
  std::vector<std::unique_ptr<Membership>> NewCluster(size_t count) {
    std::vector<std::unique_ptr<Membership>> members;
    for (size_t i = 0; i < count; ++i) {
      members.push_back(NewMember());
      const absl::Status registered = members.back()->Register(NodeOf(absl::StrCat("n", i), 1 + i), In(20));
      EXPECT_TRUE(registered.ok()) << registered;
    }
    EXPECT_TRUE(AllSeeAll(members));
    return members;
  }
  static bool AllSeeAll(const std::vector<std::unique_ptr<Membership>>& members) {
    return WaitFor([&] {
      for (const auto& member : members) {
        const MembershipHealth health = member->health();
        if (!health.registered || !health.connected || Ids(*member) != Ids(*members[0])) return false;
        if (member->view()->nodes.size() != members.size()) return false;
      }
      return true;
    });
  }
  Ended Etcdctl(std::vector<std::string> words) const { return etcd_.Etcdctl(std::move(words)); }
  std::string Stored(const std::string& id) const {
    return Etcdctl({"get", "--print-value-only", "/kvist/kvist/nodes/" + id}).output;
  }

  EtcdProcess etcd_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_CLUSTER_MEMBERSHIP_FIXTURE_H_
