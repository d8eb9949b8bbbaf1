// Goal: what a drain hands over stands at its heirs for good, whatever interrupts it: a stop in the middle, an heir that
// dies, a block that its heir holds for a while only or is being sent by another, a Put that was open when it began.
// Method: host tiers and replicators in one process, joined by channels with faults (store_cluster.h), on the real
// clock; waits are for conditions.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "services/cluster/replicator.h"
#include "tests/services/cluster/store_cluster.h"

namespace kvist {
namespace {

using testing::Faults;
using testing::Holds;
using testing::NumberedBlock;
using testing::NumberedKey;
using testing::StoreCluster;

constexpr uint64_t kCapacity = 8 << 20;
constexpr size_t kBlock = 4096;

class HandoverTest : public ::testing::Test {
 protected:
  // Blocks, segments of their own, that node 0 owns and that node 1, then node 2, owns without it.
  std::vector<Key> Own(size_t count) {
    std::vector<Key> keys;
    for (uint64_t number = 0; keys.size() < count; ++number) {
      const Key key = NumberedKey(number);
      if (cluster_.Holders(key, 3) != std::vector<size_t>{0, 1, 2}) continue;
      EXPECT_TRUE(cluster_.Put(0, key, key, 1, NumberedBlock(key, kBlock)).ok());
      keys.push_back(key);
    }
    return keys;
  }
  absl::Time SpareAt(size_t node, const Key& key) {
    const absl::Time expires = RealRuntime()->Now() + absl::Minutes(1);
    EXPECT_TRUE(cluster_.Put(node, key, {key, expires, /*spare=*/true}, 1, NumberedBlock(key, kBlock), true).ok());
    return expires;
  }
  void Plan(absl::Duration time = absl::Seconds(60)) {
    cluster_.replicator(0).PlanHandOver(RealRuntime()->Now() + time, kCapacity);
  }
  v1::DrainResponse progress() { return cluster_.replicator(0).progress(); }
  size_t CountAt(size_t node, const std::vector<Key>& keys) {
    size_t count = 0;
    for (const Key& key : keys) count += cluster_.Has(node, key);
    return count;
  }
  absl::Time ExpiresAt(size_t node, const Key& key) { return cluster_.store(node).Get(key)->traits.expires; }

  StoreCluster cluster_{3, kCapacity};
};

TEST_F(HandoverTest, ABlockThatItsHeirHoldsAsASpareCopyStandsThereForGood) {
  const std::vector<Key> keys = Own(3);
  SpareAt(1, keys[0]);
  Plan();
  cluster_.replicator(0).HandOver();
  EXPECT_EQ(progress().sent_blocks(), 3u);
  EXPECT_EQ(ExpiresAt(1, keys[0]), absl::InfiniteFuture());
  EXPECT_FALSE(cluster_.store(1).Get(keys[0])->traits.spare);
}

TEST_F(HandoverTest, SpareCopiesAreNotHandedOverAndABlockWithATimeKeepsIt) {
  const Key spare = NumberedKey(1000), timed = Own(1)[0];
  SpareAt(0, spare);
  ASSERT_TRUE(*cluster_.store(0).Erase(timed));
  const absl::Time expires = RealRuntime()->Now() + absl::Minutes(30);
  ASSERT_TRUE(cluster_.Put(0, timed, BlockTraits{timed, expires}, 1, NumberedBlock(timed, kBlock)).ok());
  Plan();
  cluster_.replicator(0).HandOver();
  EXPECT_EQ(progress().blocks(), 1u);
  ASSERT_TRUE(cluster_.Has(1, timed));
  EXPECT_LE(ExpiresAt(1, timed), expires + absl::Seconds(20));
  EXPECT_GE(ExpiresAt(1, timed), expires - absl::Seconds(20));
  EXPECT_FALSE(cluster_.store(1).Get(timed)->traits.spare);
}

TEST_F(HandoverTest, AStopInTheMiddleLeavesWhatWasSentAndSaysWhatWasNot) {
  const std::vector<Key> keys = Own(50);
  std::atomic<int> asked = 0;
  Faults faults;
  faults.on_put = [&] { ++asked; };
  cluster_.Set(1, faults);
  Plan();
  EXPECT_EQ(progress().phase(), v1::DrainResponse::PHASE_HANDING_OVER);
  std::thread stop([&] {
    EXPECT_TRUE(Holds([&] { return asked >= 10; }));
    cluster_.replicator(0).Stop();
  });
  cluster_.replicator(0).HandOver();
  stop.join();
  EXPECT_EQ(progress().phase(), v1::DrainResponse::PHASE_UNSPECIFIED);
  EXPECT_EQ(progress().blocks(), 50u);
  EXPECT_EQ(progress().sent_blocks() + progress().failed_blocks(), 50u);
  EXPECT_EQ(progress().sent_blocks(), CountAt(1, keys));
  EXPECT_GE(progress().sent_blocks(), 6u) << "ten were asked for, four at most were on their way";
  EXPECT_EQ(CountAt(0, keys), 50u) << "this node still has them";
}

TEST_F(HandoverTest, ANodeThatIsKilledInTheMiddleLeavesWhatWasSent) {
  const std::vector<Key> keys = Own(50);
  std::atomic<int> asked = 0;
  Faults faults;
  faults.on_put = [&] { ++asked; };
  cluster_.Set(1, faults);
  Plan();
  std::thread kill([&] {
    EXPECT_TRUE(Holds([&] { return asked >= 10; }));
    cluster_.Kill(0);
    cluster_.Leave(0);
  });
  cluster_.replicator(0).HandOver();
  kill.join();
  const size_t sent = CountAt(1, keys);
  EXPECT_GE(sent, 6u);
  EXPECT_EQ(sent, progress().sent_blocks());
  for (const Key& key : keys) {
    if (!cluster_.Has(1, key)) continue;
    EXPECT_EQ(cluster_.Bytes(1, key), NumberedBlock(key, kBlock));
    EXPECT_EQ(ExpiresAt(1, key), absl::InfiniteFuture());
  }
}

TEST_F(HandoverTest, WhatIsLeftGoesToTheNextHeirWhenTheFirstHasGone) {
  const std::vector<Key> keys = Own(30);
  std::atomic<int> asked = 0;
  Faults faults;
  faults.on_put = [&] {
    if (++asked == 10) {
      Faults down;
      down.down = true;
      cluster_.Set(1, down);
    }
  };
  cluster_.Set(1, faults);
  Plan();
  std::thread leave([&] {
    EXPECT_TRUE(Holds([&] { return asked >= 10; }));
    cluster_.Leave(1);
  });
  cluster_.replicator(0).HandOver();
  leave.join();
  EXPECT_EQ(progress().sent_blocks(), 30u);
  EXPECT_EQ(progress().failed_blocks(), 0u);
  for (const Key& key : keys) EXPECT_TRUE(cluster_.Has(1, key) || cluster_.Has(2, key));
  EXPECT_GE(CountAt(2, keys), 18u);
}

TEST_F(HandoverTest, WhatAnHeirRefusesBecauseItDrainsTooGoesToTheNextOne) {
  const std::vector<Key> keys = Own(30);
  Faults faults;
  faults.draining = true;
  cluster_.Set(1, faults);
  Plan();
  std::thread leave([&] {
    EXPECT_TRUE(Holds([&] { return cluster_.puts(1) > 0; }));
    cluster_.Leave(1);
  });
  cluster_.replicator(0).HandOver();
  leave.join();
  EXPECT_EQ(progress().sent_blocks(), 30u);
  EXPECT_EQ(progress().failed_blocks(), 0u);
  EXPECT_EQ(CountAt(2, keys), 30u);
}

TEST_F(HandoverTest, ABlockThatAnotherWritesAtItsHeirIsSentOnceThatWriterHasFailedAndHoldsUpNoOther) {
  const std::vector<Key> keys = Own(20);
  auto writer = cluster_.store(1).Reserve(keys[7], kBlock, {});
  ASSERT_TRUE(writer.ok());
  Plan();
  std::thread fail([&] {
    EXPECT_TRUE(Holds([&] { return progress().sent_blocks() == 19; }));
    EXPECT_FALSE(cluster_.Has(1, keys[7]));
    writer->reset();
  });
  cluster_.replicator(0).HandOver();
  fail.join();
  EXPECT_EQ(progress().sent_blocks(), 20u);
  EXPECT_EQ(CountAt(1, keys), 20u);
}

TEST_F(HandoverTest, APutThatWasOpenWhenItBeganIsHandedOverToo) {
  const std::vector<Key> keys = Own(5);
  ASSERT_TRUE(*cluster_.store(0).Erase(keys[4]));
  const std::string block = NumberedBlock(keys[4], kBlock);
  auto put = cluster_.store(0).Reserve(keys[4], block.size(), {keys[4]});
  ASSERT_TRUE(put.ok());
  Plan();
  EXPECT_EQ(progress().blocks(), 4u);
  std::thread commit([&] {
    EXPECT_TRUE(Holds([&] { return progress().sent_blocks() == 4; }));
    EXPECT_EQ(progress().phase(), v1::DrainResponse::PHASE_HANDING_OVER) << "a Put is open";
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(block.data()), block.size());
    EXPECT_TRUE((*put)->Write(0, bytes).ok());
    EXPECT_TRUE((*put)->Commit(block.size()).ok());
  });
  cluster_.replicator(0).HandOver();
  commit.join();
  EXPECT_EQ(progress().sent_blocks(), 5u);
  EXPECT_TRUE(cluster_.Has(1, keys[4]));
}

TEST_F(HandoverTest, APutThatNeverEndsHoldsItUpUntilItsDeadlineAtMost) {
  const std::vector<Key> keys = Own(5);
  auto put = cluster_.store(0).Reserve(NumberedKey(5000), kBlock, {});
  ASSERT_TRUE(put.ok());
  const absl::Time began = RealRuntime()->Now();
  Plan(absl::Milliseconds(300));
  cluster_.replicator(0).HandOver();
  EXPECT_EQ(CountAt(1, keys), 5u);
  EXPECT_LT(RealRuntime()->Now() - began, absl::Seconds(20));
}

TEST_F(HandoverTest, ABlockThatIsDamagedIsNotHandedOverAndDropped) {
  const std::vector<Key> keys = Own(3);
  ASSERT_TRUE(cluster_.store(0).FlipBitsForTest(keys[1], 1000, 1));
  Plan();
  cluster_.replicator(0).HandOver();
  EXPECT_EQ(progress().sent_blocks(), 2u);
  EXPECT_EQ(progress().failed_blocks(), 1u);
  EXPECT_FALSE(cluster_.Has(0, keys[1]));
  EXPECT_FALSE(cluster_.Has(1, keys[1]));
}

}  // namespace
}  // namespace kvist
