// Goal: one node's record stands, or a sentence says why not, whatever etcd and other nodes do meanwhile.
// Method: the registration by itself, over an etcd in memory whose answers get lost and whose clock the test turns.
#include "services/cluster/etcd_registration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "services/cluster/records.h"
#include "tests/services/cluster/fake_etcd.h"

namespace kvist {
namespace {

using testing::FakeEtcd;
using ::testing::HasSubstr;
using Fault = FakeEtcd::Fault;

Node NodeOf(const std::string& host, NodeState state = NodeState::kServing) {
  Node node;
  node.id.value = "a";
  node.address = {host, 7070};
  node.state = state;
  return node;
}

class EtcdRegistrationTest : public ::testing::Test {
 protected:
  void SetUp() override { options_.lease = absl::Seconds(9); }

  // What the keeper does between two waits. Whether the conversation goes on.
  bool Step() {
    members_.Apply(etcd_.EventsSince(members_.revision()), runtime_.now);
    const bool goes_on = registration_.Step().ok();
    members_.Apply(etcd_.EventsSince(members_.revision()), runtime_.now);
    members_.TakeView();
    return goes_on;
  }
  // Turns the clock as the keeper would wait.
  void Run(absl::Duration duration) {
    for (const absl::Time end = runtime_.now + duration;;) {
      Step();
      if (registration_.Next() > end) {
        runtime_.now = end;
        return;
      }
      runtime_.now = std::max(runtime_.now + absl::Milliseconds(1), registration_.Next());
    }
  }
  Node Stored() {
    const std::optional<EtcdKeyValue> entry = etcd_.Find(kKey);
    const absl::StatusOr<Node> node = !entry ? absl::NotFoundError("no record") : RecordFromJson(entry->value);
    EXPECT_TRUE(node.ok()) << node.status();
    return node.ok() ? *node : Node();
  }
  void Want(const Node& node) { registration_.Want(node, ++generation_); }
  std::string OtherRecord(uint64_t incarnation = 5) {
    Node other = NodeOf("elsewhere");
    other.incarnation = incarnation;
    return RecordToJson(other);
  }

  const std::string kKey = "/kvist/c/nodes/a";
  EtcdOptions options_;
  testing::ManualRuntime runtime_;
  FakeEtcd etcd_{&runtime_};
  EtcdMembers members_{"c", absl::Seconds(10)};
  EtcdRegistration registration_{options_, &etcd_, &members_, &runtime_};
  uint64_t generation_ = 0;
};

TEST_F(EtcdRegistrationTest, ARecordStandsAndItsLeaseIsRenewedAtAThird) {
  Want(NodeOf("here"));
  ASSERT_TRUE(Step());
  EXPECT_TRUE(registration_.stands());
  EXPECT_EQ(registration_.written_generation(), 1u);
  EXPECT_EQ(registration_.Next(), runtime_.now + absl::Seconds(3));
  EXPECT_EQ(registration_.lease_ends(), runtime_.now + absl::Seconds(7.2));
  Run(absl::Minutes(5));
  EXPECT_EQ(registration_.registrations(), 1u);
  EXPECT_EQ(Stored().incarnation, registration_.incarnation());
  EXPECT_EQ(etcd_.leases(), 1u);
}

TEST_F(EtcdRegistrationTest, AChangeKeepsTheIncarnation) {
  Want(NodeOf("here", NodeState::kJoining));
  Step();
  const uint64_t incarnation = registration_.incarnation();
  Want(NodeOf("here", NodeState::kDraining));
  EXPECT_EQ(registration_.Next(), absl::InfinitePast());
  Step();
  EXPECT_EQ(Stored().state, NodeState::kDraining);
  EXPECT_EQ(Stored().incarnation, incarnation);
  EXPECT_EQ(registration_.written_generation(), 2u);
}

TEST_F(EtcdRegistrationTest, AnIncarnationIsGreaterThanAnySeenThoughTheClockStandsStill) {
  Want(NodeOf("here"));
  Step();
  for (uint64_t life = 2; life < 6; ++life) {
    const uint64_t before = registration_.incarnation();
    etcd_.Delete(kKey);
    Step();
    EXPECT_EQ(registration_.registrations(), life);
    EXPECT_EQ(registration_.incarnation(), before + 1);
  }
}

TEST_F(EtcdRegistrationTest, ALeaseThatEndedMeansANewLife) {
  Want(NodeOf("here"));
  Step();
  const uint64_t before = registration_.incarnation();
  runtime_.now += absl::Minutes(1);  // stopped, or cut off
  Run(absl::Seconds(1));
  EXPECT_TRUE(registration_.stands());
  EXPECT_EQ(registration_.registrations(), 2u);
  EXPECT_GT(Stored().incarnation, before);
}

TEST_F(EtcdRegistrationTest, AnEarlierLifeOfOursIsWrittenOver) {
  Node earlier = NodeOf("here");
  earlier.incarnation = uint64_t{1} << 60;  // its clock was wrong
  etcd_.Write(kKey, RecordToJson(earlier), etcd_.NewLease(absl::Seconds(9)));
  Want(NodeOf("here"));
  Step();
  EXPECT_TRUE(registration_.stands());
  EXPECT_EQ(Stored().incarnation, (uint64_t{1} << 60) + 1);
  Run(absl::Seconds(20));
  EXPECT_TRUE(registration_.stands()) << "the earlier life's lease took nothing with it";
  EXPECT_EQ(registration_.registrations(), 1u);
}

TEST_F(EtcdRegistrationTest, GarbageAndARecordWithoutALeaseAreWrittenOver) {
  etcd_.Write(kKey, "\x01not a record", etcd_.NewLease(absl::Hours(1)));
  Want(NodeOf("here"));
  Step();
  EXPECT_EQ(Stored().address.host, "here");
  etcd_.Write(kKey, OtherRecord(), 0);  // by hand
  Run(absl::Seconds(5));
  EXPECT_EQ(Stored().address.host, "here");
  EXPECT_EQ(registration_.registrations(), 2u);
}

TEST_F(EtcdRegistrationTest, ADeadNodeElsewhereIsWaitedFor) {
  etcd_.Write(kKey, OtherRecord(), etcd_.NewLease(absl::Seconds(9)));
  Want(NodeOf("here"));
  Run(absl::Seconds(8));
  EXPECT_FALSE(registration_.stands());
  EXPECT_THAT(registration_.problem(), HasSubstr("the id \"a\" is taken by a node at elsewhere:7070; it lives, or"));
  EXPECT_TRUE(registration_.TakeRefusal().ok());
  Run(absl::Seconds(2));
  EXPECT_TRUE(registration_.stands());
  EXPECT_EQ(registration_.problem(), "");
  EXPECT_EQ(Stored().address.host, "here");
}

TEST_F(EtcdRegistrationTest, ALivingNodeElsewhereRefusesUsAtItsNextRenewal) {
  const int64_t lease = etcd_.NewLease(absl::Seconds(9));
  etcd_.Write(kKey, OtherRecord(), lease);
  Want(NodeOf("here"));
  absl::Status refusal;
  const absl::Time begin = runtime_.now;
  while (refusal.ok() && runtime_.now < begin + absl::Seconds(20)) {
    Run(absl::Seconds(3));
    etcd_.Renew(lease);
    Run(absl::Milliseconds(300));
    refusal = registration_.TakeRefusal();
  }
  EXPECT_EQ(refusal.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(refusal.message()), HasSubstr("taken by a node at elsewhere:7070, which lives"));
  EXPECT_LT(runtime_.now - begin, absl::Seconds(7));
  EXPECT_EQ(Stored().address.host, "elsewhere");
  EXPECT_EQ(etcd_.leases(), 1u) << "none of ours";
  EXPECT_EQ(registration_.Next(), absl::InfiniteFuture());
  Want(NodeOf("here"));
  Run(absl::Seconds(1));
  EXPECT_TRUE(absl::IsAlreadyExists(registration_.TakeRefusal())) << "what is known is said at once";
}

TEST_F(EtcdRegistrationTest, ALivingNodeOfALaterProtocolRefusesUsToo) {
  Node later = NodeOf("elsewhere");
  later.protocol = kProtocolVersion + 1;
  const int64_t lease = etcd_.NewLease(absl::Seconds(9));
  etcd_.Write(kKey, RecordToJson(later), lease);
  Want(NodeOf("here"));
  Run(absl::Seconds(3));
  etcd_.Renew(lease);
  Run(absl::Seconds(2));
  EXPECT_TRUE(absl::IsAlreadyExists(registration_.TakeRefusal()));
}

TEST_F(EtcdRegistrationTest, WhoTookOurIdWhileWeWereAwayIsNotWrittenOverAndTheNodeKeepsTrying) {
  Want(NodeOf("here"));
  Step();
  runtime_.now += absl::Minutes(1);
  const int64_t lease = etcd_.NewLease(absl::Seconds(9));
  members_.Apply(etcd_.EventsSince(members_.revision()), runtime_.now);
  etcd_.Write(kKey, OtherRecord(), lease);
  for (int i = 0; i < 5; ++i) {
    Run(absl::Seconds(3));
    etcd_.Renew(lease);
  }
  EXPECT_FALSE(registration_.stands());
  EXPECT_EQ(Stored().address.host, "elsewhere");
  EXPECT_THAT(registration_.problem(), HasSubstr("which lives"));
  EXPECT_TRUE(registration_.TakeRefusal().ok()) << "we were a member: this may pass";
  Run(absl::Seconds(30));  // it dies
  EXPECT_TRUE(registration_.stands());
  EXPECT_EQ(Stored().address.host, "here");
}

TEST_F(EtcdRegistrationTest, AnAnswerThatIsLostLeavesOneRecordAndNoLeaseThatStays) {
  for (const Fault fault : {Fault::kAnswerLost, Fault::kNotMade}) {
    for (int call = 0; call < 2; ++call) {  // the grant, the write
      SCOPED_TRACE(call);
      EtcdRegistration registration(options_, &etcd_, &members_, &runtime_);
      etcd_.Wipe();
      etcd_.FailOnce(fault, call);
      registration.Want(NodeOf("here"), 1);
      EXPECT_TRUE(absl::IsUnavailable(registration.Step()));
      members_.Apply(*etcd_.List(members_.prefix()), runtime_.now);
      EXPECT_TRUE(registration.Step().ok());
      EXPECT_TRUE(registration.stands());
      EXPECT_EQ(Stored().incarnation, registration.incarnation());
      runtime_.now += options_.lease - absl::Seconds(1);
      EXPECT_TRUE(registration.Step().ok());
      runtime_.now += absl::Seconds(2);
      EXPECT_TRUE(etcd_.Find(kKey).has_value());
      EXPECT_EQ(etcd_.leases(), 1u);
    }
  }
}

TEST_F(EtcdRegistrationTest, ARefusalByEtcdIsFinalBeforeTheFirstTimeAndASentenceAfter) {
  Want(NodeOf("here"));
  etcd_.FailOnce(Fault::kRefused);
  ASSERT_TRUE(Step());
  const absl::Status refusal = registration_.TakeRefusal();
  EXPECT_TRUE(absl::IsFailedPrecondition(refusal)) << refusal;
  EXPECT_THAT(std::string(refusal.message()), HasSubstr("permission denied"));
  Want(NodeOf("here"));
  ASSERT_TRUE(Step());
  ASSERT_TRUE(registration_.stands());
  Want(NodeOf("here", NodeState::kDraining));
  etcd_.FailOnce(Fault::kRefused);
  ASSERT_TRUE(Step());
  EXPECT_TRUE(registration_.TakeRefusal().ok());
  EXPECT_THAT(registration_.problem(), HasSubstr("permission denied"));
  EXPECT_EQ(registration_.written_generation(), 2u) << "the change does not stand";
  Run(absl::Seconds(2));
  EXPECT_EQ(Stored().state, NodeState::kDraining);
  EXPECT_EQ(registration_.problem(), "");
}

TEST_F(EtcdRegistrationTest, LeavingTakesTheRecordAwayAndAnotherLifeMayFollow) {
  Want(NodeOf("here"));
  Step();
  ASSERT_TRUE(registration_.Leave().ok());
  EXPECT_FALSE(etcd_.Find(kKey).has_value());
  EXPECT_EQ(registration_.Next(), absl::InfiniteFuture());
  Run(absl::Minutes(1));
  EXPECT_FALSE(etcd_.Find(kKey).has_value());
  Want(NodeOf("here"));
  Step();
  EXPECT_TRUE(registration_.stands());
  etcd_.FailOnce(Fault::kNotMade);
  EXPECT_TRUE(absl::IsUnavailable(registration_.Leave())) << "to be tried again";
  EXPECT_TRUE(registration_.Leave().ok());
  EXPECT_FALSE(etcd_.Find(kKey).has_value());
}

TEST_F(EtcdRegistrationTest, WhateverHappensTheRecordStandsOnceThereIsCalm) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    NodeState state = NodeState::kServing;
    Want(NodeOf("here", state));
    for (int step = 0; step < 60; ++step) {
      if (random() % 3 == 0) etcd_.FailOnce(random() % 2 == 0 ? Fault::kNotMade : Fault::kAnswerLost);
      switch (random() % 8) {
        case 0:
          etcd_.Delete(kKey);
          break;
        case 1:
          state = random() % 2 == 0 ? NodeState::kDraining : NodeState::kServing;
          Want(NodeOf("here", state));
          break;
        case 2:
          if (random() % 4 == 0) etcd_.Write(kKey, OtherRecord(), etcd_.NewLease(absl::Seconds(9)));
          break;
        case 3:
          if (random() % 4 == 0) etcd_.Wipe();
          break;
        default:
          runtime_.now += absl::Milliseconds(static_cast<int64_t>(random() % 4'000));
      }
      if (!Step()) members_.Apply(*etcd_.List(members_.prefix()), runtime_.now);  // the keeper converses anew
      ASSERT_TRUE(registration_.TakeRefusal().ok()) << "round " << round << " step " << step;
    }
    etcd_.FailOnce(Fault::kNone);
    members_.Apply(*etcd_.List(members_.prefix()), runtime_.now);
    Run(absl::Seconds(25));
    ASSERT_TRUE(registration_.stands()) << "round " << round << ": " << registration_.problem();
    ASSERT_EQ(Stored().address.host, "here") << "round " << round;
    ASSERT_EQ(Stored().state, state) << "round " << round;
    ASSERT_EQ(Stored().incarnation, registration_.incarnation()) << "round " << round;
    ASSERT_LE(etcd_.leases(), 1u) << "round " << round;
  }
}

}  // namespace
}  // namespace kvist
