#include "tests/simulation/sim_runtime.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/simulation/fiber.h"

extern "C" {
int __real_pthread_mutex_lock(pthread_mutex_t* mutex);
int __real_pthread_mutex_trylock(pthread_mutex_t* mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t* mutex);
}

namespace kvist::simulation {
namespace {

thread_local Scheduler* this_threads_scheduler = nullptr;

// By the value alone, so that a run is the same on every machine.
uint64_t Mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t RotateLeft(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

constexpr int64_t kBegin = 1'700'000'000;  // Unix seconds

}  // namespace

// A thread of the system that sees whether switches still happen.
struct Scheduler::Watchdog {
  Watchdog(Scheduler* scheduler, absl::Duration limit)
      : scheduler(scheduler), watched(pthread_self()), thread([this, limit] { Watch(limit); }) {
    watchdog = this;
    struct sigaction action = {};
    action.sa_handler = [](int) { Bite(); };
    sigaction(SIGUSR2, &action, nullptr);
  }
  ~Watchdog() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    stop.notify_all();
    thread.join();
  }

  void Watch(absl::Duration limit) {
    uint64_t seen = switches;
    auto since = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex);
    while (!stop.wait_for(lock, std::chrono::milliseconds(100), [this] { return stopping; })) {
      const auto now = std::chrono::steady_clock::now();
      if (switches != seen) {
        seen = switches;
        since = now;
      } else if (now - since > absl::ToChronoNanoseconds(limit)) {
        pthread_kill(watched, SIGUSR2);
        return;
      }
    }
  }
  // On the thread that is stuck.
  static void Bite() {
    void* frames[64];
    const int count = backtrace(frames, 64);
    std::fprintf(stderr, "simulation: a fiber gives way to nobody. It is here:\n");
    std::fflush(stderr);
    backtrace_symbols_fd(frames, count, 2);
    this_threads_scheduler->Fail("a fiber runs for too long");
  }

  static thread_local Watchdog* watchdog;
  Scheduler* const scheduler;
  const pthread_t watched;
  std::atomic<uint64_t> switches = 0;
  std::mutex mutex;
  std::condition_variable stop;
  bool stopping = false;
  std::thread thread;
};
thread_local Scheduler::Watchdog* Scheduler::Watchdog::watchdog = nullptr;

class SimCondition final : public Condition {
 public:
  explicit SimCondition(SimHost* host) : host_(host), scheduler_(host->scheduler()) {}
  ~SimCondition() override {
    if (!waiters_.empty()) scheduler_->Fail("a Condition was destroyed while somebody waits on it");
  }

  bool WaitUntil(std::unique_lock<std::mutex>& lock, absl::Time deadline) override {
    if (host_->Now() >= deadline) return false;
    Fiber* const self = scheduler_->running_;
    lock.unlock();
    scheduler_->CheckHoldsNoMutex("a Condition");
    absl::Time until = host_->TrueTime(deadline);
    if (scheduler_->options_.spurious > 0 && scheduler_->Chance(scheduler_->options_.spurious)) {
      until = std::min(until, scheduler_->now() + absl::Microseconds(scheduler_->Below(1000)));
    }
    waiters_.push_back(self);
    scheduler_->Block("a Condition", until);
    std::erase(waiters_, self);  // unless a notification took it out
    lock.lock();
    return host_->Now() < deadline;
  }
  void NotifyOne() override {
    if (waiters_.empty()) return;
    const size_t chosen = scheduler_->Below(waiters_.size());
    Fiber* const fiber = waiters_[chosen];
    waiters_.erase(waiters_.begin() + static_cast<ptrdiff_t>(chosen));
    scheduler_->MakeReady(fiber);
  }
  void NotifyAll() override {
    std::vector<Fiber*> waiters;
    waiters.swap(waiters_);
    for (Fiber* fiber : waiters) scheduler_->MakeReady(fiber);
  }

 private:
  SimHost* const host_;
  Scheduler* const scheduler_;
  std::vector<Fiber*> waiters_;
};

class SimThread final : public Thread {
 public:
  SimThread(Scheduler* scheduler, Fiber* fiber) : scheduler_(scheduler), fiber_(fiber) {}
  ~SimThread() override { scheduler_->Join(fiber_); }

 private:
  Scheduler* const scheduler_;
  Fiber* const fiber_;
};

absl::Time SimHost::Now() {
  const absl::Duration since = scheduler_->now_ - scheduler_->begin_;
  return scheduler_->now_ + offset_ + since * drift_;
}

absl::Time SimHost::TrueTime(absl::Time local) const {
  if (local == absl::InfiniteFuture() || local == absl::InfinitePast()) return local;
  const absl::Duration since = (local - offset_ - scheduler_->begin_) / (1 + drift_);
  // Rounded up: a wait must not end before its deadline by the host's own clock.
  return scheduler_->begin_ + since + absl::Nanoseconds(2);
}

uint64_t SimHost::Random() { return scheduler_->Random(); }

std::unique_ptr<Thread> SimHost::Start(std::function<void()> body) {
  return std::make_unique<SimThread>(scheduler_, scheduler_->NewFiber(this, "thread", std::move(body)));
}

void SimHost::Spawn(std::string_view what, std::function<void()> body) {
  scheduler_->NewFiber(this, what, std::move(body))->detached = true;
}

std::unique_ptr<Condition> SimHost::NewCondition() { return std::make_unique<SimCondition>(this); }

void SimHost::SleepUntil(absl::Time time) {
  scheduler_->CheckHoldsNoMutex("a sleep");
  while (Now() < time) scheduler_->Block("a sleep", TrueTime(time));
}

void SimHost::Thaw() {
  frozen_ = false;
  std::vector<Fiber*> parked;
  parked.swap(parked_);
  for (Fiber* fiber : parked) scheduler_->ready_.push_back(fiber);
}

Scheduler::Scheduler(SchedulerOptions options)
    : options_(std::move(options)), now_(absl::FromUnixSeconds(kBegin)), begin_(now_) {
  uint64_t x = options_.seed * 0x9e3779b97f4a7c15u + 1;
  for (uint64_t& word : random_) word = Mix(x += 0x9e3779b97f4a7c15u);
  world_ = AddHost("world");
}

Scheduler::~Scheduler() = default;

SimHost* Scheduler::AddHost(std::string name, absl::Duration offset, double drift) {
  hosts_.emplace_back(new SimHost(this, std::move(name), offset, drift));
  return hosts_.back().get();
}

// xoshiro256**
uint64_t Scheduler::Random() {
  const uint64_t result = RotateLeft(random_[1] * 5, 7) * 9;
  const uint64_t t = random_[1] << 17;
  random_[2] ^= random_[0];
  random_[3] ^= random_[1];
  random_[1] ^= random_[2];
  random_[0] ^= random_[3];
  random_[2] ^= t;
  random_[3] = RotateLeft(random_[3], 45);
  return result;
}

void Scheduler::Note(uint64_t event) { trace_hash_ = Mix(trace_hash_ * 0x9e3779b97f4a7c15u + event); }

void Scheduler::Note(std::string_view event) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const unsigned char c : event) hash = (hash ^ c) * 0x100000001b3u;
  Note(hash);
}

void Scheduler::Run(std::function<void()> first) {
  Fiber thread;
  thread.what = "the thread of the system";
  thread_ = running_ = &thread;
  Scheduler* const outer = std::exchange(this_threads_scheduler, this);
  if (options_.watchdog > absl::ZeroDuration()) watchdog_ = std::make_unique<Watchdog>(this, options_.watchdog);
  bool done = false;
  Fiber* const fiber = NewFiber(world_, "first", [&] {
    first();
    done = true;
    if (fibers_.size() > 1) Fail("the first fiber has ended, and others have not");
  });
  fiber->detached = true;
  std::erase(ready_, fiber);
  SwitchTo(fiber);
  ReclaimEnded();
  running_ = nullptr;
  watchdog_ = nullptr;
  this_threads_scheduler = outer;
  if (!done) std::abort();
}

Fiber* Scheduler::NewFiber(SimHost* host, std::string_view what, std::function<void()> body) {
  std::unique_ptr<Fiber> fiber;
  if (pool_.empty()) {
    fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique<GuardedStack>(options_.stack_bytes);
  } else {
    fiber = std::move(pool_.back());
    pool_.pop_back();
    auto stack = std::move(fiber->stack);
    *fiber = Fiber();
    fiber->stack = std::move(stack);
  }
  fiber->id = ++next_fiber_;
  fiber->host = host;
  fiber->what = what;
  fiber->body = std::move(body);
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack->bottom();
  fiber->context.uc_stack.ss_size = fiber->stack->size_bytes();
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, &Scheduler::Enter, 0);
  Fiber* const made = fiber.get();
  fibers_.emplace(made->id, std::move(fiber));
  ready_.push_back(made);
  return made;
}

void Scheduler::Enter() {
  Scheduler* const scheduler = this_threads_scheduler;
  Fiber* const self = scheduler->running_;
  Fiber::Arrive(self, scheduler->thread_);
  scheduler->ReclaimEnded();
  self->body();
  self->body = nullptr;  // what it holds goes before whoever joins goes on
  self->state = Fiber::State::kEnded;
  if (self->joiner != nullptr) scheduler->MakeReady(self->joiner);
  const bool last = scheduler->fibers_.size() == 1;
  if (self->detached) scheduler->ended_ = self;  // any other is released by whoever joins it, which may be later
  Fiber* const next = last ? scheduler->thread_ : scheduler->PickNext();
  scheduler->running_ = next;
  next->state = Fiber::State::kRunning;
  self->SwitchTo(next, /*ends=*/true);
  std::abort();
}

void Scheduler::SwitchTo(Fiber* next) {
  Fiber* const self = running_;
  next->state = Fiber::State::kRunning;
  if (next == self) return;
  running_ = next;
  self->SwitchTo(next, /*ends=*/false);
  ReclaimEnded();
}

void Scheduler::ReclaimEnded() {
  if (ended_ == nullptr) return;
  Release(std::exchange(ended_, nullptr));
}

void Scheduler::Release(Fiber* fiber) {
  const auto found = fibers_.find(fiber->id);
  pool_.push_back(std::move(found->second));
  fibers_.erase(found);
}

Fiber* Scheduler::PickNext() {
  while (true) {
    while (ready_.empty()) JumpToNextTimer();
    const size_t chosen = Below(ready_.size());
    Fiber* const fiber = ready_[chosen];
    ready_[chosen] = ready_.back();
    ready_.pop_back();
    if (fiber->host->frozen_) {
      fiber->host->parked_.push_back(fiber);
      continue;
    }
    ++switches_;
    if (watchdog_ != nullptr) watchdog_->switches.store(switches_, std::memory_order_relaxed);
    if (switches_ - switches_at_tick_ > options_.max_switches) Fail("time does not pass");
    Note(fiber->id ^ static_cast<uint64_t>(absl::ToUnixNanos(now_)) << 16);
    return fiber;
  }
}

void Scheduler::JumpToNextTimer() {
  if (timers_.empty()) Fail("deadlock: nobody can run, and nobody waits for a time");
  const auto [at, sequence] = timers_.begin()->first;
  if (at == absl::InfiniteFuture()) Fail("deadlock: nobody can run, and nobody waits for a time");
  if (at > now_) {
    now_ = at;
    switches_at_tick_ = switches_;
    if (now_ - begin_ > options_.max_time) Fail("the run takes too much virtual time");
  }
  while (!timers_.empty() && timers_.begin()->first.first <= now_) MakeReady(timers_.begin()->second);
}

void Scheduler::MakeReady(Fiber* fiber) {
  if (fiber->state != Fiber::State::kWaiting) return;
  if (fiber->has_timer) timers_.erase({fiber->timer_at, fiber->timer_sequence});
  fiber->has_timer = false;
  fiber->state = Fiber::State::kReady;
  ready_.push_back(fiber);
}

void Scheduler::Block(const char* why, absl::Time until) {
  Fiber* const self = running_;
  self->state = Fiber::State::kWaiting;
  self->why = why;
  if (until != absl::InfiniteFuture()) {
    self->has_timer = true;
    self->timer_at = std::max(until, now_);
    self->timer_sequence = ++timer_sequence_;
    timers_.emplace(std::pair(self->timer_at, self->timer_sequence), self);
  }
  SwitchTo(PickNext());
}

void Scheduler::Sleep(absl::Duration duration) {
  CheckHoldsNoMutex("a sleep");
  Block("a sleep", now_ + duration);
}

void Signal::Wait(const char* why, absl::Time until) {
  scheduler_->CheckHoldsNoMutex(why);
  Fiber* const self = scheduler_->running_;
  waiters_.push_back(self);
  scheduler_->Block(why, until);
  std::erase(waiters_, self);
}

void Signal::NotifyAll() {
  std::vector<Fiber*> waiters;
  waiters.swap(waiters_);
  for (Fiber* fiber : waiters) scheduler_->MakeReady(fiber);
}

void Scheduler::Yield() {
  Fiber* const self = running_;
  self->state = Fiber::State::kReady;
  self->why = "its turn";
  ready_.push_back(self);
  SwitchTo(PickNext());
}

void Scheduler::Join(Fiber* fiber) {
  if (fiber->state == Fiber::State::kEnded) return Release(fiber);
  CheckHoldsNoMutex("a thread to end");
  fiber->joiner = running_;
  while (fiber->state != Fiber::State::kEnded) Block("a thread to end", absl::InfiniteFuture());
  Release(fiber);
}

Scheduler* Scheduler::OfThisFiber() {
  Scheduler* const scheduler = this_threads_scheduler;
  return scheduler == nullptr || scheduler->running_ == nullptr || scheduler->running_ == scheduler->thread_
             ? nullptr
             : scheduler;
}

void Scheduler::LockMutex(pthread_mutex_t* mutex) {
  if (options_.preempt > 0 && Chance(options_.preempt)) Yield();
  while (__real_pthread_mutex_trylock(mutex) != 0) {
    mutex_waiters_[mutex].push_back(running_);
    Block("a mutex", absl::InfiniteFuture());
  }
  ++running_->mutexes;
}

void Scheduler::CountTryLock() { ++running_->mutexes; }

void Scheduler::UnlockMutex(pthread_mutex_t* mutex) {
  --running_->mutexes;
  if (mutex_waiters_.empty()) return;
  const auto found = mutex_waiters_.find(mutex);
  if (found == mutex_waiters_.end()) return;
  std::vector<Fiber*> waiters = std::move(found->second);
  mutex_waiters_.erase(found);
  for (Fiber* fiber : waiters) MakeReady(fiber);
}

void Scheduler::CheckHoldsNoMutex(const char* why) {
  if (running_->mutexes == 0) return;
  Fail(absl::StrCat("fiber ", running_->id, " waits for ", why, " while it holds a mutex"));
}

void Scheduler::Report(std::string_view what) {
  std::fprintf(stderr, "simulation: seed %llu: %.*s\n", static_cast<unsigned long long>(options_.seed),
               static_cast<int>(what.size()), what.data());
  std::fprintf(stderr, "  virtual time %s, %llu switches, %zu fibers\n", absl::FormatDuration(now_ - begin_).c_str(),
               static_cast<unsigned long long>(switches_), fibers_.size());
  for (const auto& [id, fiber] : fibers_) {
    if (fiber->state == Fiber::State::kEnded) continue;
    const bool runs = fiber->state == Fiber::State::kRunning;
    std::fprintf(stderr, "  fiber %llu (%s) of %s%s: %s%s%s\n", static_cast<unsigned long long>(id),
                 fiber->what.c_str(), fiber->host->name().c_str(), fiber->host->frozen() ? ", which is stopped" : "",
                 runs                                   ? "runs"
                 : fiber->state == Fiber::State::kReady ? "could run"
                                                        : "waits for ",
                 fiber->state == Fiber::State::kWaiting ? fiber->why : "",
                 fiber->has_timer ? absl::StrCat(", for ", absl::FormatDuration(fiber->timer_at - now_)).c_str() : "");
    if (!runs) fiber->PrintStack();
  }
  if (!options_.replay.empty()) std::fprintf(stderr, "replay: %s\n", options_.replay.c_str());
  std::fflush(stderr);
}

void Scheduler::Fail(std::string_view what) {
  Report(what);
  if (running_ != nullptr && running_ != thread_) {
    void* frames[64];
    const int count = backtrace(frames, 64);
    std::fprintf(stderr, "the fiber that found it, %llu, is here:\n", static_cast<unsigned long long>(running_->id));
    std::fflush(stderr);
    backtrace_symbols_fd(frames, count, 2);
  }
  if (options_.abort) std::abort();
  std::_Exit(1);
}

}  // namespace kvist::simulation
