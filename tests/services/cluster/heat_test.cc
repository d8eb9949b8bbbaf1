// Goal: what is said to be read lately is what was read lately, and its parts add up. Method: Heat alone, on times of the
// test's.
#include "services/cluster/heat.h"

#include <gtest/gtest.h>

namespace kvist {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(250);

Key KeyOf(uint8_t number) {
  Key key;
  key.bytes.fill(number);
  return key;
}

class HeatTest : public ::testing::Test {
 protected:
  // Reads so many bytes a second of segments 1, 2, ... for half a minute: long enough for rates to settle.
  void ReadAll(const std::vector<uint64_t>& rates) {
    for (int tick = 0; tick < 120; ++tick) {
      for (size_t i = 0; i < rates.size(); ++i) heat_.Read(KeyOf(static_cast<uint8_t>(i + 1)), rates[i] / 4);
      now_ += kTick;
      heat_.Tick(now_, {});
    }
  }
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  Heat heat_{HeatOptions{}};
};

TEST_F(HeatTest, TheMostReadComeFirstWithTheirRates) {
  ReadAll({1'000'000, 4'000'000, 2'000'000});
  const Heat::Reading lately = heat_.Look(2);
  EXPECT_EQ(lately.segments, 3u);
  ASSERT_EQ(lately.top.size(), 2u);
  EXPECT_EQ(lately.top[0].segment, KeyOf(2));
  EXPECT_EQ(lately.top[1].segment, KeyOf(3));
  EXPECT_NEAR(lately.top[0].bytes_per_second, 4'000'000, 300'000);
  EXPECT_NEAR(lately.bytes_per_second, 7'000'000, 500'000);
  EXPECT_NEAR(lately.most_read, 4.0 / 7, 0.01);
}

TEST_F(HeatTest, TheHotPartIsThatOfSegmentsThatAreHot) {
  ReadAll(std::vector<uint64_t>(100, 100'000));
  EXPECT_EQ(heat_.Look(0).hot, 0) << "all alike: nothing is hot";
  std::vector<uint64_t> rates(100, 100'000);
  rates[0] = 30'000'000;
  ReadAll(rates);
  EXPECT_NEAR(heat_.Look(0).hot, 30.0 / 39.9, 0.02);
}

TEST_F(HeatTest, WhatIsNoLongerReadIsForgotten) {
  ReadAll({1'000'000});
  now_ += absl::Minutes(5);
  heat_.Tick(now_, {});
  const Heat::Reading lately = heat_.Look(10);
  EXPECT_EQ(lately.segments, 0u);
  EXPECT_EQ(lately.bytes_per_second, 0);
  EXPECT_EQ(lately.most_read, 0);
  EXPECT_TRUE(lately.top.empty());
}

}  // namespace
}  // namespace kvist
