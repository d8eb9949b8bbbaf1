// Goal: of what the W3C's Trace Context says is a traceparent, every one is taken and nothing else; and a trace is known
// where its work is done and nowhere else.
#include "services/runtime/trace.h"

#include <gtest/gtest.h>

#include <thread>

namespace kvist {
namespace {

const std::string kId = "4bf92f3577b34da6a3ce929d0e0e4736", kSpan = "00f067aa0ba902b7";
const std::string kGood = "00-" + kId + "-" + kSpan + "-01";

TEST(TraceTest, ATraceparentIsTakenApartAndPutTogether) {
  const std::optional<Trace> trace = ParseTraceparent(kGood);
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id, kId);
  EXPECT_EQ(trace->span_id, kSpan);
  EXPECT_TRUE(trace->sampled);
  EXPECT_EQ(trace->ToTraceparent(), kGood);
  EXPECT_FALSE(ParseTraceparent("00-" + kId + "-" + kSpan + "-00")->sampled);
}

TEST(TraceTest, FlagsThatAreNotKnownAreNotPassedOn) {
  EXPECT_EQ(ParseTraceparent("00-" + kId + "-" + kSpan + "-ff")->ToTraceparent(), kGood);
  EXPECT_EQ(ParseTraceparent("00-" + kId + "-" + kSpan + "-fe")->ToTraceparent(), "00-" + kId + "-" + kSpan + "-00");
}

TEST(TraceTest, OfALaterVersionWhatIsKnownIsTaken) {
  for (const char* more : {"", "-", "-what-comes-after"}) {
    const std::optional<Trace> trace = ParseTraceparent("cc-" + kId + "-" + kSpan + "-01" + more);
    ASSERT_TRUE(trace.has_value()) << more;
    EXPECT_EQ(trace->ToTraceparent(), kGood);
  }
}

TEST(TraceTest, WhatIsNoTraceparentIsNoTrace) {
  const std::string zeros(32, '0');
  for (const std::string& wrong : {
           std::string(),
           std::string("00"),
           kGood.substr(0, 54),
           kGood + "-",  // version 00 has nothing more
           kGood + "0",
           "cc-" + kId + "-" + kSpan + "-01x",  // more has to begin with a dash
           "ff" + kGood.substr(2),              // the version that is forbidden
           "0G" + kGood.substr(2),
           "00-" + zeros + "-" + kSpan + "-01",  // ids of zeros
           "00-" + kId + "-" + zeros.substr(0, 16) + "-01",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-" + kSpan + "-01",  // upper case
           "00_" + kId + "-" + kSpan + "-01",
           "00-" + kId + "_" + kSpan + "-01",
           "00-" + kId + "-" + kSpan + "_01",
           "00-" + kId + "-" + kSpan + "-0g",
           "00-" + kId.substr(0, 31) + "-" + kSpan + "0-01",
           " " + kGood,
           std::string(55, '\0'),
           std::string(100'000, '0'),
       }) {
    EXPECT_EQ(ParseTraceparent(wrong), std::nullopt) << wrong.substr(0, 80);
  }
}

TEST(TraceTest, AScopeIsOfItsThreadAndEndsWithItsBlock) {
  EXPECT_FALSE(CurrentTrace().known());
  const Trace outer = *ParseTraceparent(kGood);
  {
    const TraceScope scope(outer);
    EXPECT_EQ(CurrentTrace(), outer);
    {
      const TraceScope none((Trace()));
      EXPECT_FALSE(CurrentTrace().known());
    }
    EXPECT_EQ(CurrentTrace(), outer);
    std::thread([] { EXPECT_FALSE(CurrentTrace().known()); }).join();
  }
  EXPECT_FALSE(CurrentTrace().known());
}

TEST(TraceTest, ATaskRunsInTheTraceThatItWasMadeIn) {
  const Trace trace = *ParseTraceparent(kGood);
  Trace seen;
  const auto look = [&seen] { seen = CurrentTrace(); };
  const std::function<void()> without = InCurrentTrace(look);
  std::function<void()> with;
  {
    const TraceScope scope(trace);
    with = InCurrentTrace(look);
    without();
    EXPECT_FALSE(seen.known()) << "the trace of the thread that happens to run it is not its own";
  }
  std::thread(with).join();
  EXPECT_EQ(seen, trace);
}

}  // namespace
}  // namespace kvist
