// A few threads that run tasks in the order of submission. Threads start when there is work for them.
//
// Threads Submit may be called from any thread, also from a task. Destruction runs what was submitted, then joins.
#ifndef KVIST_SERVICES_RUNTIME_THREAD_POOL_H_
#define KVIST_SERVICES_RUNTIME_THREAD_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "services/runtime/runtime.h"

namespace kvist {

class ThreadPool {
 public:
  // `runtime` outlives the pool.
  ThreadPool(Runtime* runtime, size_t max_threads)
      : runtime_(runtime), work_(runtime->NewCondition()), max_threads_(max_threads) {}
  ~ThreadPool();
  void Submit(std::function<void()> task);

  // Threads that run already go on.
  void SetMaxThreads(size_t max_threads);

  Runtime* runtime() const { return runtime_; }

 private:
  void RunTasks();

  Runtime* const runtime_;
  const std::unique_ptr<Condition> work_;
  std::mutex mutex_;
  size_t max_threads_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Thread>> threads_ ABSL_GUARDED_BY(mutex_);
  size_t idle_threads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_RUNTIME_THREAD_POOL_H_
