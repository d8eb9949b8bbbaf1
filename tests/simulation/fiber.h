// One stack and where it stopped. Internal to the simulated runtime.
#ifndef KVIST_TESTS_SIMULATION_FIBER_H_
#define KVIST_TESTS_SIMULATION_FIBER_H_

#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace kvist::simulation {

class SimHost;

// Memory with a page below it that nobody may touch.
class GuardedStack {
 public:
  explicit GuardedStack(size_t bytes);
  ~GuardedStack();
  GuardedStack(const GuardedStack&) = delete;
  GuardedStack& operator=(const GuardedStack&) = delete;
  void* bottom() const { return bottom_; }
  size_t size_bytes() const { return size_bytes_; }

 private:
  size_t size_bytes_;
  void* mapping_;
  void* bottom_;
};

struct Fiber {
  enum class State { kReady, kRunning, kWaiting, kEnded };

  uint64_t id = 0;
  SimHost* host = nullptr;
  std::string what;
  std::function<void()> body;
  State state = State::kReady;
  const char* why = "";  // it waits
  bool has_timer = false;
  absl::Time timer_at;
  uint64_t timer_sequence = 0;
  int mutexes = 0;  // held
  bool detached = false;
  Fiber* joiner = nullptr;

  std::unique_ptr<GuardedStack> stack;  // null: of the thread that called Run
  ucontext_t context;
  void* fake_stack = nullptr;  // of AddressSanitizer
  const void* thread_bottom = nullptr;
  size_t thread_bytes = 0;

  // Saves where `this` is and goes on where `next` was. Returns when somebody switches back.
  void SwitchTo(Fiber* next, bool ends);
  // To be called first on a stack that was switched to. `thread`, for a stack that is new: what called Run; the first
  // to arrive comes from there and notes where its stack lies, for AddressSanitizer.
  static void Arrive(Fiber* self, Fiber* thread);
  // Prints the calls that led to where it waits, one a line.
  void PrintStack() const;
};

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_FIBER_H_
