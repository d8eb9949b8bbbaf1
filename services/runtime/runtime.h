// Time, chance, threads and waiting, passed in and never global: kvistd and workers run on RealRuntime; the simulation
// runs the very same code on a virtual clock, with a seeded order of threads (tests/simulation/).
//
// Rule    code above a Runtime starts threads, waits and reads time by it alone. It never waits while it holds a mutex
//         other than the one it hands to Condition: in the simulation all threads share one.
// Units   absl::Time of Now(); durations are absl::Duration.
// Threads every method may be called from any thread.
#ifndef KVIST_SERVICES_RUNTIME_RUNTIME_H_
#define KVIST_SERVICES_RUNTIME_RUNTIME_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "absl/time/time.h"

namespace kvist {

using Clock = std::function<absl::Time()>;  // any thread

// As std::condition_variable, used with one mutex.
class Condition {
 public:
  virtual ~Condition() = default;
  // Releases `lock`, waits for a notification or the deadline, takes `lock` again. May wake for no reason.
  // False if the deadline has passed.
  virtual bool WaitUntil(std::unique_lock<std::mutex>& lock, absl::Time deadline) = 0;
  virtual void NotifyOne() = 0;
  virtual void NotifyAll() = 0;

  // Waits until `holds()`, which is called under the lock. What it says at the end.
  template <typename Predicate>
  bool WaitUntil(std::unique_lock<std::mutex>& lock, absl::Time deadline, Predicate holds) {
    while (!holds()) {
      if (!WaitUntil(lock, deadline)) return holds();
    }
    return true;
  }
};

// A running thread; destruction joins it.
class Thread {
 public:
  virtual ~Thread() = default;
};

class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual absl::Time Now() = 0;
  // Uniform over all 64-bit numbers.
  virtual uint64_t Random() = 0;
  virtual std::unique_ptr<Thread> Start(std::function<void()> body) = 0;
  virtual std::unique_ptr<Condition> NewCondition() = 0;
  virtual void SleepUntil(absl::Time time) = 0;

  Clock clock() {
    return [this] { return Now(); };
  }
};

// The machine's clock and threads, and chance from the system. Lives as long as the process.
Runtime* RealRuntime();

}  // namespace kvist

#endif  // KVIST_SERVICES_RUNTIME_RUNTIME_H_
