// Waiting with a limit: every wait of the worker library has one.
#ifndef KVIST_SERVICES_WORKER_WAIT_H_
#define KVIST_SERVICES_WORKER_WAIT_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "services/worker/thread_pool.h"

namespace kvist {

// For std waiting functions, whose sum with "now" must not overflow; never negative.
inline std::chrono::nanoseconds ForChrono(absl::Duration wait) {
  return absl::ToChronoNanoseconds(std::clamp(wait, absl::ZeroDuration(), absl::Hours(24)));
}

// Guards memory that a caller lends for the length of one call. Tasks that may be late enter before they touch it; once
// the caller has closed the door, nobody gets in and nobody is inside.
class Door {
 public:
  bool Enter() {
    std::lock_guard lock(mutex_);
    if (!closed_) ++inside_;
    return !closed_;
  }
  void Leave() {
    std::lock_guard lock(mutex_);
    if (--inside_ == 0) left_.notify_all();
  }
  // Waits for those inside: they compute on one block and wait for nobody, so this ends by itself.
  void Close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    left_.wait(lock, [this] { return inside_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable left_;
  int inside_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// A bounded number of places, for work that must not be done by more threads at once.
class Slots {
 public:
  explicit Slots(int count) : free_(count) {}
  bool Acquire(absl::Duration wait) {
    std::unique_lock lock(mutex_);
    if (!released_.wait_for(lock, ForChrono(wait), [this] { return free_ > 0; })) return false;
    --free_;
    return true;
  }
  void Release() {
    {
      std::lock_guard lock(mutex_);
      ++free_;
    }
    released_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable released_;
  int free_ ABSL_GUARDED_BY(mutex_);
};

// Runs every task on the pool and returns what each returned within `wait`; empty for those that are late. A late
// result goes to `late`, on the pool's thread, so that what it holds can be given back.
template <typename T>
std::vector<std::optional<T>> Gather(ThreadPool* pool, std::vector<std::function<T()>> tasks, absl::Duration wait,
                                     std::function<void(T)> late = nullptr) {
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::optional<T>> results;
    size_t missing = 0;
    bool closed = false;
  };
  auto shared = std::make_shared<Shared>();
  shared->results.resize(tasks.size());
  shared->missing = tasks.size();
  for (size_t i = 0; i < tasks.size(); ++i) {
    pool->Submit([shared, i, late, task = std::move(tasks[i])] {
      T result = task();
      std::unique_lock lock(shared->mutex);
      if (shared->closed) {
        lock.unlock();
        if (late) late(std::move(result));
        return;
      }
      shared->results[i] = std::move(result);
      if (--shared->missing == 0) shared->changed.notify_all();
    });
  }
  std::unique_lock lock(shared->mutex);
  shared->changed.wait_for(lock, ForChrono(wait), [&] { return shared->missing == 0; });
  shared->closed = true;
  return std::move(shared->results);
}

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_WAIT_H_
