#include "cachestore/device.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"

namespace kvist {

absl::Status Await(DeviceEvent& event, absl::Duration deadline) {
  using SteadyClock = std::chrono::steady_clock;
  constexpr std::chrono::microseconds kShortest(2), kLongest(200);
  const SteadyClock::time_point end = SteadyClock::now() + absl::ToChronoNanoseconds(deadline);
  std::chrono::microseconds pause = kShortest;
  for (;;) {
    absl::StatusOr<bool> done = event.Done();
    if (!done.ok()) return done.status();
    if (*done) return absl::OkStatus();
    if (SteadyClock::now() >= end) {
      return absl::DeadlineExceededError(
          absl::StrCat("the device was not done after ", absl::FormatDuration(deadline)));
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, kLongest);
  }
}

}  // namespace kvist
