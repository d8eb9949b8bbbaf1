// Goal: blocks come to stand on the nodes that the view names, and stay on as many, whatever the peers do: dead, stuck,
// full, empty again, or holding other bytes; and nothing that a peer does delays a put or another peer. Method: host
// tiers and replicators in one process, joined by channels with faults (store_cluster.h), on the real clock; waits are
// for conditions. The property test prints its seed.
#include "services/cluster/replicator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "tests/services/cluster/store_cluster.h"

namespace kvist {
namespace {

using testing::Faults;
using testing::Holds;
using testing::kNamespace;
using testing::NumberedBlock;
using testing::NumberedKey;
using testing::StoreCluster;

constexpr uint64_t kCapacity = 8 << 20;
constexpr size_t kBlock = 4096;

Faults Down() {
  Faults faults;
  faults.down = true;
  return faults;
}
Faults Stuck() {
  Faults faults;
  faults.stuck = true;
  return faults;
}
Faults Full(absl::Duration hint) {
  Faults faults;
  faults.full = hint;
  return faults;
}

// A key, its own segment, whose best nodes are these, in order.
Key KeyFor(const StoreCluster& cluster, const std::vector<size_t>& holders, uint64_t from = 0) {
  for (uint64_t number = from;; ++number) {
    if (cluster.Holders(NumberedKey(number), holders.size()) == holders) return NumberedKey(number);
  }
}
std::vector<Key> KeysFor(const StoreCluster& cluster, const std::vector<size_t>& holders, size_t count) {
  std::vector<Key> keys;
  for (uint64_t number = 0; keys.size() < count; ++number) {
    if (cluster.Holders(NumberedKey(number), holders.size()) == holders) keys.push_back(NumberedKey(number));
  }
  return keys;
}

absl::Status Put(StoreCluster& cluster, size_t node, const Key& key, uint32_t replicas) {
  return cluster.Put(node, key, key, replicas, NumberedBlock(key, kBlock));
}

v1::AdoptRequest AdoptOf(const StoreCluster& cluster, size_t from, const std::vector<Key>& keys, const Key& segment) {
  v1::AdoptRequest request;
  request.set_from(cluster.id(from).value);
  request.set_namespace_digest(kNamespace);
  for (const Key& key : keys) {
    request.mutable_keys()->append(key.bytes.begin(), key.bytes.end());
    request.mutable_segment_heads()->append(segment.bytes.begin(), segment.bytes.end());
  }
  return request;
}

TEST(Replicator, ADeadPeerGetsItsCopiesWhenItIsBackAndIsCalledOnlyNowAndThenMeanwhile) {
  StoreCluster cluster(3, kCapacity);
  cluster.Set(1, Down());
  const std::vector<Key> keys = KeysFor(cluster, {0, 1, 2}, 100);
  for (const Key& key : keys) ASSERT_TRUE(Put(cluster, 0, key, 3).ok());
  for (const Key& key : keys) EXPECT_TRUE(Holds([&] { return cluster.Has(2, key); }));
  EXPECT_LT(cluster.puts(1), 10u) << "100 copies wait; each failure rests the peer longer";
  cluster.Set(1, Faults());
  for (const Key& key : keys) EXPECT_TRUE(Holds([&] { return cluster.Has(1, key); }));
}

TEST(Replicator, APeerThatDoesNotAnswerHoldsUpNobodyElse) {
  StoreCluster cluster(3, kCapacity, [](ReplicatorOptions& options) { options.call_deadline = absl::Seconds(20); });
  cluster.Set(1, Stuck());
  const std::vector<Key> keys = KeysFor(cluster, {0, 1, 2}, 100);
  for (const Key& key : keys) ASSERT_TRUE(Put(cluster, 0, key, 3).ok());
  for (const Key& key : keys) EXPECT_TRUE(Holds([&] { return cluster.Has(2, key); }, absl::Seconds(10)));
  EXPECT_LE(cluster.puts(1), 1u);
}

TEST(Replicator, AFullPeerIsAskedAgainAfterAsLongAsItSaid) {
  StoreCluster cluster(2, kCapacity);
  cluster.Set(1, Full(absl::Seconds(1)));
  const std::vector<Key> keys = KeysFor(cluster, {0, 1}, 20);
  const absl::Time began = RealRuntime()->Now();
  for (const Key& key : keys) ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
  ASSERT_TRUE(Holds([&] { return cluster.puts(1) >= 1; }));
  cluster.Set(1, Faults());
  ASSERT_TRUE(Holds([&] { return cluster.puts(1) >= 2; }));
  EXPECT_GE(RealRuntime()->Now() - began, absl::Seconds(1));
  for (const Key& key : keys) EXPECT_TRUE(Holds([&] { return cluster.Has(1, key); }));
}

TEST(Replicator, OtherBytesUnderTheSameKeyStayAndTheCopyEnds) {
  StoreCluster cluster(2, kCapacity);
  const Key key = KeyFor(cluster, {0, 1});
  const std::string other = NumberedBlock(key, kBlock, 'y');
  ASSERT_TRUE(cluster.Put(1, key, key, 2, other, /*copy=*/true).ok());
  ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
  EXPECT_TRUE(Holds([&] { return cluster.AllIdle() && cluster.puts(1) > 0; }));
  EXPECT_EQ(cluster.Bytes(1, key), other);
  EXPECT_EQ(cluster.Bytes(0, key), NumberedBlock(key, kBlock));
}

TEST(Replicator, AQueueThatOverflowsDelaysNoPutAndWhatItDroppedIsSentLater) {
  StoreCluster cluster(2, kCapacity, [](ReplicatorOptions& options) {
    options.queue_blocks = 10;
    options.call_deadline = absl::Seconds(20);
    options.repair_pause = absl::Milliseconds(300);
  });
  cluster.Set(1, Stuck());
  const std::vector<Key> keys = KeysFor(cluster, {0, 1}, 100);
  const absl::Time began = RealRuntime()->Now();
  for (const Key& key : keys) ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
  EXPECT_LT(RealRuntime()->Now() - began, absl::Seconds(5));
  EXPECT_GE(cluster.replicator(0).counters().dropped, 94u) << "half of the queue is for one peer";
  cluster.Set(1, Faults());
  for (const Key& key : keys) EXPECT_TRUE(Holds([&] { return cluster.Has(1, key); }));
}

TEST(Replicator, TheQueueIsBoundedInBytesToo) {
  StoreCluster cluster(2, kCapacity, [](ReplicatorOptions& options) {
    options.queue_bytes = 10 * kBlock;
    options.call_deadline = absl::Seconds(20);
  });
  cluster.Set(1, Stuck());
  for (const Key& key : KeysFor(cluster, {0, 1}, 20)) ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
  EXPECT_EQ(cluster.replicator(0).counters().dropped, 15u) << "half of it is for one peer";
}

TEST(Replicator, APeerThatIsAwayLeavesRoomInTheQueueForTheOthers) {
  for (const bool by_bytes : {false, true}) {
    StoreCluster cluster(3, kCapacity, [&](ReplicatorOptions& options) {
      by_bytes ? (void)(options.queue_bytes = 20 * kBlock) : (void)(options.queue_blocks = 20);
      options.call_deadline = absl::Seconds(20);
    });
    cluster.Set(1, Stuck());
    for (const Key& key : KeysFor(cluster, {0, 1}, 100)) ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
    const uint64_t dropped = cluster.replicator(0).counters().dropped;
    EXPECT_GE(dropped, 80u);
    for (const Key& key : KeysFor(cluster, {0, 2}, 8)) {
      ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
      EXPECT_TRUE(Holds([&] { return cluster.Has(2, key); }));
    }
    EXPECT_EQ(cluster.replicator(0).counters().dropped, dropped);
  }
}

TEST(Replicator, ACopyIsSentAgainIfWhoWasWritingTheBlockThereFails) {
  StoreCluster cluster(2, kCapacity);
  const std::vector<Key> keys = KeysFor(cluster, {0, 1}, 3);
  auto writer = cluster.store(1).Reserve(keys[0], kBlock, {});
  ASSERT_TRUE(writer.ok());
  for (const Key& key : keys) ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
  EXPECT_TRUE(Holds([&] { return cluster.Has(1, keys[1]) && cluster.Has(1, keys[2]); })) << "it holds up no other";
  writer->reset();
  EXPECT_TRUE(Holds([&] { return cluster.Has(1, keys[0]); }));
}

TEST(Replicator, ABlockLargerThanThisNodeIsNotFetched) {
  StoreCluster cluster(2, kCapacity, [](ReplicatorOptions& options) { options.capacity_bytes = kBlock - 1; });
  const Key key = NumberedKey(1);
  ASSERT_TRUE(cluster.Put(1, key, key, 1, NumberedBlock(key, kBlock)).ok());
  ASSERT_EQ(cluster.replicator(0).Adopt(0, AdoptOf(cluster, 1, {key}, key)), 1u);
  EXPECT_TRUE(Holds([&] { return cluster.replicator(0).counters().failed > 0 && cluster.AllIdle(); }));
  EXPECT_EQ(cluster.replicator(0).counters().failed, 1u) << "nothing would make it fit";
  EXPECT_TRUE(cluster.Has(1, key));
  EXPECT_FALSE(cluster.Has(0, key));
}

TEST(Replicator, ANodeThatDrainsAdoptsNothingAndMendsNothing) {
  StoreCluster cluster(2, kCapacity);
  const Key key = NumberedKey(1);
  ASSERT_TRUE(cluster.Put(1, key, key, 1, NumberedBlock(key, kBlock)).ok());
  View view = *cluster.view();
  view.nodes[0].state = NodeState::kDraining;
  cluster.SetView(view);
  EXPECT_EQ(cluster.replicator(0).Adopt(0, AdoptOf(cluster, 1, {key}, key)), 0u);
  cluster.replicator(0).Damaged(key, {key});
  EXPECT_TRUE(Holds([&] { return cluster.AllIdle(); }));
  EXPECT_EQ(cluster.replicator(0).counters().queued, 0u);
}

TEST(Replicator, ABlockThatIsDamagedHereIsFoundByCopyingItAndMendedFromAnotherHolder) {
  StoreCluster cluster(3, kCapacity);
  const Key key = KeyFor(cluster, {0, 1, 2});
  cluster.Set(1, Down());
  ASSERT_TRUE(Put(cluster, 0, key, 3).ok());
  ASSERT_TRUE(Holds([&] { return cluster.Has(2, key); }));
  ASSERT_TRUE(cluster.store(0).FlipBitsForTest(key, 1000, 1));
  cluster.Set(1, Faults());
  for (size_t node = 0; node < 3; ++node) {
    EXPECT_TRUE(Holds([&] { return cluster.Bytes(node, key) == NumberedBlock(key, kBlock); })) << node;
  }
  EXPECT_EQ(cluster.replicator(0).counters().damaged_blocks, 1u);
  EXPECT_EQ(cluster.replicator(0).counters().refetched_blocks, 1u);
}

TEST(Replicator, ADamagedBlockIsFetchedFromTheNextHolderIfTheFirstDoesNotHaveIt) {
  StoreCluster cluster(3, kCapacity);
  const Key key = KeyFor(cluster, {0, 1, 2});
  ASSERT_TRUE(Put(cluster, 0, key, 3).ok());
  ASSERT_TRUE(Holds([&] { return cluster.Has(1, key) && cluster.Has(2, key); }));
  for (const size_t node : {0, 1}) ASSERT_TRUE(*cluster.store(node).Erase(key, MissReason::kDamaged));
  cluster.replicator(0).Damaged(key, {key});
  EXPECT_TRUE(Holds([&] { return cluster.Bytes(0, key) == NumberedBlock(key, kBlock); }));
  EXPECT_EQ(cluster.store(0).Get(key)->traits.group, key);
}

TEST(Replicator, AdoptsOnceWhatItLacksFromANodeThatTheViewKnows) {
  StoreCluster cluster(2, kCapacity);
  const std::vector<Key> keys = {NumberedKey(1), NumberedKey(2), NumberedKey(3)};
  for (const Key& key : keys) ASSERT_TRUE(cluster.Put(1, key, keys[0], 1, NumberedBlock(key, kBlock)).ok());
  ASSERT_TRUE(cluster.Put(0, keys[2], keys[0], 1, NumberedBlock(keys[2], kBlock)).ok());
  cluster.Set(1, Stuck());
  v1::AdoptRequest request = AdoptOf(cluster, 1, keys, keys[0]);
  EXPECT_EQ(cluster.replicator(0).Adopt(0, request), 2u) << "the third is here";
  EXPECT_EQ(cluster.replicator(0).Adopt(0, request), 0u) << "they are queued";
  request.set_from("n7");
  EXPECT_EQ(cluster.replicator(0).Adopt(0, request), 0u) << "there is no such node";
  request.set_from("n0");
  EXPECT_EQ(cluster.replicator(0).Adopt(0, request), 0u) << "that is this node";
  cluster.Set(1, Faults());
  for (const Key& key : keys) {
    EXPECT_TRUE(Holds([&] { return cluster.Bytes(0, key) == NumberedBlock(key, kBlock); }));
    EXPECT_EQ(cluster.store(0).Get(key)->traits.group, keys[0]);
  }
  EXPECT_TRUE(Holds([&] { return cluster.AllIdle(); }));  // a block is counted a moment after it stands
  EXPECT_EQ(cluster.replicator(0).counters().adopted_blocks, 2u);
}

TEST(Replicator, DamagedBytesOfAPeerAreNotAdoptedAndThePeerIsTold) {
  StoreCluster cluster(2, kCapacity);
  const Key key = NumberedKey(1);
  ASSERT_TRUE(cluster.Put(1, key, key, 1, NumberedBlock(key, kBlock)).ok());
  ASSERT_TRUE(cluster.store(1).FlipBitsForTest(key, 1000, 1));
  ASSERT_EQ(cluster.replicator(0).Adopt(0, AdoptOf(cluster, 1, {key}, key)), 1u);
  EXPECT_TRUE(Holds([&] { return !cluster.Has(1, key); }));
  EXPECT_TRUE(Holds([&] { return cluster.AllIdle(); }));
  EXPECT_FALSE(cluster.Has(0, key));
}

TEST(Replicator, ABlockThatIsDamagedOnItsWayIsAskedForAgain) {
  StoreCluster cluster(2, kCapacity);
  Faults faults;
  faults.damaged_gets = 2;
  cluster.Set(1, faults);
  const Key key = NumberedKey(1);
  ASSERT_TRUE(cluster.Put(1, key, key, 1, NumberedBlock(key, kBlock)).ok());
  ASSERT_EQ(cluster.replicator(0).Adopt(0, AdoptOf(cluster, 1, {key}, key)), 1u);
  EXPECT_TRUE(Holds([&] { return cluster.Bytes(0, key) == NumberedBlock(key, kBlock); }));
  EXPECT_TRUE(cluster.Has(1, key)) << "its copy is whole";
}

TEST(Replicator, ABlockThatAlwaysComesDamagedIsGivenUp) {
  StoreCluster cluster(2, kCapacity);
  Faults faults;
  faults.damaged_gets = 1000;
  cluster.Set(1, faults);
  const Key key = NumberedKey(1);
  ASSERT_TRUE(cluster.Put(1, key, key, 1, NumberedBlock(key, kBlock)).ok());
  ASSERT_EQ(cluster.replicator(0).Adopt(0, AdoptOf(cluster, 1, {key}, key)), 1u);
  EXPECT_TRUE(Holds([&] { return cluster.replicator(0).counters().failed > 0 && cluster.AllIdle(); }));
  EXPECT_FALSE(cluster.Has(0, key));
  EXPECT_EQ(cluster.replicator(0).counters().failed, 5u) << "tries";
}

TEST(Replicator, ANodeThatComesBackEmptyGetsItsBlocksAgain) {
  StoreCluster cluster(3, kCapacity);
  const std::vector<Key> keys = KeysFor(cluster, {0, 1}, 50);
  for (const Key& key : keys) ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
  for (const Key& key : keys) ASSERT_TRUE(Holds([&] { return cluster.Has(1, key); }));
  cluster.Kill(1);
  cluster.Restart(1);
  for (const Key& key : keys) EXPECT_TRUE(Holds([&] { return cluster.Has(1, key); }));
}

TEST(Replicator, WhatAPeerErasedOrEvictedIsNotBroughtBack) {
  StoreCluster cluster(3, kCapacity);
  const std::vector<Key> keys = KeysFor(cluster, {0, 1}, 2);
  for (const Key& key : keys) ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
  ASSERT_TRUE(Holds([&] { return cluster.Has(1, keys[0]) && cluster.Has(1, keys[1]); }));
  ASSERT_TRUE(*cluster.store(1).Erase(keys[0]));
  ASSERT_TRUE(*cluster.store(1).Erase(keys[1], MissReason::kDamaged));
  cluster.Leave(2);
  EXPECT_TRUE(Holds([&] { return cluster.Has(1, keys[1]); })) << "this one was lost";
  EXPECT_TRUE(Holds([&] { return cluster.AllIdle(); }));
  EXPECT_FALSE(cluster.Has(1, keys[0]));
}

TEST(Replicator, AHotSegmentSpreadsToTheNextNodesWithinItsBoundAndNoFurther) {
  StoreCluster cluster(4, kCapacity, [](ReplicatorOptions& options) {
    options.heat.floor = 1000;
    options.hot_fraction = 8.0 * kBlock / kCapacity;
  });
  const Key segment = KeyFor(cluster, {0, 1, 2, 3});
  std::vector<Key> keys;
  for (uint64_t i = 0; i < 3; ++i) keys.push_back(NumberedKey(1000 + i));
  for (const Key& key : keys) ASSERT_TRUE(cluster.Put(0, key, segment, 1, NumberedBlock(key, kBlock)).ok());
  ASSERT_TRUE(Holds([&] {
    cluster.replicator(0).Read(segment, 1 << 20);
    return cluster.replicator(0).HotNodes(segment) == std::vector<NodeId>{cluster.id(1), cluster.id(2)};
  }));
  for (const Key& key : keys) {
    for (const size_t node : {1, 2}) {
      EXPECT_TRUE(cluster.Has(node, key));
      EXPECT_NE(cluster.store(node).Get(key, false)->traits.expires, absl::InfiniteFuture());
    }
  }
  for (const Key& key : keys) EXPECT_FALSE(cluster.Has(3, key)) << "eight blocks fit into the bound, nine do not";
  EXPECT_EQ(cluster.replicator(0).counters().hot_segments, 1u);
}

// After calm, every block that was put with r replicas stands on the min(r, nodes) nodes that the view names.
class Convergence : public ::testing::TestWithParam<uint64_t> {
 protected:
  void PutSome(size_t blocks) {
    for (size_t i = 0; i < blocks; ++i) {
      const Key key = NumberedKey(next_++);
      const auto replicas = static_cast<uint32_t>(2 + random_() % 2);
      // Now and then the writer's view is old, and the block comes to a node that should not have it.
      size_t node = random_() % 8 == 0 ? Living() : cluster_.Holders(key, 1)[0];
      if (node == dead_) node = cluster_.Holders(key, 2)[node == cluster_.Holders(key, 1)[0]];
      const std::string namespace_digest = "factor of " + std::to_string(replicas) + ".....";
      const std::string block = NumberedBlock(key, kBlock, 'x', namespace_digest);
      ASSERT_TRUE(cluster_.Put(node, key, key, replicas, block).ok());
      blocks_.emplace_back(key, replicas);
    }
  }
  size_t Living() {
    const std::shared_ptr<const View> view = cluster_.view();
    return cluster_.NodeOf(view->nodes[random_() % view->nodes.size()].id);
  }
  void Disturb() {
    const Faults faults[] = {Down(), Stuck(), Full(absl::Milliseconds(50)), Faults()};
    cluster_.Set(Living(), faults[random_() % 4]);
  }
  void Calm() {
    for (size_t node = 0; node < cluster_.size(); ++node) cluster_.Set(node, Faults());
  }
  size_t Missing() {
    size_t missing = 0;
    for (const auto& [key, replicas] : blocks_) {
      for (const size_t node : cluster_.Holders(key, replicas)) missing += !cluster_.Has(node, key);
    }
    return missing;
  }

  StoreCluster cluster_{5, kCapacity};
  std::mt19937_64 random_{GetParam()};
  uint64_t next_ = GetParam() << 32;
  size_t dead_ = SIZE_MAX;
  std::vector<std::pair<Key, uint32_t>> blocks_;
};

TEST_P(Convergence, EveryBlockIsOnItsNodesAfterFaultsADeathAndAReturn) {
  SCOPED_TRACE(::testing::Message() << "seed " << GetParam());
  for (int round = 0; round < 3; ++round) {
    for (int step = 0; step < 4; ++step) {
      Disturb();
      PutSome(20);
    }
    Calm();
    ASSERT_TRUE(Holds([&] { return Missing() == 0; }, absl::Seconds(60))) << Missing() << " after faults";
    const size_t victim = Living();
    cluster_.Kill(victim);
    dead_ = victim;
    PutSome(10);  // while the view still names the dead node
    if (random_() % 2 == 0) {
      cluster_.Leave(victim);
      ASSERT_TRUE(Holds([&] { return Missing() == 0; }, absl::Seconds(60))) << Missing() << " after a death";
      View with = *cluster_.view();
      Node back;
      back.id = cluster_.id(victim);
      back.address = {back.id.value, 1};
      back.incarnation = 10 + static_cast<uint64_t>(round);
      with.nodes.push_back(back);
      cluster_.SetView(with);
    }
    cluster_.Restart(victim);
    dead_ = SIZE_MAX;
    ASSERT_TRUE(Holds([&] { return Missing() == 0; }, absl::Seconds(60))) << Missing() << " after a return";
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, Convergence, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace kvist
