// Goal: the threads of a membership (its keeper, its watch, its watchers, its callers) agree, whatever breaks when.
// Method: members on the real clock over one etcd in memory that several threads break; no gRPC, so that the thread
// sanitizer sees everything. Waits are for conditions.
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/cluster/etcd_membership.h"
#include "tests/services/cluster/fake_etcd.h"

namespace kvist {
namespace {

using testing::FakeEtcd;
using Fault = FakeEtcd::Fault;

absl::Time In(double seconds) { return absl::Now() + absl::Seconds(seconds); }

Node NodeOf(int i) {
  Node node;
  node.id.value = absl::StrCat("n", i);
  node.address = {"127.0.0.1", static_cast<uint16_t>(1 + i)};
  return node;
}

EtcdOptions Options() {
  EtcdOptions options;
  options.endpoints = {"fake:1"};
  options.lease = absl::Seconds(1);
  options.call_deadline = absl::Milliseconds(300);
  options.hold = absl::Seconds(1);
  return options;
}

class EtcdKeeperTest : public ::testing::Test {
 protected:
  std::unique_ptr<Membership> NewMember() {
    return NewMembershipOver(std::make_unique<testing::FakeConnection>(&etcd_), Options(), RealRuntime());
  }
  static bool WaitFor(const std::function<bool()>& condition) {
    for (const absl::Time deadline = In(30); !condition();) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return true;
  }

  FakeEtcd etcd_{RealRuntime()};
};

TEST_F(EtcdKeeperTest, RegisterReturnsForTheRecordOfThatVeryCall) {
  const auto member = NewMember();
  for (int i = 0; i < 200; ++i) {
    Node self = NodeOf(0);
    self.weight = i + 1;
    const bool update = i > 0 && i % 2 == 0;
    const absl::Status done = update ? member->Update(self, In(10)) : member->Register(self, In(10));
    ASSERT_TRUE(done.ok()) << done;
    ASSERT_EQ(member->view()->Find(self.id)->weight, i + 1);
  }
  EXPECT_EQ(member->health().registrations, 1u);
}

TEST_F(EtcdKeeperTest, ACallWhoseAnswerIsLateGoesOnAndTheNextOneFinishesIt) {
  const auto member = NewMember();
  EXPECT_TRUE(absl::IsDeadlineExceeded(member->Register(NodeOf(0), absl::InfinitePast())));
  EXPECT_TRUE(WaitFor([&] { return member->health().registered; }));
  Node changed = NodeOf(0);
  changed.state = NodeState::kJoining;
  EXPECT_TRUE(member->Register(changed, In(10)).ok());
  EXPECT_EQ(member->view()->Find(changed.id)->state, NodeState::kJoining);
  EXPECT_TRUE(member->Leave(In(10)).ok());
  EXPECT_FALSE(etcd_.Find("/kvist/kvist/nodes/n0").has_value());
}

TEST_F(EtcdKeeperTest, AMemberMayBeDestroyedAtAnyTime) {
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < 60; ++i) {
    const auto member = NewMember();
    member->Watch([&](std::shared_ptr<const View> view) { EXPECT_FALSE(view->nodes.empty()); });
    const std::unique_ptr<Thread> caller = RealRuntime()->Start([&] {
      member->Register(NodeOf(i), In(0.01)).IgnoreError();
      if (i % 3 == 0) member->Leave(In(0.01)).IgnoreError();
    });
    absl::SleepFor(absl::Microseconds(static_cast<int64_t>(random() % 3'000)));
  }
}

TEST_F(EtcdKeeperTest, MembersThatLoseAnswersAndConnectionsAndEtcdItselfAllStandInTheEnd) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  constexpr int kMembers = 5;
  std::atomic<bool> went_down = false;
  std::vector<std::atomic<uint64_t>> numbers(kMembers);
  std::vector<std::unique_ptr<Membership>> members;
  for (int i = 0; i < kMembers; ++i) {
    members.push_back(NewMember());
    members.back()->Watch([&, i](std::shared_ptr<const View> view) {
      if (view->number.value <= numbers[i]) went_down = true;
      numbers[i] = view->number.value;
    });
  }
  std::vector<std::unique_ptr<Thread>> callers;
  std::atomic<bool> calm = false;
  for (int i = 0; i < kMembers; ++i) {
    callers.push_back(RealRuntime()->Start([&, i] {
      for (int round = 0; !calm; ++round) {
        Node self = NodeOf(i);
        self.weight = 1 + round % 3;
        members[i]->Register(self, In(0.2)).IgnoreError();
        if (round % 20 == 19) members[i]->Leave(In(0.1)).IgnoreError();
        (void)members[i]->health();
      }
    }));
  }
  for (const absl::Time end = In(6); absl::Now() < end;) {
    switch (random() % 16) {
      case 0:
        etcd_.BreakWatches();
        break;
      case 1:
        if (random() % 4 == 0) etcd_.Wipe();
        break;
      case 2:
        etcd_.Delete(absl::StrCat("/kvist/kvist/nodes/n", random() % kMembers));
        break;
      case 3:
        etcd_.Delete("/kvist/kvist/base");
        break;
      default:
        etcd_.FailOnce(random() % 2 == 0 ? Fault::kAnswerLost : Fault::kNotMade, static_cast<int>(random() % 5));
    }
    absl::SleepFor(absl::Milliseconds(static_cast<int64_t>(random() % 40)));
  }
  calm = true;
  callers.clear();
  etcd_.FailOnce(Fault::kNone);
  for (int i = 0; i < kMembers; ++i) {
    const absl::Status done = members[i]->Register(NodeOf(i), In(20));
    ASSERT_TRUE(done.ok()) << done;
  }
  EXPECT_TRUE(WaitFor([&] {
    for (const auto& member : members) {
      const auto view = member->view();
      if (!member->health().registered || view->nodes.size() != kMembers) return false;
      if (view->nodes != members[0]->view()->nodes) return false;
    }
    return true;
  }));
  EXPECT_FALSE(went_down);
}

}  // namespace
}  // namespace kvist
