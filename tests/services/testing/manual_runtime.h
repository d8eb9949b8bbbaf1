// A Runtime whose clock the test moves. Threads are real; whoever waits looks at the clock every millisecond.
#ifndef KVIST_TESTS_SERVICES_TESTING_MANUAL_RUNTIME_H_
#define KVIST_TESTS_SERVICES_TESTING_MANUAL_RUNTIME_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <random>
#include <thread>
#include <utility>

#include "services/runtime/runtime.h"

namespace kvist::testing {

class ManualRuntime final : public Runtime {
 public:
  explicit ManualRuntime(absl::Time start = absl::FromUnixSeconds(1'700'000'000))
      : now_us_(absl::ToUnixMicros(start)) {}

  void Advance(absl::Duration by) { now_us_ += absl::ToInt64Microseconds(by); }

  absl::Time Now() override { return absl::FromUnixMicros(now_us_); }
  uint64_t Random() override {
    std::lock_guard lock(mutex_);
    return random_();
  }
  std::unique_ptr<Thread> Start(std::function<void()> body) override { return RealRuntime()->Start(std::move(body)); }
  std::unique_ptr<Condition> NewCondition() override { return std::make_unique<Polling>(this); }
  void SleepUntil(absl::Time time) override {
    while (Now() < time) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  class Polling final : public Condition {
   public:
    explicit Polling(ManualRuntime* runtime) : runtime_(runtime) {}
    bool WaitUntil(std::unique_lock<std::mutex>& lock, absl::Time deadline) override {
      if (runtime_->Now() < deadline) changed_.wait_for(lock, std::chrono::milliseconds(1));
      return runtime_->Now() < deadline;
    }
    void NotifyOne() override { changed_.notify_one(); }
    void NotifyAll() override { changed_.notify_all(); }

   private:
    ManualRuntime* const runtime_;
    std::condition_variable changed_;
  };

  std::atomic<int64_t> now_us_;
  std::mutex mutex_;
  std::mt19937_64 random_{1};
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TESTING_MANUAL_RUNTIME_H_
