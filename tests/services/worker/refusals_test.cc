// Goal: a node that is full is obeyed and relieved, never taken for a dead one; what it refuses comes from another
// holder, or from it when it said, within the retry budget. Method: a client over nodes in memory that refuse, with and
// without a hint; what each was asked, and until when, is counted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/services/worker/client_fixture.h"

namespace kvist {
namespace {

using testing::HasSubstr;

class RefusalsTest : public ClientTest {
 protected:
  absl::StatusOr<PrefixMatch> Match() { return client().Match(chain_); }
  void Refuse(FakeNode& node, int reads, std::optional<absl::Duration> hint = absl::Milliseconds(50)) {
    std::lock_guard lock(node.mutex);
    node.refuse_reads = reads;
    node.retry_hint = hint;
  }
  // A prompt at two nodes each, and a client that has asked nobody yet.
  void PutTwice() {
    options_.replicas = 2;
    Put();
    Replicate();
    NewClient();
    client();
  }
};

TEST_F(RefusalsTest, WhenBothHoldersRefuseOnceTheBlockComesWhenTheySaid) {
  PutTwice();
  Refuse(OwnerOf(0), 1);
  Refuse(cluster_.node(Replica(0)), 1);
  EXPECT_EQ(Get({0, 1}).blocks, 1u);
  EXPECT_EQ(client().counters().failovers, 1u);
  EXPECT_EQ(client().counters().retries, 1u);
  for (size_t i = 0; i < 3; ++i) Refuse(cluster_.node(i), 1);
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(RefusalsTest, AHintIsObeyedWhenTheOtherHolderIsDown) {
  PutTwice();
  Refuse(OwnerOf(0), 1);
  cluster_.node(Replica(0)).down = true;
  EXPECT_EQ(Get({0, 1}).blocks, 1u);
  EXPECT_EQ(client().counters().retries, 1u);
}

TEST_F(RefusalsTest, AHotSegmentKeepsNobodyFromObeyingForTheOthers) {
  Put();
  const size_t copy = (owners_[0] + 1) % 3;
  for (size_t block = 0; block < kBlocks; ++block) cluster_.node(copy).blocks[KeyBytes(block)] = StoredBlock(block);
  OwnerOf(0).hot[KeyBytes(0)] = {absl::StrCat("n", copy)};
  EXPECT_EQ(Match()->blocks(), kBlocks);
  const size_t other = BlockOfAnotherOwner();
  Refuse(OwnerOf(other), 1);
  EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_EQ(client().counters().retries, 1u);
}

TEST_F(RefusalsTest, WithoutABudgetWhatIsRefusedIsAMissAndNobodyElseIsAsked) {
  options_.retry.budget = 0;
  PutTwice();
  Refuse(OwnerOf(0), 1);
  ExpectMiss(Get({0, 1}), 0, v1::MISS_REASON_OVERLOADED);
  EXPECT_EQ(cluster_.node(Replica(0)).Calls("Get"), 0);
  EXPECT_EQ(client().counters().failovers, 0u);
  Refuse(OwnerOf(0), 1);
  EXPECT_EQ(Match()->blocks(), kBlocks);  // what was not found is asked of replicas, as ever
}

TEST_F(RefusalsTest, ReadsThatSucceedEarnWhatTheirRetriesTook) {
  options_.retry.budget = 1;
  options_.retry.earned = 0.5;
  Put();
  NewClient();
  client();
  for (int round = 0; round < 3; ++round) {
    Refuse(OwnerOf(0), 1);
    EXPECT_EQ(Get({0, 1}).blocks, 1u) << round;
    EXPECT_EQ(Match()->blocks(), kBlocks) << round;
    Refuse(OwnerOf(0), 1);
    EXPECT_EQ(Match()->blocks(), kBlocks) << round;
    EXPECT_TRUE(client().Explain(chain_).ok());
  }
  EXPECT_EQ(client().counters().retries, 6u);
}

TEST_F(RefusalsTest, CallsThatRestLeaveTheNodesTurnsToOthers) {
  Put();
  constexpr int kResting = 12;
  Refuse(OwnerOf(0), kResting, absl::Seconds(4));
  std::vector<std::unique_ptr<Thread>> resting;
  for (int i = 0; i < kResting; ++i) {
    resting.push_back(RealRuntime()->Start([this, i] {
      if (i % 3 == 0) {
        EXPECT_EQ(client().Match(absl::MakeConstSpan(chain_).first(1))->blocks(), 1u);
      } else if (i % 3 == 1) {
        EXPECT_EQ(client().Explain(absl::MakeConstSpan(chain_).first(1))->leading, 1u);
      } else {
        std::vector<uint16_t> pages(kv_.size());
        const auto got = client().Get(chain_, {0, 1}, ContiguousPages(pages.data(), options_.ns.Shape(), capacity_));
        EXPECT_EQ(got->blocks, 1u);
      }
    }));
  }
  OwnerOf(0).WaitFor([&] { return OwnerOf(0).refuse_reads == 0; });
  const absl::Time start = absl::Now();
  EXPECT_EQ(Match()->blocks(), kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
}

TEST_F(RefusalsTest, PutsThatRestLeaveTheNodesTurnsToOthers) {
  Put();
  FakeNode& full = OwnerOf(0);
  const int before = full.Calls("Put");
  {
    std::lock_guard lock(full.mutex);
    full.refuse_puts = 16;
    full.retry_hint = absl::Seconds(4);
  }
  std::vector<std::unique_ptr<Thread>> resting;
  for (uint32_t prompt = 0; prompt < 8; ++prompt) {
    resting.push_back(RealRuntime()->Start([this, prompt] {
      std::vector<uint32_t> tokens = Tokens(capacity_);
      tokens[0] = prompt;
      const auto put = client().Put(client().Keys(tokens),
                                    ContiguousPages<const uint16_t>(kv_.data(), options_.ns.Shape(), capacity_));
      EXPECT_EQ(put->stored, kBlocks) << put->failure;
    }));
  }
  full.WaitFor([&] { return full.calls["Put"] >= before + 8; });
  const absl::Time start = absl::Now();
  EXPECT_EQ(Match()->blocks(), kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
}

TEST_F(RefusalsTest, NobodyQueuesForANodeThatShowsNoSignOfLife) {
  Put();
  FakeNode& late = OwnerOf(BlockOfAnotherOwner());
  const int before = late.Calls("Match");
  late.SetSilent(true);
  const absl::Time start = absl::Now();
  std::vector<std::unique_ptr<Thread>> waiting;
  for (int i = 0; i < 8; ++i) {
    waiting.push_back(RealRuntime()->Start([this] { EXPECT_TRUE(client().Match(chain_).ok()); }));
  }
  late.WaitFor([&] { return late.calls["Match"] == before + 8; });
  while (absl::Now() - start < absl::Milliseconds(1200)) absl::SleepFor(absl::Milliseconds(1));
  const absl::Time asked = absl::Now();
  int unreachable = 0;
  for (const NodeAnswer& answer : client().Stats()) {
    if (answer.reachable.ok()) continue;
    EXPECT_THAT(std::string(answer.reachable.message()), HasSubstr("no sign of life for 1"));
    ++unreachable;
  }
  EXPECT_EQ(unreachable, 1);
  EXPECT_TRUE(client().Explain(chain_).ok());
  EXPECT_GT(client().Erase(chain_)->failed, 0u);
  EXPECT_LT(absl::Now() - asked, absl::Seconds(5));  // of 20
  late.SetSilent(false);
}

TEST_F(RefusalsTest, ANodeHasTheWholeTimeIfTheOtherHolderIsDown) {
  PutTwice();
  FakeNode& replica = cluster_.node(Replica(0));
  absl::Time start = absl::Now();
  EXPECT_EQ(Get({0, 1}).blocks, 1u);
  EXPECT_LT(OwnerOf(0).get_deadlines.back() - start, absl::Seconds(15));  // the replica has the rest
  replica.down = true;
  for (int i = 0; i < 5; ++i) client().Stats();
  EXPECT_EQ(client().counters().openings, 1u);
  start = absl::Now();
  EXPECT_EQ(Get({0, 1}).blocks, 1u);
  EXPECT_GT(OwnerOf(0).get_deadlines.back() - start, absl::Seconds(15));
}

// What a late stream has not brought is at two other nodes: its hedge is two streams. The budget is four at first.
TEST_F(RefusalsTest, EachStreamOfAHedgeIsTakenFromTheBudget) {
  PutTwice();
  options_.deadline = absl::Seconds(2);
  NewClient();
  client();
  std::set<size_t> replicas[3];  // of each owner's blocks
  for (size_t block = 0; block < kBlocks; ++block) replicas[owners_[block]].insert(Replica(block));
  const size_t held = std::find_if(replicas, replicas + 3, [](const auto& of) { return of.size() == 2; }) - replicas;
  ASSERT_LT(held, 3u) << "each node's blocks have their copies at one other: the test is too small";
  cluster_.node(held).HoldGets(true);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_GE(client().counters().hedges, 2u);
  EXPECT_LE(client().counters().hedges, 4u);
  cluster_.node(held).HoldGets(false);
}

TEST_F(RefusalsTest, AStreamThatCouldNotBeHedgedIsLookedAtAgain) {
  PutTwice();
  const size_t other = BlockOfAnotherOwner();
  OwnerOf(0).HoldGets(true);
  while (client().counters().hedges < 4) EXPECT_EQ(Get({0, 1}).blocks, 1u);
  std::atomic<bool> done = false;
  const absl::Time start = absl::Now();
  const std::unique_ptr<Thread> late = RealRuntime()->Start([&] {
    std::vector<uint16_t> pages(kv_.size());
    const auto got = client().Get(chain_, {0, 1}, ContiguousPages(pages.data(), options_.ns.Shape(), capacity_));
    EXPECT_EQ(got->blocks, 1u);
    done = true;
  });
  while (!done && absl::Now() - start < absl::Milliseconds(300)) absl::SleepFor(absl::Milliseconds(1));
  while (!done && absl::Now() - start < absl::Seconds(8)) EXPECT_EQ(Get({other, other + 1}).blocks, 1u);
  EXPECT_TRUE(done);  // before half of its 20 seconds
  OwnerOf(0).HoldGets(false);
}

}  // namespace
}  // namespace kvist
