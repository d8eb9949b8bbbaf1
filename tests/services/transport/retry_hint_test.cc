// Goal: a hint comes back as it was given, and no peer's hint can keep us away for long.
#include "services/transport/retry_hint.h"

#include <gtest/gtest.h>

namespace kvist {
namespace {

absl::Status Busy() { return absl::ResourceExhaustedError("busy"); }

TEST(RetryHint, ComesBackAsItWasGiven) {
  EXPECT_EQ(RetryHint(Busy()), std::nullopt);
  EXPECT_EQ(RetryHint(WithRetryHint(Busy(), absl::Milliseconds(70))), absl::Milliseconds(70));
  EXPECT_EQ(RetryHint(WithRetryHint(Busy(), absl::ZeroDuration())), absl::ZeroDuration());
  EXPECT_EQ(RetryHint(WithRetryHint(Busy(), -absl::Seconds(1))), std::nullopt);
}

TEST(RetryHint, IsCutAtTenSeconds) {
  EXPECT_EQ(RetryHint(WithRetryHint(Busy(), absl::Hours(24 * 365))), absl::Seconds(10));
  EXPECT_EQ(RetryHint(WithRetryHint(Busy(), absl::InfiniteDuration())), absl::Seconds(10));
}

}  // namespace
}  // namespace kvist
