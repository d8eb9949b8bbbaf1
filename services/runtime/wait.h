// Waiting with a limit, over a Runtime: for the results of several tasks, for a free place, for those inside to leave.
#ifndef KVIST_SERVICES_RUNTIME_WAIT_H_
#define KVIST_SERVICES_RUNTIME_WAIT_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>
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

// What a run of one of Gather's tasks came to: its result, or the time at which it is to be run again.
template <typename T>
using OrAgain = std::variant<T, absl::Time>;

// Runs every task by `submit(i, run)` and returns what each came to by the deadline; empty for those that are late, and
// for those that `submit` did not take (it returns false). A task, which returns a T or an OrAgain<T>, is submitted again
// at the time that it named: no thread waits for that but the caller's. A late result goes to `late`, on the thread that
// made it, so that what it holds can be given back.
template <typename T, typename Submit, typename Task>
std::vector<std::optional<T>> Gather(Runtime* runtime, Submit submit, std::vector<Task> tasks, absl::Time deadline,
                                     std::function<void(T)> late = nullptr) {
  struct Shared {
    std::mutex mutex;
    std::unique_ptr<Condition> changed;
    std::vector<Task> tasks;
    std::vector<absl::Time> due;  // InfiniteFuture once it is submitted
    std::vector<std::optional<T>> results;
    size_t missing = 0;
    bool closed = false;
  };
  auto shared = std::make_shared<Shared>();
  shared->changed = runtime->NewCondition();
  shared->due.assign(tasks.size(), absl::InfinitePast());
  shared->results.resize(tasks.size());
  shared->missing = tasks.size();
  shared->tasks = std::move(tasks);
  const auto run = [shared, late](size_t i) {
    OrAgain<T> outcome = shared->tasks[i]();
    std::unique_lock lock(shared->mutex);
    if (const absl::Time* again = std::get_if<absl::Time>(&outcome)) {
      shared->due[i] = *again;
      shared->changed->NotifyAll();
      return;
    }
    if (shared->closed) {
      lock.unlock();
      if (late) late(std::get<T>(std::move(outcome)));
      return;
    }
    shared->results[i] = std::get<T>(std::move(outcome));
    if (--shared->missing == 0) shared->changed->NotifyAll();
  };
  std::unique_lock lock(shared->mutex);
  while (true) {
    const absl::Time now = runtime->Now();
    absl::Time next = deadline;
    for (size_t i = 0; i < shared->due.size(); ++i) {
      if (shared->due[i] > now) {
        next = std::min(next, shared->due[i]);
        continue;
      }
      shared->due[i] = absl::InfiniteFuture();
      lock.unlock();
      const bool taken = submit(i, std::function<void()>([run, i] { run(i); }));
      lock.lock();
      if (!taken) --shared->missing;
    }
    if (shared->missing == 0 || now >= deadline) break;
    shared->changed->WaitUntil(lock, next, [&] {
      return shared->missing == 0 ||
             std::any_of(shared->due.begin(), shared->due.end(), [&](absl::Time due) { return due < next; });
    });
  }
  shared->closed = true;
  return std::move(shared->results);
}

}  // namespace kvist

#endif  // KVIST_SERVICES_RUNTIME_WAIT_H_
