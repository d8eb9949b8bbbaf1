// Goal: every worker names the same owner for every block, in proportion to the weights, and a change of membership
// moves no more than it must. Method: seeded random keys through the pure functions, counted per node; fixed vectors
// that were computed outside this code (Python, libxxhash) pin the formula.
#include "services/cluster/ring.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace kvist {
namespace {

constexpr uint64_t kSeed = 20261101;

Key RandomKey(std::mt19937_64& random) {
  Key key;
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  return key;
}

View ViewOf(std::initializer_list<std::pair<const char*, double>> nodes) {
  View view{ViewNumber{1}, {}};
  for (const auto& [id, weight] : nodes) {
    Node& node = view.nodes.emplace_back();
    node.id.value = id;
    node.address = {"h", 1};
    node.weight = weight;
    node.capacity_bytes = 1;
  }
  return view;
}

std::string OwnerId(const Key& key, const View& view) { return view.nodes[Owner(key, view)].id.value; }

TEST(Ring, SegmentsStartAtBlocks0_1_2_4_8AndThenAtEveryMultipleOf8) {
  const std::vector<size_t> expected = {0, 1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 16, 16};
  for (size_t block = 0; block < expected.size(); ++block) EXPECT_EQ(SegmentHead(block), expected[block]) << block;
  EXPECT_EQ(SegmentHead(1000007), 1000000u);
}

TEST(Ring, OwnersOfFixedKeysAreThoseOfTheWrittenFormula) {
  const View view = ViewOf({{"n0", 1}, {"n1", 1}, {"n2", 2}});
  const std::vector<size_t> owners = {2, 1, 0, 2, 2, 2, 1, 2};
  for (size_t first = 0; first < owners.size(); ++first) {
    Key key;
    for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(i == 0 ? first : i);
    EXPECT_EQ(Owner(key, view), owners[first]) << first;
    if (first == 0) {
      EXPECT_NEAR(PlacementScore(key, NodeId{"n0"}, 1), 4.0808332462119665, 1e-12);
    }
  }
}

TEST(Ring, KeysFallOnNodesInProportionToTheirWeights) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  const View view = ViewOf({{"a", 1}, {"b", 2}, {"c", 5}});
  constexpr int kKeys = 40000;
  std::map<std::string, int> count;
  for (int i = 0; i < kKeys; ++i) ++count[OwnerId(RandomKey(random), view)];
  EXPECT_NEAR(count["a"], kKeys / 8.0, kKeys * 0.01);
  EXPECT_NEAR(count["b"], kKeys / 4.0, kKeys * 0.01);
  EXPECT_NEAR(count["c"], kKeys * 5 / 8.0, kKeys * 0.01);
}

TEST(Ring, ANodeThatJoinsTakesOnlyItsOwnShareAndNothingMovesAmongTheOthers) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  const View before = ViewOf({{"a", 1}, {"b", 1}, {"c", 1}});
  const View after = ViewOf({{"d", 1}, {"c", 1}, {"a", 1}, {"b", 1}});  // the order of the list has no meaning
  constexpr int kKeys = 20000;
  int moved = 0;
  for (int i = 0; i < kKeys; ++i) {
    const Key key = RandomKey(random);
    if (OwnerId(key, before) == OwnerId(key, after)) continue;
    ASSERT_EQ(OwnerId(key, after), "d");
    ++moved;
  }
  EXPECT_NEAR(moved, kKeys / 4.0, kKeys * 0.015);
}

TEST(Ring, ANodeThatLeavesGivesItsKeysToTheirNextOwner) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  const View before = ViewOf({{"a", 1}, {"b", 3}, {"c", 1}});
  const View after = ViewOf({{"a", 1}, {"c", 1}});
  for (int i = 0; i < 5000; ++i) {
    const Key key = RandomKey(random);
    const std::vector<size_t> owners = Owners(key, before, 2);
    const std::string expected = before.nodes[owners[before.nodes[owners[0]].id.value == "b" ? 1 : 0]].id.value;
    ASSERT_EQ(OwnerId(key, after), expected);
  }
}

TEST(Ring, ReplicasAreDistinctNodesWithTheOwnerFirst) {
  std::mt19937_64 random(kSeed);
  const View view = ViewOf({{"a", 1}, {"b", 1}, {"c", 1}});
  const Key key = RandomKey(random);
  const std::vector<size_t> owners = Owners(key, view, 5);
  ASSERT_EQ(owners.size(), 3u);
  EXPECT_EQ(owners[0], Owner(key, view));
  EXPECT_NE(owners[0], owners[1]);
  EXPECT_NE(owners[1], owners[2]);
  EXPECT_NE(owners[0], owners[2]);
}

// Chains that share their first block (one system text, many conversations) must not gather on that block's node.
TEST(Ring, ChainsThatShareTheirFirstBlockSpreadOverTheNodes) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  const View view = ViewOf({{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}});
  constexpr int kChains = 2000, kBlocks = 16;
  const Key shared = RandomKey(random);
  std::vector<int> blocks(view.nodes.size());
  for (int chain = 0; chain < kChains; ++chain) {
    std::vector<Key> keys = {shared};
    for (int block = 1; block < kBlocks; ++block) keys.push_back(RandomKey(random));
    const std::vector<size_t> owners = ChainOwners(keys, view);
    EXPECT_EQ(owners[3], owners[2]);
    EXPECT_EQ(owners[15], owners[8]);
    for (int block = 1; block < kBlocks; ++block) ++blocks[owners[block]];
  }
  const double mean = kChains * (kBlocks - 1) / 4.0;
  for (const int held : blocks) EXPECT_NEAR(held, mean, mean * 0.1);
}

}  // namespace
}  // namespace kvist
