// Goal: extents never overlap, nothing is refused that the stated bound promises, nothing is lost.
// Method: random Take, Shrink and Return against a plain map of what is taken; the holes are counted anew from it.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "cachestore/allocator.h"

namespace kvist {
namespace {

constexpr uint64_t kGranule = Allocator::kGranularity;
constexpr uint64_t kMinExtent = Allocator::kMinExtent;

// What is taken, by offset.
class Model {
 public:
  explicit Model(uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  void Add(const Extents& extents) {
    for (const Extent& extent : extents) {
      ASSERT_GT(extent.size_bytes, 0u);
      ASSERT_EQ(extent.offset % kGranule, 0u);
      ASSERT_EQ(extent.size_bytes % kGranule, 0u);
      ASSERT_LE(extent.offset + extent.size_bytes, capacity_bytes_);
      const auto next = taken_.lower_bound(extent.offset);
      if (next != taken_.end()) {
        ASSERT_LE(extent.offset + extent.size_bytes, next->first) << "overlap";
      }
      if (next != taken_.begin()) {
        const auto previous = std::prev(next);
        ASSERT_LE(previous->first + previous->second, extent.offset) << "overlap";
      }
      taken_.emplace(extent.offset, extent.size_bytes);
    }
  }
  void Remove(const Extents& extents) {
    for (const Extent& extent : extents) taken_.erase(extent.offset);
  }
  Allocator::State Count(uint64_t* largest_hole) const {
    Allocator::State state;
    state.live_extents = taken_.size();
    *largest_hole = 0;
    uint64_t end = 0;
    const auto hole = [&](uint64_t size_bytes) {
      if (size_bytes == 0) return;
      ++state.holes;
      state.free_bytes += size_bytes;
      if (size_bytes >= kMinExtent) state.usable_bytes += size_bytes;
      *largest_hole = std::max(*largest_hole, size_bytes);
    };
    for (const auto& [offset, size_bytes] : taken_) {
      hole(offset - end);
      end = offset + size_bytes;
    }
    hole(capacity_bytes_ - end);
    return state;
  }

 private:
  const uint64_t capacity_bytes_;
  std::map<uint64_t, uint64_t> taken_;
};

uint64_t SumBytes(const Extents& extents) {
  uint64_t sum_bytes = 0;
  for (const Extent& extent : extents) sum_bytes += extent.size_bytes;
  return sum_bytes;
}

class AllocatorProperty : public testing::TestWithParam<uint64_t> {};

TEST_P(AllocatorProperty, ExtentsNeverOverlapAndNoUsableSpaceIsRefused) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  std::mt19937_64 random(GetParam());
  const uint64_t capacity_bytes = (uint64_t{4} << 20) + kGranule * (random() % 1000);
  const uint64_t largest_request = capacity_bytes >> (random() % 6);
  Allocator allocator(capacity_bytes);
  Model model(capacity_bytes);
  std::vector<Extents> live;
  uint64_t refusals = 0, split = 0;

  for (int step = 0; step < 6000; ++step) {
    const uint64_t act = random() % 16;
    if (act < 9 || live.empty()) {
      const uint64_t size_bytes = 1 + random() % (random() % 3 == 0 ? largest_request : 3 * kMinExtent);
      uint64_t largest_hole = 0;
      const Allocator::State before = model.Count(&largest_hole);
      std::optional<Extents> extents = allocator.Take(size_bytes);
      const uint64_t charge = Allocator::RoundUp(size_bytes);
      ASSERT_EQ(extents.has_value(), largest_hole >= charge || before.usable_bytes >= charge) << "step " << step;
      if (!extents) {
        ++refusals;
        ASSERT_LT(before.free_bytes, charge + (before.live_extents + 1) * kMinExtent) << "the bound of allocator.h";
      } else {
        ASSERT_EQ(SumBytes(*extents), charge);
        if (largest_hole >= charge) {
          ASSERT_EQ(extents->size(), 1u) << "contiguous where a hole fits";
        }
        for (size_t i = 0; i + 1 < extents->size(); ++i) ASSERT_GE((*extents)[i].size_bytes, kMinExtent);
        split += extents->size() > 1;
        ASSERT_NO_FATAL_FAILURE(model.Add(*extents)) << "step " << step;
        live.push_back(*std::move(extents));
      }
    } else {
      const size_t at = random() % live.size();
      model.Remove(live[at]);
      if (act == 9) {
        const uint64_t kept = 1 + random() % SumBytes(live[at]);
        allocator.Shrink(live[at], kept);
        ASSERT_EQ(SumBytes(live[at]), Allocator::RoundUp(kept));
        ASSERT_NO_FATAL_FAILURE(model.Add(live[at])) << "step " << step;
      } else {
        allocator.Return(live[at]);
        std::swap(live[at], live.back());
        live.pop_back();
      }
    }
    uint64_t largest_hole = 0;
    const Allocator::State expected = model.Count(&largest_hole);
    const Allocator::State state = allocator.state();
    ASSERT_EQ(state.free_bytes, expected.free_bytes) << "step " << step;
    ASSERT_EQ(state.usable_bytes, expected.usable_bytes) << "step " << step;
    ASSERT_EQ(state.holes, expected.holes) << "step " << step << ": neighbouring holes are joined";
    ASSERT_EQ(state.live_extents, expected.live_extents) << "step " << step;
  }
  EXPECT_GT(refusals, 0u) << "the run was too easy";
  EXPECT_GT(split, 0u) << "the run was too easy";

  std::shuffle(live.begin(), live.end(), random);
  for (const Extents& extents : live) allocator.Return(extents);
  EXPECT_EQ(allocator.state().holes, 1u);
  EXPECT_EQ(allocator.state().usable_bytes, capacity_bytes);
  EXPECT_TRUE(allocator.Take(capacity_bytes).has_value()) << "the whole arena in one extent";
}

INSTANTIATE_TEST_SUITE_P(Seeds, AllocatorProperty, testing::Range<uint64_t>(1, 9));

TEST(Allocator, GivesABlockSeveralExtentsRatherThanRefuseIt) {
  Allocator allocator(10 * kMinExtent);
  std::vector<Extents> live;
  for (int i = 0; i < 10; ++i) live.push_back(*allocator.Take(kMinExtent));
  for (int i = 0; i < 10; i += 2) allocator.Return(live[i]);
  const std::optional<Extents> extents = allocator.Take(5 * kMinExtent);
  ASSERT_TRUE(extents.has_value());
  EXPECT_EQ(extents->size(), 5u);
  EXPECT_FALSE(allocator.Take(1).has_value()) << "all is taken";
}

TEST(AllocatorDeathTest, EndsTheProcessWhenAnExtentIsReturnedTwice) {
  Allocator allocator(4 * kMinExtent);
  const Extents extents = *allocator.Take(kMinExtent);
  allocator.Return(extents);
  EXPECT_DEATH(allocator.Return(extents), "an extent is returned once");
}

}  // namespace
}  // namespace kvist
