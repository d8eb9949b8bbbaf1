// Small things to tell nodes, off every caller's path: at most so many wait, and what is too much is left out, since
// nothing depends on it. Internal to services/worker.
//
// Threads any. Destruction runs what waits: tasks have deadlines of their own, of a second.
#ifndef KVIST_SERVICES_WORKER_ERRANDS_H_
#define KVIST_SERVICES_WORKER_ERRANDS_H_

#include <atomic>
#include <functional>
#include <utility>

#include "absl/time/time.h"
#include "services/runtime/thread_pool.h"
#include "services/runtime/trace.h"

namespace kvist {

inline constexpr absl::Duration kErrandDeadline = absl::Seconds(1);

class Errands {
 public:
  explicit Errands(Runtime* runtime) : threads_(runtime, 2) {}

  // False if too many wait already.
  bool Submit(std::function<void()> task) {
    if (waiting_.fetch_add(1) >= kMaxWaiting) {
      --waiting_;
      return false;
    }
    threads_.Submit([this, task = InCurrentTrace(std::move(task))] {
      --waiting_;
      task();
    });
    return true;
  }

 private:
  static constexpr int kMaxWaiting = 64;
  std::atomic<int> waiting_ = 0;
  ThreadPool threads_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_ERRANDS_H_
