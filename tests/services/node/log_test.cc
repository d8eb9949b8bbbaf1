// Goal: the log is JSON whatever it is told, and no event can flood it or hide another. Method: the limit on a clock of
// the test's, and real lines read back from standard error.
#include "services/node/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/node/log_limit.h"

namespace kvist {
namespace {

using nlohmann::json;

const absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);

TEST(LogLimitTest, TenAtOnceThenOneASecondThatSaysHowManyWereLeftOut) {
  LogLimit limit;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(limit.Take("flood", kStart), 0) << i;
  int written = 0;
  uint64_t left_out = 0;
  for (int i = 1; i <= 1000; ++i) {
    const std::optional<uint64_t> taken = limit.Take("flood", kStart + absl::Milliseconds(10) * i);
    written += taken.has_value();
    left_out += taken.value_or(0);
  }
  EXPECT_GE(written, 9);
  EXPECT_LE(written, 10);
  EXPECT_GE(left_out + written, 900u);  // all but those after the last line
}

TEST(LogLimitTest, EventsDoNotStandInEachOthersWay) {
  LogLimit limit;
  while (limit.Take("flood", kStart)) {
  }
  EXPECT_EQ(limit.Take("another", kStart), 0);
}

TEST(LogLimitTest, AfterAQuietTimeThereIsRoomForTenAgain) {
  LogLimit limit;
  for (int i = 0; i < 15; ++i) limit.Take("flood", kStart);
  const absl::Time later = kStart + absl::Hours(1);
  EXPECT_EQ(limit.Take("flood", later), 5);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(limit.Take("flood", later), 0) << i;
  EXPECT_EQ(limit.Take("flood", later), std::nullopt);
}

TEST(LogLimitTest, AClockThatIsSetBackCostsLinesAndNothingElse) {
  LogLimit limit;
  for (int i = 0; i < 10; ++i) limit.Take("flood", kStart);
  EXPECT_EQ(limit.Take("flood", kStart - absl::Hours(1)), std::nullopt);
  EXPECT_EQ(limit.Take("flood", kStart - absl::Hours(1) + absl::Seconds(1)), 1);
}

TEST(LogLimitTest, EventsWithoutNumberTakeABoundedPlace) {
  LogLimit limit;
  int written = 0;
  for (int i = 0; i < 10'000; ++i) written += limit.Take(absl::StrCat("event ", i), kStart).has_value();
  EXPECT_LE(written, static_cast<int>(LogLimit::kMostEvents) + 10);
}

std::vector<json> Lines(const std::string& text) {
  std::vector<json> lines;
  std::istringstream all(text);
  for (std::string line; std::getline(all, line);) lines.push_back(json::parse(line, nullptr, false));
  return lines;
}

TEST(LogTest, AFloodIsTenLinesAndEveryLineIsJson) {
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 500; ++i) Log(LogLevel::kWarning, "a flood", {{"bytes", "\xff\"\n" + absl::StrCat(i)}});
  Log(LogLevel::kInfo, "something else");
  const std::vector<json> lines = Lines(::testing::internal::GetCapturedStderr());
  ASSERT_GE(lines.size(), 11u);
  EXPECT_LE(lines.size(), 13u);  // a slow machine takes a second for it
  for (const json& line : lines) EXPECT_TRUE(line.is_object());
  EXPECT_EQ(lines.front()["event"], "a flood");
  EXPECT_EQ(lines.back()["event"], "something else");
}

TEST(LogTest, LevelsBelowTheChosenOneAreNotWrittenAndTakeNoPlace) {
  ASSERT_TRUE(SetLogLevel("warning").ok());
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 50; ++i) Log(LogLevel::kInfo, "of two levels");
  Log(LogLevel::kWarning, "of two levels");
  const std::vector<json> lines = Lines(::testing::internal::GetCapturedStderr());
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["level"], "warning");
  EXPECT_FALSE(lines[0].contains("left_out"));
  EXPECT_FALSE(SetLogLevel("loud").ok());
  ASSERT_TRUE(SetLogLevel("info").ok());
}

}  // namespace
}  // namespace kvist
