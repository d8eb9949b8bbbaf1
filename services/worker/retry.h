// When a refused call may be tried again: only while the client's calls mostly succeed, and never in step with others.
//
// Threads any.
// Why a budget: without one, an overloaded cluster gets every call several times and stays overloaded.
#ifndef KVIST_SERVICES_WORKER_RETRY_H_
#define KVIST_SERVICES_WORKER_RETRY_H_

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct RetryOptions {
  double budget = 32;   // retries that may be taken in a row
  double earned = 0.2;  // of a retry, given back by each success; the budget is the most there ever is
  absl::Duration first_pause = absl::Milliseconds(5);
  absl::Duration longest_pause = absl::Milliseconds(250);
};

// A random half to one and a half of `duration`: callers that failed together do not come back together.
inline absl::Duration Jittered(absl::Duration duration, Runtime* runtime) {
  return duration * (0.5 + static_cast<double>(runtime->Random() >> 11) * 0x1p-53);
}

// So many acts in a row, and a part of one more for each success: extra load stays a share of the load.
class Budget {
 public:
  Budget(double most, double earned) : most_(most), earned_(earned), left_(most) {}

  // False if there is none left.
  bool Take() {
    std::lock_guard lock(mutex_);
    if (left_ < 1) return false;
    left_ -= 1;
    return true;
  }
  void Earn() {
    std::lock_guard lock(mutex_);
    left_ = std::min(most_, left_ + earned_);
  }

 private:
  const double most_, earned_;
  std::mutex mutex_;
  double left_ ABSL_GUARDED_BY(mutex_);
};

class Retries {
 public:
  Retries(const RetryOptions& options, Runtime* runtime)
      : options_(options), runtime_(runtime), budget_(options.budget, options.earned) {}

  bool Take() { return budget_.Take(); }
  Budget& budget() { return budget_; }
  void Succeeded() { budget_.Earn(); }
  // Before retry `attempt` (from 0): doubles each time up to the longest, jittered. A node's hint comes before, and
  // callers that got the same one are spread over half of it.
  absl::Duration Pause(int attempt, std::optional<absl::Duration> hint = std::nullopt) {
    const absl::Duration pause = std::min(options_.longest_pause, options_.first_pause * (1 << std::min(attempt, 16)));
    if (!hint) return Jittered(pause, runtime_);
    return *hint + Jittered(std::max(options_.first_pause, *hint / 3), runtime_);
  }

 private:
  const RetryOptions options_;
  Runtime* const runtime_;
  Budget budget_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_RETRY_H_
