// Goal: Put obeys nodes that are full, follows blocks to new owners, and says where copies belong. Method: a client
// over nodes in memory that refuse, drain, and record what they were asked to reserve.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include <set>

#include "tests/services/worker/client_fixture.h"

namespace kvist {
namespace {

using testing::HasSubstr;

class PutTest : public ClientTest {
 protected:
  // The cluster after this node has begun to drain; every node knows it.
  View Drain(size_t node) {
    View next = cluster_.view();
    next.number.value = 2;
    next.nodes[node].state = NodeState::kDraining;
    cluster_.Publish(next);
    cluster_.node(node).draining = true;
    return next;
  }
};

TEST_F(PutTest, ReservationsNameTheSegmentAndTheCopies) {
  options_.replicas = 2;
  Put();
  std::set<std::string> reserved;
  for (size_t i = 0; i < 3; ++i) {
    for (const v1::PutReserve& reserve : cluster_.node(i).reserves) {
      EXPECT_EQ(reserve.replicas(), 2u);
      EXPECT_FALSE(reserve.copy());
      EXPECT_EQ(reserve.view(), 1u);
      for (size_t block = 0; block < kBlocks; ++block) {
        if (KeyBytes(block) != reserve.key()) continue;
        EXPECT_EQ(reserve.segment_head(), KeyBytes(SegmentHead(block)));
        reserved.insert(reserve.key());
      }
    }
  }
  EXPECT_EQ(reserved.size(), kBlocks);
}

TEST_F(PutTest, ANodesHintIsObeyed) {
  client();
  OwnerOf(0).refuse_puts = 1;
  OwnerOf(0).retry_hint = absl::Milliseconds(300);
  const PutResult put = Put();
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  EXPECT_GE(put.time, absl::Milliseconds(300));
  EXPECT_EQ(client().counters().retries, 1u);
}

TEST_F(PutTest, AHintBehindTheDeadlineIsNotWaitedFor) {
  options_.deadline = absl::Seconds(5);
  client();
  OwnerOf(0).refuse_puts = 1000;
  OwnerOf(0).retry_hint = absl::Minutes(1);
  const PutResult put = Put();
  EXPECT_LT(put.time, absl::Seconds(4));
  EXPECT_EQ(put.failed, std::count(owners_.begin(), owners_.end(), owners_[0]));
  EXPECT_EQ(put.failure, absl::StrCat("node ", OwnerName(0), ": the node is full"));
  EXPECT_EQ(client().counters().retries, 0u);
}

TEST_F(PutTest, ABlockThatComesDamagedToTheNodeFailsAndIsNoFaultOfTheCall) {
  client();
  OwnerOf(0).damage_commits = 1;
  const PutResult put = Put();
  EXPECT_EQ(put.failed, 1u);
  EXPECT_EQ(put.stored, kBlocks - 1);
  EXPECT_EQ(put.failure, absl::StrCat("node ", OwnerName(0), ": not a block"));
}

TEST_F(PutTest, ADrainingOwnersBlocksGoToTheNewOwner) {
  client();
  const size_t left = owners_[0];
  const View next = Drain(left);
  const PutResult put = Put();
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  EXPECT_EQ(client().view().number.value, 2u);
  EXPECT_TRUE(cluster_.node(left).blocks.empty());
  EXPECT_EQ(Get().blocks, kBlocks);
}

// The Match before the Put has told nothing: the refusal itself leads to the question.
TEST_F(PutTest, ARefusalOfANodeThatLeavesLeadsToItsView) {
  client();
  const size_t left = owners_[0];
  for (size_t i = 0; i < 3; ++i) {
    cluster_.node(i).after_match = [this, left] {
      if (!cluster_.node(left).draining) Drain(left);
    };
  }
  const PutResult put = Put();
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  EXPECT_TRUE(cluster_.node(left).blocks.empty());
}

// A node refuses blocks a moment before its view says that it leaves. Once a block of a rolling restart was lost so.
TEST_F(PutTest, ANodeThatLeavesIsAskedAgainUntilItsViewNamesASuccessor) {
  client();
  const size_t left = owners_[0];
  cluster_.node(left).draining = true;
  std::thread view([&] {
    cluster_.node(left).WaitFor([&] { return cluster_.node(left).leaving_refusals >= 3; });
    Drain(left);
  });
  const PutResult put = Put();
  view.join();
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  EXPECT_TRUE(cluster_.node(left).blocks.empty());
}

TEST_F(PutTest, ADrainingOwnerWithoutASuccessorFailsItsBlocksWithItsReason) {
  client();
  OwnerOf(0).draining = true;
  const PutResult put = Put();
  EXPECT_EQ(put.failed, std::count(owners_.begin(), owners_.end(), owners_[0]));
  EXPECT_EQ(put.failure, absl::StrCat("node ", OwnerName(0), ": the node is draining"));
}

TEST_F(PutTest, EachNodeIsToldOnceWhatTheNamespaceIs) {
  options_.ns.tenant_salt = "a secret";
  Put();
  options_.ns.weights_digest = "other";
  for (size_t i = 0; i < 3; ++i) {
    FakeNode& node = cluster_.node(i);
    node.WaitFor([&] { return !node.described.empty(); });
    EXPECT_EQ(node.described.size(), 1u);
    EXPECT_EQ(node.described[0].namespace_digest().size(), 16u);
    const std::string& text = node.described[0].namespace_text();
    EXPECT_THAT(text, HasSubstr("\"model\":\"test\""));
    EXPECT_THAT(text, HasSubstr("\"head_dim\":64"));
    EXPECT_THAT(text, HasSubstr("\"tenant_salt\":\"sha256:"));
    EXPECT_THAT(text, testing::Not(HasSubstr("secret")));
  }
}

}  // namespace
}  // namespace kvist
