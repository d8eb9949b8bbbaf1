// Goal: whatever is done to a store of two tiers, and wherever its moves stand, a byte that is read is the byte that was
// written; what is pinned or leased stays and does not change; what was erased or has expired does not come back; every
// figure is the sum of the blocks behind it; and in the end all memory is back.
// Method: random operations, seeded, on an emulated device that is held, late and failed (tiered_run.h), against a plain
// account of what may be seen (tiered_model.h). That the judge sees is shown by sabotage.
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "tests/cachestore/tiered_run.h"

namespace kvist {
namespace {

using testing::Sabotage;
using testing::TieredRun;

class TieredStoreProperty : public ::testing::TestWithParam<uint64_t> {};

TEST_P(TieredStoreProperty, ShowsNothingThatCannotBeTrue) {
  TieredRun run(GetParam(), Sabotage::kNone);
  EXPECT_EQ(run.Go(/*fails=*/GetParam() % 3 == 2), "") << "seed " << GetParam();
  EXPECT_GT(run.model().seen_evictions(), 0u) << "the run was too easy";
  EXPECT_GT(run.model().prolonged(), 0u) << "the run was too easy";
  if (run.hasty()) return;  // it may lose its device before anything has moved
  EXPECT_GT(run.last_figures().moves.promoted_blocks, 0u) << "the run was too easy";
  EXPECT_GT(run.last_figures().moves.demoted_blocks, 0u) << "the run was too easy";
}

INSTANTIATE_TEST_SUITE_P(Seeds, TieredStoreProperty, ::testing::Range<uint64_t>(1, 10));

TEST(TieredStoreJudge, SeesEveryKindOfSabotage) {
  const std::pair<Sabotage, const char*> kinds[] = {
      {Sabotage::kFlippedByte, "other bytes"}, {Sabotage::kChangedUnderAPin, "other bytes"},
      {Sabotage::kLostLease, "is leased and"}, {Sabotage::kRevived, "after its end"},
      {Sabotage::kLeakedPin, "pinned"},
  };
  for (const auto& [sabotage, words] : kinds) {
    TieredRun run(42, sabotage);
    const std::string wrong = run.Go(/*fails=*/false);
    EXPECT_TRUE(run.sabotaged()) << words;
    EXPECT_NE(wrong.find(words), std::string::npos) << "instead of '" << words << "': '" << wrong << "'";
  }
}

}  // namespace
}  // namespace kvist
