// Goal: a node's hint is read as it was given, and none keeps its reader away for long. Method: statuses with hints that
// are usual, far too long, and none.
#include "services/transport/retry_hint.h"

#include <gtest/gtest.h>

namespace kvist {
namespace {

absl::Status Full() { return absl::ResourceExhaustedError("full"); }
absl::Status WithPayload(const char* text) {
  absl::Status status = Full();
  status.SetPayload(kRetryHintPayload, absl::Cord(text));
  return status;
}

TEST(RetryHint, IsReadAsItWasGiven) {
  EXPECT_EQ(RetryHint(WithRetryHint(Full(), absl::Milliseconds(250))), absl::Milliseconds(250));
  EXPECT_EQ(RetryHint(WithRetryHint(Full(), absl::ZeroDuration())), absl::ZeroDuration());
}

TEST(RetryHint, IsTenSecondsAtMost) {
  EXPECT_EQ(RetryHint(WithRetryHint(Full(), absl::Seconds(10))), absl::Seconds(10));
  EXPECT_EQ(RetryHint(WithRetryHint(Full(), absl::Hours(1))), absl::Seconds(10));
  EXPECT_EQ(RetryHint(WithPayload("9223372036854775807")), absl::Seconds(10));
}

TEST(RetryHint, WhatIsNoTimeIsNoHint) {
  EXPECT_FALSE(RetryHint(Full()).has_value());
  for (const char* text : {"", "-1", "soon", "9223372036854775808"}) {
    EXPECT_FALSE(RetryHint(WithPayload(text)).has_value()) << text;
  }
}

}  // namespace
}  // namespace kvist
