// A few threads that run tasks in the order of submission. Threads start when there is work for them.
//
// Threads Submit may be called from any thread, also from a task. Destruction runs what was submitted, then joins.
#ifndef KVIST_SERVICES_WORKER_THREAD_POOL_H_
#define KVIST_SERVICES_WORKER_THREAD_POOL_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"

namespace kvist {

class ThreadPool {
 public:
  explicit ThreadPool(size_t max_threads) : max_threads_(max_threads) {}
  ~ThreadPool();
  void Submit(std::function<void()> task);

 private:
  void RunTasks();

  const size_t max_threads_;
  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  size_t idle_threads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_THREAD_POOL_H_
