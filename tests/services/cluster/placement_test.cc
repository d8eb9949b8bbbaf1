// Goal: placement keeps what it promises at the size of a large cluster: a join moves the new node's share and nothing
// else, and bytes lie evenly. Method: the computations of tests/bench/placement.h, which tests/bench/placement_bench
// prints, with fixed seeds; they are pure, so the figures are the same in every run.
#include "tests/bench/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "services/cluster/ring.h"

namespace kvist::bench {
namespace {

constexpr size_t kNodes = 64, kSegments = 100000;

TEST(Placement, OneJoinTo64NodesMovesAtMostAFewPercentMoreThanItsShareAndNothingAstray) {
  for (const uint64_t seed : {1, 2, 3}) {
    const Moves moves = MovedByOneJoin(kNodes, kSegments, seed);
    EXPECT_LE(moves.Ratio(), 1.1) << "seed " << seed;
    EXPECT_GE(moves.Ratio(), 0.9) << "seed " << seed << ": the new node gets its share";
    EXPECT_EQ(moves.astray, 0u) << "seed " << seed;
  }
}

// No pure function of a random key does better than chance: 1,562 segments a node vary by 2.5 %, by 2.8 % with their
// sizes, and the fullest of 64 nodes lies between 1.05 and 1.10 of the mean, one time in a hundred beyond. The median
// is what the placement is held to, so that no lucky seed has to be chosen.
TEST(Placement, TheFullestOf64NodesHoldsLessThanATenthMoreThanTheMean) {
  std::vector<double> ratios;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const Spread spread = SpreadOfPrompts(kNodes, kSegments, seed);
    EXPECT_EQ(spread.segments, kSegments);
    EXPECT_LT(spread.MaxToMean(), 1.13) << "seed " << seed;
    ratios.push_back(spread.MaxToMean());
  }
  std::sort(ratios.begin(), ratios.end());
  EXPECT_LT(ratios[2], 1.1);
}

TEST(Placement, ATraceIsCountedBlockByBlock) {
  // 8 blocks, then the same first four and four others: 12 are stored, 16 are read. A last part of 100 tokens is none.
  std::istringstream trace(
      "{\"input_length\": 1124, \"hash_ids\": [0, 1, 2]}\n{\"input_length\": 1024, \"hash_ids\": [0, 3]}\n");
  const absl::StatusOr<TraceSpread> spread = SpreadOfTrace(1, trace);
  ASSERT_TRUE(spread.ok()) << spread.status();
  EXPECT_EQ(spread->requests, 2u);
  EXPECT_EQ(spread->stored.blocks, 12u);
  EXPECT_EQ(spread->stored.segments, 5u);  // blocks 0, 1, 2, and block 4 of each
  EXPECT_EQ(spread->read.blocks, 16u);
  EXPECT_EQ(spread->stored.MaxToMean(), 1);
}

TEST(Placement, ATraceThatCannotBeReadNamesTheLine) {
  std::istringstream trace("{\"input_length\": 1024, \"hash_ids\": [0, 1]}\n{\"tokens\": 4}\n");
  EXPECT_EQ(SpreadOfTrace(2, trace).status().message(), "line 2 is no request with input_length and hash_ids");
}

}  // namespace
}  // namespace kvist::bench
