// Goal: no seed breaks a rule of the simulated cluster, and each judge sees what it is there for.
// Method: whole runs (world.h), divided among the shards of this test; runs that are sabotaged, in children of the test.
// A run that fails ends the process and prints its seed and the command that replays it.
#include "tests/simulation/world.h"

#include <gtest/gtest.h>

#include "services/node/log.h"

namespace kvist::simulation {
namespace {

constexpr uint64_t kSeeds = 300;

class WorldTest : public ::testing::Test {
 protected:
  WorldTest() { SetLogLevel("error").IgnoreError(); }
};

// One test for each remainder, so that Bazel's shards share the seeds.
class SeedsTest : public WorldTest, public ::testing::WithParamInterface<uint64_t> {};

TEST_P(SeedsTest, BreakNoRule) {
  WorldReport sum;
  for (uint64_t seed = 1 + GetParam(); seed <= kSeeds; seed += 10) {
    WorldOptions options;
    options.seed = seed;
    sum.Add(RunWorld(options));
  }
  // The rules were put to the test: blocks were read, lost, and held meanwhile.
  EXPECT_GT(sum.verified_blocks, 10'000u);
  EXPECT_GT(sum.misses, 1'000u);
  EXPECT_GT(sum.held, 1'000u);
  EXPECT_GT(sum.harms, 500u);
}

INSTANTIATE_TEST_SUITE_P(All, SeedsTest, ::testing::Range<uint64_t>(0, 10));

WorldOptions Sabotaged(Sabotage sabotage) {
  WorldOptions options;
  options.sabotage = sabotage;
  options.seconds = 20;
  return options;
}

TEST_F(WorldTest, AWrongValueIsSeen) {
  EXPECT_EXIT(RunWorld(Sabotaged(Sabotage::kWrongValue)), ::testing::ExitedWithCode(1),
              "seed 1: block 0 came with wrong values");
}

TEST_F(WorldTest, ABlockThatGoesUnderAPinOrALeaseIsSeen) {
  EXPECT_EXIT(RunWorld(Sabotaged(Sabotage::kLostBlocks)), ::testing::ExitedWithCode(1),
              "is gone \\(3\\) while it is (pinned|leased)");
}

TEST_F(WorldTest, APinThatNobodyGivesBackIsSeen) {
  EXPECT_EXIT(RunWorld(Sabotaged(Sabotage::kLeakedPin)), ::testing::ExitedWithCode(1),
              "does not come to rest: n0: [0-9]+ bytes pinned");
}

}  // namespace
}  // namespace kvist::simulation
