// Goal: a copy that expires never passes for one that lasts, and no copy outlives its block: spare copies of hot
// segments go when the segment cools, and last as soon as their node has come to keep the segment, whoever notices it.
// Method: host tiers and replicators in one process (store_cluster.h), on the real clock; waits are for conditions, and
// whether a block lasts is read off its traits.
#include <gtest/gtest.h>

#include "services/cluster/replicator.h"
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

// A key, its own segment, whose best nodes are these, in order.
Key KeyFor(const StoreCluster& cluster, const std::vector<size_t>& holders) {
  for (uint64_t number = 0;; ++number) {
    if (cluster.Holders(NumberedKey(number), holders.size()) == holders) return NumberedKey(number);
  }
}

absl::Status Put(StoreCluster& cluster, size_t node, const Key& key, uint32_t replicas) {
  return cluster.Put(node, key, key, replicas, NumberedBlock(key, kBlock));
}
absl::Status PutSpare(StoreCluster& cluster, size_t node, const Key& key) {
  const BlockTraits traits{key, RealRuntime()->Now() + absl::Minutes(1), /*spare=*/true};
  return cluster.Put(node, key, traits, 1, NumberedBlock(key, kBlock), /*copy=*/true);
}
bool Lasts(StoreCluster& cluster, size_t node, const Key& key) {
  const auto lookup = cluster.store(node).Get(key, /*touch=*/false);
  return lookup->block != nullptr && lookup->traits.expires == absl::InfiniteFuture();
}
v1::AdoptRequest AdoptOf(const StoreCluster& cluster, size_t from, const Key& key) {
  v1::AdoptRequest request;
  request.set_from(cluster.id(from).value);
  request.set_namespace_digest(kNamespace);
  request.set_keys(key.bytes.data(), Key::kBytes);
  request.set_segment_heads(key.bytes.data(), Key::kBytes);
  return request;
}

TEST(SpareCopies, OneIsMadeToLastByARepairFromAnotherHolder) {
  StoreCluster cluster(3, kCapacity);
  const Key key = KeyFor(cluster, {0, 1, 2});
  ASSERT_TRUE(Put(cluster, 0, key, 2).ok());
  ASSERT_TRUE(Holds([&] { return Lasts(cluster, 1, key) && cluster.AllIdle(); }));
  ASSERT_TRUE(PutSpare(cluster, 2, key).ok());
  cluster.Leave(1);
  EXPECT_TRUE(Holds([&] { return Lasts(cluster, 2, key); }));
  EXPECT_EQ(cluster.Bytes(2, key), NumberedBlock(key, kBlock));
}

TEST(SpareCopies, OneLastsOnceItsNodeOwnsTheSegmentThoughNobodyElseHasTheBlock) {
  StoreCluster cluster(3, kCapacity);
  const Key ours = KeyFor(cluster, {0, 1, 2}), theirs = KeyFor(cluster, {0, 2, 1});
  for (const Key& key : {ours, theirs}) ASSERT_TRUE(PutSpare(cluster, 1, key).ok());
  cluster.Kill(0);
  cluster.Leave(0);
  EXPECT_TRUE(Holds([&] { return Lasts(cluster, 1, ours); }));
  EXPECT_TRUE(Holds([&] { return cluster.AllIdle(); }));
  EXPECT_FALSE(Lasts(cluster, 1, theirs)) << "another node keeps it";
}

TEST(SpareCopies, ABlockThatShallExpireDoesSoAlsoAtANodeThatComesToKeepIt) {
  StoreCluster cluster(3, kCapacity);
  const Key key = KeyFor(cluster, {0, 1, 2});
  const absl::Time expires = RealRuntime()->Now() + absl::Minutes(10);
  ASSERT_TRUE(cluster.Put(1, key, BlockTraits{key, expires}, 1, NumberedBlock(key, kBlock), /*copy=*/true).ok());
  cluster.Leave(0);
  EXPECT_TRUE(Holds([&] { return cluster.AllIdle(); }));
  EXPECT_EQ(cluster.store(1).Get(key)->traits.expires, expires);
}

TEST(SpareCopies, OneIsKeptInsteadOfAdoptedAnew) {
  StoreCluster cluster(2, kCapacity);
  const Key key = NumberedKey(1);
  ASSERT_TRUE(Put(cluster, 1, key, 1).ok());
  ASSERT_TRUE(PutSpare(cluster, 0, key).ok());
  EXPECT_EQ(cluster.replicator(0).Adopt(0, AdoptOf(cluster, 1, key)), 0u);
  EXPECT_TRUE(Lasts(cluster, 0, key));
}

TEST(SpareCopies, CopiesOfABlockExpireWithIt) {
  StoreCluster cluster(2, kCapacity);
  const Key key = KeyFor(cluster, {0, 1});
  const absl::Time expires = RealRuntime()->Now() + absl::Minutes(10);
  ASSERT_TRUE(cluster.Put(0, key, BlockTraits{key, expires}, 2, NumberedBlock(key, kBlock)).ok());
  ASSERT_TRUE(Holds([&] { return cluster.Has(1, key); }));
  const Lookup copy = *cluster.store(1).Get(key);
  EXPECT_LE(copy.traits.expires, expires + absl::Seconds(20));
  EXPECT_FALSE(copy.traits.spare);
}

TEST(SpareCopies, TheyGoWhenTheSegmentCoolsAndTheBlockStays) {
  StoreCluster cluster(3, kCapacity, [](ReplicatorOptions& options) {
    options.heat.floor = 1000;
    options.heat.half_life = absl::Milliseconds(50);
    options.hot_ttl = absl::Milliseconds(1500);
  });
  const Key key = KeyFor(cluster, {0, 1, 2});
  ASSERT_TRUE(Put(cluster, 0, key, 1).ok());
  ASSERT_TRUE(Holds([&] {
    cluster.replicator(0).Read(key, 1 << 20);
    return !cluster.replicator(0).HotNodes(key).empty();
  }));
  EXPECT_TRUE(cluster.Has(1, key));
  EXPECT_TRUE(Holds([&] { return cluster.replicator(0).HotNodes(key).empty(); })) << "no reader is sent there";
  EXPECT_TRUE(Holds([&] { return !cluster.Has(1, key) && !cluster.Has(2, key); }));
  EXPECT_TRUE(Holds([&] { return cluster.replicator(0).counters().hot_segments == 0; }));
  EXPECT_TRUE(Lasts(cluster, 0, key));
}

TEST(SpareCopies, AHotSegmentsCopyThatIsThereAlreadyIsProlongedAndServes) {
  StoreCluster cluster(2, kCapacity, [](ReplicatorOptions& options) { options.heat.floor = 1000; });
  const Key key = KeyFor(cluster, {0, 1});
  ASSERT_TRUE(Put(cluster, 0, key, 1).ok());
  const absl::Time soon = RealRuntime()->Now() + absl::Seconds(15);
  ASSERT_TRUE(cluster.Put(1, key, {key, soon, /*spare=*/true}, 1, NumberedBlock(key, kBlock), /*copy=*/true).ok());
  ASSERT_TRUE(Holds([&] {
    cluster.replicator(0).Read(key, 1 << 20);
    return !cluster.replicator(0).HotNodes(key).empty();
  }));
  EXPECT_GE(cluster.store(1).Get(key)->traits.expires, soon + absl::Seconds(20));
  EXPECT_TRUE(cluster.store(1).Get(key)->traits.spare);
}

}  // namespace
}  // namespace kvist
