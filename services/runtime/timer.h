// Something that is done again and again, on a thread of the Runtime.
#ifndef KVIST_SERVICES_RUNTIME_TIMER_H_
#define KVIST_SERVICES_RUNTIME_TIMER_H_

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/time/time.h"
#include "services/runtime/runtime.h"

namespace kvist {

// Calls `act` every `period`, first after one, until destruction, which waits for a call that is under way: make it the last
// member of what `act` uses.
class Timer {
 public:
  Timer(Runtime* runtime, absl::Duration period, std::function<void()> act)
      : wake_(runtime->NewCondition()), thread_(runtime->Start([this, runtime, period, act = std::move(act)] {
          std::unique_lock lock(mutex_);
          while (!wake_->WaitUntil(lock, runtime->Now() + period, [this] { return stopped_; })) {
            lock.unlock();
            act();
            lock.lock();
          }
        })) {}
  ~Timer() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    wake_->NotifyAll();
    thread_ = nullptr;
  }

 private:
  std::mutex mutex_;
  bool stopped_ = false;
  const std::unique_ptr<Condition> wake_;
  std::unique_ptr<Thread> thread_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_RUNTIME_TIMER_H_
