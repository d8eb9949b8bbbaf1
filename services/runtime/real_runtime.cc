#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <random>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "services/runtime/runtime.h"

namespace kvist {
namespace {

// Waits are cut at a day, so that "now" plus the wait cannot overflow; callers wait in loops.
std::chrono::nanoseconds Remaining(absl::Time deadline) {
  return absl::ToChronoNanoseconds(std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(24)));
}

class RealCondition final : public Condition {
 public:
  bool WaitUntil(std::unique_lock<std::mutex>& lock, absl::Time deadline) override {
    changed_.wait_for(lock, Remaining(deadline));
    return absl::Now() < deadline;
  }
  void NotifyOne() override { changed_.notify_one(); }
  void NotifyAll() override { changed_.notify_all(); }

 private:
  std::condition_variable changed_;
};

class RealThread final : public Thread {
 public:
  explicit RealThread(std::function<void()> body) : thread_(std::move(body)) {}
  ~RealThread() override { thread_.join(); }

 private:
  std::thread thread_;
};

class RealRuntimeImpl final : public Runtime {
 public:
  absl::Time Now() override { return absl::Now(); }
  uint64_t Random() override {
    std::lock_guard lock(mutex_);
    return random_();
  }
  std::unique_ptr<Thread> Start(std::function<void()> body) override {
    return std::make_unique<RealThread>(std::move(body));
  }
  std::unique_ptr<Condition> NewCondition() override { return std::make_unique<RealCondition>(); }
  void SleepUntil(absl::Time time) override {
    while (absl::Now() < time) std::this_thread::sleep_for(Remaining(time));
  }

 private:
  std::mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_){std::random_device()()};
};

}  // namespace

Runtime* RealRuntime() {
  static RealRuntimeImpl* const runtime = new RealRuntimeImpl;  // never destroyed: threads may outlive main
  return runtime;
}

}  // namespace kvist
