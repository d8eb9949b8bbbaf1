// A Runtime whose threads are fibers on one thread of the system, with a virtual clock and chance from a seed: the same
// seed gives the same run, switch by switch.
//
// Time    stands still while anybody can run, then jumps to the next timer.
// Order   who runs next is drawn by the seed, among all that can. A fiber gives way when it waits; with `preempt` also
//         before it takes a mutex, so that critical sections of threads mix as they do on real ones.
// Mutexes of code linked into the program are the scheduler's (pthread_mutex_lock is wrapped, see BUILD): a fiber that
//         finds one taken waits for it, and a fiber that waits for anything else while it holds one is a fault.
// Faults  of the code under test that leave nobody to run end the process with status 1, after a report that names the
//         seed, every fiber and where it waits: deadlock; a wait under a mutex; a fiber that runs for longer than
//         `watchdog` of real time; time that does not pass (`max_switches` without a tick); more virtual time than
//         `max_time`; fibers that outlive the first.
// Threads none: one scheduler belongs to one thread of the system. Several may run beside each other.
#ifndef KVIST_TESTS_SIMULATION_SIM_RUNTIME_H_
#define KVIST_TESTS_SIMULATION_SIM_RUNTIME_H_

#include <pthread.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "services/runtime/runtime.h"

namespace kvist::simulation {

struct SchedulerOptions {
  uint64_t seed = 1;
  double preempt = 0;   // chance to give way before a mutex is taken
  double spurious = 0;  // chance that a wait on a Condition ends for no reason, soon
  absl::Duration max_time = absl::Hours(24);
  uint64_t max_switches = 2'000'000;            // while the clock stands still
  absl::Duration watchdog = absl::Seconds(60);  // of real time; zero = none
  size_t stack_bytes = 256 << 10;
  std::string replay;  // printed with a fault: the command that gives this run again
  bool abort = false;  // at a fault, in place of status 1: a fuzzer keeps the input then
};

struct Fiber;
class Scheduler;
class SimCondition;

// One simulated machine: a Runtime whose clock may differ from the others', and whose fibers may be stopped.
class SimHost final : public Runtime {
 public:
  const std::string& name() const { return name_; }
  Scheduler* scheduler() const { return scheduler_; }

  absl::Time Now() override;
  uint64_t Random() override;
  std::unique_ptr<Thread> Start(std::function<void()> body) override;
  std::unique_ptr<Condition> NewCondition() override;
  void SleepUntil(absl::Time time) override;

  // As Start, but nobody joins it: it must end before the first fiber does.
  void Spawn(std::string_view what, std::function<void()> body);

  // As SIGSTOP and SIGCONT of everything that runs here. REQUIRES: Freeze is not called by a fiber of this host.
  void Freeze() { frozen_ = true; }
  void Thaw();
  bool frozen() const { return frozen_; }

  // When the scheduler's clock shows what this host's will show as `local`.
  absl::Time TrueTime(absl::Time local) const;

 private:
  friend class Scheduler;
  friend class SimCondition;
  SimHost(Scheduler* scheduler, std::string name, absl::Duration offset, double drift)
      : scheduler_(scheduler), name_(std::move(name)), offset_(offset), drift_(drift) {}
  Scheduler* const scheduler_;
  const std::string name_;
  const absl::Duration offset_;
  const double drift_;  // of its clock: 1e-4 gains a second in 10,000
  bool frozen_ = false;
  std::vector<Fiber*> parked_;  // could run, but the host is stopped
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);
  ~Scheduler();

  // Runs `first` as a fiber of a host with the true time, until it returns.
  void Run(std::function<void()> first);

  // A host whose clock is off by `offset` and gains `drift` of every second. Lives as long as the scheduler.
  SimHost* AddHost(std::string name, absl::Duration offset = absl::ZeroDuration(), double drift = 0);
  SimHost* world() { return world_; }  // of the first fiber

  absl::Time now() const { return now_; }
  uint64_t Random();
  uint64_t Below(uint64_t bound) { return bound == 0 ? 0 : Random() % bound; }
  bool Chance(double p) { return static_cast<double>(Random() >> 11) * 0x1p-53 < p; }
  double Uniform() { return static_cast<double>(Random() >> 11) * 0x1p-53; }

  // Makes an event part of the run's identity.
  void Note(uint64_t event);
  void Note(std::string_view event);
  uint64_t trace_hash() const { return trace_hash_; }
  uint64_t switches() const { return switches_; }

  // Ends the process as the header says.
  [[noreturn]] void Fail(std::string_view what);

  // Of the fiber that runs now. `why` says for what, and must outlive the wait.
  void Sleep(absl::Duration duration);
  void Yield();

  // For the wrapped pthread functions (mutex_wrap.cc). Null outside of fibers.
  static Scheduler* OfThisFiber();
  void LockMutex(pthread_mutex_t* mutex);
  void CountTryLock();
  void UnlockMutex(pthread_mutex_t* mutex);

 private:
  friend class SimHost;
  friend class SimCondition;
  friend class SimThread;
  friend class Signal;
  struct Watchdog;

  Fiber* NewFiber(SimHost* host, std::string_view what, std::function<void()> body);
  static void Enter();  // of every fiber
  void SwitchTo(Fiber* next);
  void ReclaimEnded();
  Fiber* PickNext();
  void JumpToNextTimer();
  void MakeReady(Fiber* fiber);
  // Gives way until somebody calls MakeReady for this fiber, or `until` has come.
  void Block(const char* why, absl::Time until);
  void CheckHoldsNoMutex(const char* why);
  void Join(Fiber* fiber);
  void Release(Fiber* fiber);
  void Report(std::string_view what);

  const SchedulerOptions options_;
  uint64_t random_[4];
  absl::Time now_;
  const absl::Time begin_;
  uint64_t trace_hash_ = 0, switches_ = 0, switches_at_tick_ = 0, timer_sequence_ = 0, next_fiber_ = 0;
  std::vector<std::unique_ptr<SimHost>> hosts_;
  SimHost* world_;
  Fiber* running_ = nullptr;
  Fiber* ended_ = nullptr;   // its stack may be reused once another runs
  Fiber* thread_ = nullptr;  // what called Run
  std::vector<Fiber*> ready_;
  std::map<std::pair<absl::Time, uint64_t>, Fiber*> timers_;
  std::unordered_map<pthread_mutex_t*, std::vector<Fiber*>> mutex_waiters_;  // only looked up
  std::map<uint64_t, std::unique_ptr<Fiber>> fibers_;
  std::vector<std::unique_ptr<Fiber>> pool_;  // with their stacks
  std::unique_ptr<Watchdog> watchdog_;
};

// What the simulation's own parts wait on: without a mutex, since nothing runs between a look and the wait.
class Signal {
 public:
  explicit Signal(Scheduler* scheduler) : scheduler_(scheduler) {}
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  // Until NotifyAll or `until` by the scheduler's clock. May end for no reason.
  void Wait(const char* why, absl::Time until);
  void NotifyAll();

 private:
  Scheduler* const scheduler_;
  std::vector<Fiber*> waiters_;
};

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_SIM_RUNTIME_H_
