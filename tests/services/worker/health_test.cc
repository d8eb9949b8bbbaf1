// Goal: a node that fails is asked less and less, and one that lives is never given up. Method: a breaker on a clock
// that the test turns; every transition of health.h.
#include "services/worker/health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvist {
namespace {

// A clock that stands still until it is turned; nothing else of a Runtime is used.
class TestClock final : public Runtime {
 public:
  absl::Time Now() override { return now; }
  uint64_t Random() override { return uint64_t{1} << 63; }  // jitter of exactly one
  std::unique_ptr<Thread> Start(std::function<void()>) override { return nullptr; }
  std::unique_ptr<Condition> NewCondition() override { return nullptr; }
  void SleepUntil(absl::Time time) override { now = time; }

  absl::Time now = absl::FromUnixSeconds(1000);
};

class HealthTest : public testing::Test {
 protected:
  // One call of this length with this end. True if it was sent.
  bool Call(const absl::Status& status, absl::Duration length = absl::Milliseconds(1)) {
    if (!breaker_.Begin().ok()) return false;
    const absl::Time began = clock_.now;
    clock_.now += length;
    opened_ += breaker_.End(status, began, /*judged=*/true);
    return true;
  }
  bool Down() { return Call(absl::UnavailableError("connection refused")); }
  bool Silent(absl::Duration length) { return Call(absl::DeadlineExceededError("deadline exceeded"), length); }
  bool Answers() { return Call(absl::OkStatus()); }
  absl::Duration Pause() { return breaker_.ProbeDue() - clock_.now; }

  TestClock clock_;
  Breaker breaker_{BreakerOptions(), &clock_};
  int opened_ = 0;
};

TEST_F(HealthTest, FiveFailuresInARowOpenIt) {
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Down());
  EXPECT_TRUE(Answers());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Down());
  EXPECT_EQ(opened_, 1);
  EXPECT_FALSE(Answers());
  EXPECT_EQ(Pause(), absl::Milliseconds(250));
  EXPECT_EQ(std::string(breaker_.Refusal().message()), "connection refused (not asked again for 250ms)");
}

TEST_F(HealthTest, AnswersThatAreFaultsAreAnswers) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(Call(absl::ResourceExhaustedError("full")));
    EXPECT_TRUE(Call(absl::InvalidArgumentError("no")));
    EXPECT_TRUE(Call(absl::DataLossError("bits")));
  }
  EXPECT_EQ(opened_, 0);
}

TEST_F(HealthTest, OneCallWithoutASignOfLifeForASecondOpensItAndAShorterOneDoesNot) {
  EXPECT_TRUE(Silent(absl::Milliseconds(999)));
  EXPECT_TRUE(Answers());
  EXPECT_TRUE(Silent(absl::Seconds(1)));
  EXPECT_EQ(opened_, 1);
}

TEST_F(HealthTest, ALateCallOfANodeThatShowedLifeIsOneFailure) {
  ASSERT_TRUE(breaker_.Begin().ok());
  const absl::Time began = clock_.now;
  clock_.now += absl::Milliseconds(1500);
  breaker_.Alive();
  clock_.now += absl::Milliseconds(500);
  EXPECT_FALSE(breaker_.End(absl::DeadlineExceededError(""), began, true));
  EXPECT_TRUE(breaker_.Refusal().ok());
}

TEST_F(HealthTest, ACallThatHadNoTimeOrWasEndedByItsCallerSaysNothing) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(Silent(absl::Milliseconds(49)));
    ASSERT_TRUE(breaker_.Begin().ok());
    breaker_.End(absl::UnavailableError(""), clock_.now, /*judged=*/false);
  }
  EXPECT_EQ(opened_, 0);
}

TEST_F(HealthTest, NobodyJoinsCallsThatWaitForASilentNode) {
  ASSERT_TRUE(breaker_.Begin().ok());
  const absl::Time began = clock_.now;
  clock_.now += absl::Milliseconds(999);
  EXPECT_TRUE(breaker_.Refusal().ok());
  clock_.now += absl::Milliseconds(1);
  EXPECT_EQ(std::string(breaker_.Begin().message()), "no sign of life for 1s");
  breaker_.Alive();
  EXPECT_TRUE(breaker_.Refusal().ok());
  breaker_.End(absl::OkStatus(), began, true);
  clock_.now += absl::Hours(1);  // nobody waits: silence means nothing
  EXPECT_TRUE(breaker_.Refusal().ok());
}

TEST_F(HealthTest, PausesGrowUntilACallSucceeds) {
  for (int i = 0; i < 5; ++i) Down();
  for (const int ms : {250, 500, 1000, 2000, 4000, 5000, 5000}) {
    EXPECT_EQ(Pause(), absl::Milliseconds(ms));
    clock_.now += Pause();
    breaker_.Probed(absl::UnavailableError("connection refused"));
  }
  breaker_.Probed(absl::UnimplementedError("an answer is an answer"));
  EXPECT_EQ(breaker_.ProbeDue(), absl::InfiniteFuture());
  EXPECT_TRUE(Down());  // half open: once is enough
  EXPECT_EQ(Pause(), absl::Seconds(5));
  breaker_.Probed(absl::OkStatus());
  EXPECT_TRUE(Answers());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Down());
  EXPECT_EQ(Pause(), absl::Milliseconds(250));
}

TEST_F(HealthTest, ItIsDownSinceTheFirstFailureThatNoAnswerFollowed) {
  EXPECT_EQ(breaker_.OpenSince(), absl::InfiniteFuture());
  for (int i = 0; i < 5; ++i) Down();
  const absl::Time since = clock_.now;
  EXPECT_EQ(breaker_.OpenSince(), since);
  clock_.now += absl::Minutes(1);
  breaker_.Probed(absl::UnavailableError("connection refused"));
  EXPECT_EQ(breaker_.OpenSince(), since);
  breaker_.Probed(absl::OkStatus());
  EXPECT_EQ(breaker_.OpenSince(), absl::InfiniteFuture());
  Down();
  EXPECT_EQ(breaker_.OpenSince(), clock_.now);
}

TEST_F(HealthTest, ALateSuccessClosesIt) {
  ASSERT_TRUE(breaker_.Begin().ok());
  const absl::Time began = clock_.now;
  for (int i = 0; i < 5; ++i) Down();
  EXPECT_FALSE(breaker_.Refusal().ok());
  breaker_.End(absl::OkStatus(), began, true);
  EXPECT_TRUE(breaker_.Refusal().ok());
}

}  // namespace
}  // namespace kvist
