// A Runtime whose time stands still unless the test turns it. It has no threads and never waits.
#ifndef KVIST_TESTS_SERVICES_CLUSTER_TEST_CLOCK_H_
#define KVIST_TESTS_SERVICES_CLUSTER_TEST_CLOCK_H_

#include <functional>
#include <memory>

#include "services/runtime/runtime.h"

namespace kvist::testing {

class TestClock final : public Runtime {
 public:
  absl::Time Now() override { return now; }
  uint64_t Random() override { return uint64_t{1} << 63; }  // chance is always a half
  std::unique_ptr<Thread> Start(std::function<void()>) override { return nullptr; }
  std::unique_ptr<Condition> NewCondition() override { return nullptr; }
  void SleepUntil(absl::Time time) override { now = time; }

  absl::Time now = absl::FromUnixSeconds(1000);
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_CLUSTER_TEST_CLOCK_H_
