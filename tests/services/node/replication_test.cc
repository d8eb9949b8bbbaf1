// Goal: what nodes do among themselves: copies stand where the ring says, hot segments spread and cool, a new owner
// takes over what readers found elsewhere, damage is mended from a copy, and a drained node's blocks live on. Method:
// whole nodes without sockets in one process (tests/services/testing/local_cluster.h), real blocks, the real clock;
// waits are for conditions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "services/cluster/ring.h"
#include "tests/services/testing/local_cluster.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using testing::In;
using testing::LocalCluster;
using testing::WaitFor;

constexpr uint64_t kCapacity = 16 << 20;

Key KeyOf(int number) {
  Key key = testing::TestKey(static_cast<uint8_t>(number * 37 + 11));
  std::memcpy(key.bytes.data() + 4, &number, sizeof(number));
  return key;
}

class ReplicationTest : public ::testing::Test {
 protected:
  std::string Name(size_t node) { return cluster_.view().nodes[node].id.value; }
  SegmentNodes NodesOf(const Key& key, size_t replicas) { return Place(key, cluster_.view(), replicas); }

  // Puts a block, a segment of its own, at this node.
  absl::Status Put(const std::string& node, int number, uint32_t replicas, uint64_t seed = 1, bool copy = false) {
    const Key key = KeyOf(number);
    const std::string block = testing::TestBlock(key, 8, seed);
    v1::PutReserve reserve = testing::ReserveFor(key, block.size());
    reserve.set_segment_head(key.bytes.data(), key.bytes.size());
    reserve.set_replicas(replicas);
    reserve.set_copy(copy);
    auto stream = cluster_.Connect(node + ":1")->Put(reserve, In(10));
    if (!stream.ok()) return stream.status();
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(block.data()), block.size());
    if (absl::Status written = (*stream)->Write(0, bytes); !written.ok()) return written;
    return (*stream)->Commit(block.size()).status();
  }
  bool Has(const std::string& node, int number) {
    return cluster_.node(node)->store()->Get(KeyOf(number), /*touch=*/false)->block != nullptr;
  }
  uint64_t Reads(const std::string& node, int number, int times) {
    uint64_t hits = 0;
    for (int i = 0; i < times; ++i) {
      const auto fetched =
          testing::GetBlocks(cluster_.Connect(node + ":1").get(), testing::GetRequestFor({KeyOf(number)}));
      hits += fetched.ok() && fetched->headers[0].miss() == v1::MISS_REASON_UNSPECIFIED;
    }
    return hits;
  }

  LocalCluster cluster_{4, kCapacity};
};

TEST_F(ReplicationTest, EveryBlockComesToStandOnAsManyNodesAsWereAskedForAndOnTheRightOnes) {
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(Put(Name(NodesOf(KeyOf(i), 1).owners[0]), i, 1 + i % 3).ok());
  for (int i = 0; i < 60; ++i) {
    const std::vector<size_t> right = NodesOf(KeyOf(i), 1 + i % 3).owners;
    for (size_t node = 0; node < 4; ++node) {
      const bool wanted = std::find(right.begin(), right.end(), node) != right.end();
      EXPECT_TRUE(WaitFor([&] { return Has(Name(node), i) == wanted; })) << "block " << i << " on " << Name(node);
    }
  }
}

TEST_F(ReplicationTest, APeerThatIsAwayGetsItsCopyWhenItComesBack) {
  const std::vector<size_t> owners = NodesOf(KeyOf(1), 2).owners;
  cluster_.CutOff(Name(owners[1]));
  ASSERT_TRUE(Put(Name(owners[0]), 1, 2).ok()) << "the first is not held up by the second";
  cluster_.CutOff(Name(owners[1]), false);
  EXPECT_TRUE(WaitFor([&] { return Has(Name(owners[1]), 1); }));
}

TEST_F(ReplicationTest, WhenAHolderLeavesAnotherTakesItsPlace) {
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Put(Name(NodesOf(KeyOf(i), 1).owners[0]), i, 2).ok());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(WaitFor([&] { return Has(Name(NodesOf(KeyOf(i), 2).owners[1]), i); }));
  }
  View without = cluster_.view();
  cluster_.CutOff("n2");
  without.nodes.erase(without.nodes.begin() + 2);
  cluster_.SetView(without);
  for (int i = 0; i < 20; ++i) {
    for (const size_t node : NodesOf(KeyOf(i), 2).owners) {
      EXPECT_TRUE(WaitFor([&] { return Has(Name(node), i); })) << "block " << i << " on " << Name(node);
    }
  }
}

TEST_F(ReplicationTest, AnOwnerAdoptsWhatAReaderFoundElsewhere) {
  const size_t owner = NodesOf(KeyOf(1), 1).owners[0], other = (owner + 1) % 4;
  ASSERT_TRUE(Put(Name(other), 1, 1).ok());
  v1::AdoptRequest request;
  request.set_from(Name(other));
  request.set_keys(KeyOf(1).bytes.data(), Key::kBytes);
  request.set_segment_heads(KeyOf(1).bytes.data(), Key::kBytes);
  request.set_namespace_digest(testing::kTestNamespace);
  const auto adopted = cluster_.Connect(Name(owner) + ":1")->Adopt(request, In(10));
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(adopted->accepted(), 1u);
  EXPECT_TRUE(WaitFor([&] { return Has(Name(owner), 1); }));
  EXPECT_EQ(cluster_.node(Name(owner))->store()->Get(KeyOf(1))->traits.group, KeyOf(1));
  EXPECT_EQ(cluster_.Connect(Name(owner) + ":1")->Adopt(request, In(10))->accepted(), 0u) << "it has it";
  request.set_from("nobody");
  request.set_keys(KeyOf(2).bytes.data(), Key::kBytes);
  EXPECT_EQ(cluster_.Connect(Name(owner) + ":1")->Adopt(request, In(10))->accepted(), 0u);
}

TEST_F(ReplicationTest, ADamagedBlockIsDroppedAndFetchedAgainFromItsCopy) {
  const std::vector<size_t> owners = NodesOf(KeyOf(1), 2).owners;
  ASSERT_TRUE(Put(Name(owners[0]), 1, 2).ok());
  ASSERT_TRUE(WaitFor([&] { return Has(Name(owners[1]), 1); }));
  ASSERT_TRUE(cluster_.node(Name(owners[0]))->store()->host().FlipBitsForTest(KeyOf(1), 5000, 0x10));
  v1::ReportRequest report;
  report.set_keys(KeyOf(1).bytes.data(), Key::kBytes);
  const auto reported = cluster_.Connect(Name(owners[0]) + ":1")->Report(report, In(10));
  ASSERT_TRUE(reported.ok()) << reported.status();
  EXPECT_EQ(reported->damaged(), 1u);
  EXPECT_TRUE(WaitFor([&] { return Has(Name(owners[0]), 1); }));
  const auto fetched =
      testing::GetBlocks(cluster_.Connect(Name(owners[0]) + ":1").get(), testing::GetRequestFor({KeyOf(1)}));
  ASSERT_TRUE(fetched.ok());
  EXPECT_EQ(fetched->bytes[0], testing::TestBlock(KeyOf(1), 8, 1));
}

TEST_F(ReplicationTest, ACopyWithOtherBytesIsNotTaken) {
  const std::vector<size_t> owners = NodesOf(KeyOf(1), 2).owners;
  ASSERT_TRUE(Put(Name(owners[1]), 1, 1, /*seed=*/7).ok());
  ASSERT_TRUE(Put(Name(owners[0]), 1, 2, /*seed=*/1).ok());
  EXPECT_TRUE(WaitFor([&] {
    return cluster_.node(Name(owners[1]))->metrics()->Expose().find("kvist_conflicting_blocks_total 1") !=
               std::string::npos ||
           cluster_.node(Name(owners[1]))->metrics()->Expose().find("kvist_conflicting_blocks_total{") !=
               std::string::npos;
  })) << cluster_.node(Name(owners[1]))->metrics()->Expose();
  const auto fetched =
      testing::GetBlocks(cluster_.Connect(Name(owners[1]) + ":1").get(), testing::GetRequestFor({KeyOf(1)}));
  ASSERT_TRUE(fetched.ok());
  EXPECT_EQ(fetched->bytes[0], testing::TestBlock(KeyOf(1), 8, 7)) << "the first is kept";
}

TEST_F(ReplicationTest, AHotSegmentSpreadsAndMatchTellsWhere) {
  const size_t owner = NodesOf(KeyOf(1), 1).owners[0];
  ASSERT_TRUE(Put(Name(owner), 1, 1).ok());
  v1::MatchRequest request;
  request.add_chains()->set_keys(KeyOf(1).bytes.data(), Key::kBytes);
  v1::MatchResponse match;
  EXPECT_TRUE(WaitFor(
      [&] {
        EXPECT_EQ(Reads(Name(owner), 1, 500), 500u);
        match = *cluster_.Connect(Name(owner) + ":1")->Match(request, In(10));
        return match.hot_size() == 1 && match.hot(0).nodes_size() == 3;
      },
      30))
      << match.ShortDebugString();
  for (const std::string& node : match.hot(0).nodes()) {
    EXPECT_TRUE(Has(node, 1)) << node;
    EXPECT_NE(cluster_.node(node)->store()->Get(KeyOf(1))->traits.expires, absl::InfiniteFuture()) << "it cools";
  }
}

TEST_F(ReplicationTest, ADrainHandsTheMostReadBlocksToTheirNextOwners) {
  std::vector<int> held;
  for (int i = 0; held.size() < 20; ++i) {
    if (Name(NodesOf(KeyOf(i), 1).owners[0]) == "n0") held.push_back(i);
  }
  for (const int i : held) ASSERT_TRUE(Put("n0", i, 1).ok());
  for (size_t at = 0; at < 10; ++at) ASSERT_EQ(Reads("n0", held[at], 3), 3u);
  const uint64_t block_bytes = testing::TestBlock(KeyOf(0), 8, 1).size();
  const auto channel = cluster_.Connect("n0:1");
  v1::DrainRequest request;
  request.set_start(true);
  request.set_budget_bytes(10 * block_bytes);
  v1::DrainResponse progress;
  EXPECT_TRUE(WaitFor([&] {
    const auto answer = channel->Drain(request, In(10));
    if (!answer.ok()) return false;
    progress = *answer;
    return progress.blocks() > 0 && progress.sent_blocks() == progress.blocks();
  })) << progress.ShortDebugString();
  EXPECT_EQ(progress.blocks(), 10u);
  EXPECT_EQ(progress.bytes(), 10 * block_bytes);
  View others = cluster_.view();
  others.nodes.erase(others.nodes.begin());
  for (size_t at = 0; at < held.size(); ++at) {
    const std::string heir = others.nodes[Owner(KeyOf(held[at]), others)].id.value;
    EXPECT_EQ(Has(heir, held[at]), at < 10) << "block " << held[at] << " at " << heir;
  }
}

TEST_F(ReplicationTest, ADrainMakesTheExtraCopyOfAHotBlockLastAtItsHeir) {
  int hot = 0;
  while (Name(NodesOf(KeyOf(hot), 1).owners[0]) != "n0") ++hot;
  ASSERT_TRUE(Put("n0", hot, 1).ok());
  const std::string heir = Name(NodesOf(KeyOf(hot), 2).owners[1]);
  const auto traits = [&] { return cluster_.node(heir)->store()->Get(KeyOf(hot), /*touch=*/false)->traits; };
  ASSERT_TRUE(WaitFor(
      [&] {
        EXPECT_EQ(Reads("n0", hot, 500), 500u);
        return Has(heir, hot);
      },
      30));
  ASSERT_TRUE(traits().spare);
  const auto channel = cluster_.Connect("n0:1");
  v1::DrainRequest request;
  request.set_start(true);
  EXPECT_TRUE(WaitFor([&] {
    const auto answer = channel->Drain(request, In(10));
    return answer.ok() && answer->phase() == v1::DrainResponse::PHASE_LEFT;
  }));
  EXPECT_TRUE(Has(heir, hot));
  EXPECT_FALSE(traits().spare);
  EXPECT_EQ(traits().expires, absl::InfiniteFuture());
}

}  // namespace
}  // namespace kvist
