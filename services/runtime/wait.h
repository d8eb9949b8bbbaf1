// Waiting with a limit, over a Runtime: for the results of several tasks, for a free place, for those inside to leave.
#ifndef KVIST_SERVICES_RUNTIME_WAIT_H_
#define KVIST_SERVICES_RUNTIME_WAIT_H_

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"

namespace kvist {

// Guards memory that a caller lends for the length of one call. Tasks that may be late enter before they touch it; once
// the caller has closed the door, nobody gets in and nobody is inside.
class Door {
 public:
  explicit Door(Runtime* runtime) : left_(runtime->NewCondition()) {}
  bool Enter() {
    std::lock_guard lock(mutex_);
    if (!closed_) ++inside_;
    return !closed_;
  }
  void Leave() {
    std::lock_guard lock(mutex_);
    if (--inside_ == 0) left_->NotifyAll();
  }
  // Waits for those inside: they compute on one block and wait for nobody, so this ends by itself.
  void Close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    left_->WaitUntil(lock, absl::InfiniteFuture(), [this] { return inside_ == 0; });
  }

 private:
  std::mutex mutex_;
  const std::unique_ptr<Condition> left_;
  int inside_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// A bounded number of places, for work that must not be done by more threads at once.
class Slots {
 public:
  Slots(Runtime* runtime, int count) : released_(runtime->NewCondition()), free_(count) {}
  bool Acquire(absl::Time deadline) {
    std::unique_lock lock(mutex_);
    if (!released_->WaitUntil(lock, deadline, [this] { return free_ > 0; })) return false;
    --free_;
    return true;
  }
  // A place that is given back with the pointer; null if none came free in time.
  struct Releaser {
    void operator()(Slots* slots) const { slots->Release(); }
  };
  using Held = std::unique_ptr<Slots, Releaser>;
  Held Hold(absl::Time deadline) { return Held(Acquire(deadline) ? this : nullptr); }

  void Release() {
    {
      std::lock_guard lock(mutex_);
      ++free_;
    }
    released_->NotifyOne();
  }

 private:
  std::mutex mutex_;
  const std::unique_ptr<Condition> released_;
  int free_ ABSL_GUARDED_BY(mutex_);
};

// Runs every task by `submit(i, task)` and returns what each returned by the deadline; empty for those that are late. A
// late result goes to `late`, on the thread that made it, so that what it holds can be given back.
template <typename T, typename Submit>
std::vector<std::optional<T>> Gather(Runtime* runtime, Submit submit, std::vector<std::function<T()>> tasks,
                                     absl::Time deadline, std::function<void(T)> late = nullptr) {
  struct Shared {
    std::mutex mutex;
    std::unique_ptr<Condition> changed;
    std::vector<std::optional<T>> results;
    size_t missing = 0;
    bool closed = false;
  };
  auto shared = std::make_shared<Shared>();
  shared->changed = runtime->NewCondition();
  shared->results.resize(tasks.size());
  shared->missing = tasks.size();
  for (size_t i = 0; i < tasks.size(); ++i) {
    submit(i, std::function<void()>([shared, i, late, task = std::move(tasks[i])] {
             T result = task();
             std::unique_lock lock(shared->mutex);
             if (shared->closed) {
               lock.unlock();
               if (late) late(std::move(result));
               return;
             }
             shared->results[i] = std::move(result);
             if (--shared->missing == 0) shared->changed->NotifyAll();
           }));
  }
  std::unique_lock lock(shared->mutex);
  shared->changed->WaitUntil(lock, deadline, [&] { return shared->missing == 0; });
  shared->closed = true;
  return std::move(shared->results);
}

}  // namespace kvist

#endif  // KVIST_SERVICES_RUNTIME_WAIT_H_
