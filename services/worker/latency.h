// When a node is late: how long the first byte of a Get usually takes in this cluster. Internal to services/worker.
//
// Threads any.
#ifndef KVIST_SERVICES_WORKER_LATENCY_H_
#define KVIST_SERVICES_WORKER_LATENCY_H_

#include <algorithm>
#include <array>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace kvist {

class Latencies {
 public:
  void Add(absl::Duration latency) {
    std::lock_guard lock(mutex_);
    last_[count_++ % last_.size()] = latency;
  }
  // Three times the 95th percentile of the last 64; at least 20 ms. 100 ms while too few are known.
  absl::Duration LateAfter() {
    std::unique_lock lock(mutex_);
    const size_t known = std::min<size_t>(count_, last_.size());
    if (known < kFewest) return absl::Milliseconds(100);
    std::array<absl::Duration, 64> sorted = last_;
    lock.unlock();
    const auto rank = sorted.begin() + known * 95 / 100;
    std::nth_element(sorted.begin(), rank, sorted.begin() + known);
    return std::max(absl::Milliseconds(20), 3 * *rank);
  }

 private:
  static constexpr size_t kFewest = 8;
  std::mutex mutex_;
  std::array<absl::Duration, 64> last_ ABSL_GUARDED_BY(mutex_);
  size_t count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_LATENCY_H_
