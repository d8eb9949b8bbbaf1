// The time of one call to a store, for the price of what the call needs.
//
// Units   nanoseconds since the epoch; kNever lies after every time.
// Threads StoreClock: any. A CallTime belongs to one call.
//
// Why two readings: a Get takes some 60 ns, of which reading the clock would be a good part. It needs the exact time
// only for a block that will expire; for "last used" the latest exact reading, by whoever made it, is good enough.
#ifndef KVIST_CACHESTORE_CALL_TIME_H_
#define KVIST_CACHESTORE_CALL_TIME_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "absl/time/time.h"

namespace kvist {

inline constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// The infinite times map to the ends of the range and back.
inline absl::Time FromNanos(int64_t ns) {
  if (ns == kNever) return absl::InfiniteFuture();
  if (ns == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  return absl::FromUnixNanos(ns);
}

class StoreClock {
 public:
  // How far `Recent` may lag behind the latest reading: readings closer together are not published, so that threads do
  // not fight for the line.
  static constexpr int64_t kGrainNs = 1'000'000;

  explicit StoreClock(std::function<absl::Time()> clock) : clock_(std::move(clock)) { Read(); }

  int64_t Read() {
    const int64_t now = absl::ToUnixNanos(clock_());
    const int64_t recent = recent_.load(std::memory_order_relaxed);
    if (now < recent || now - recent >= kGrainNs) recent_.store(now, std::memory_order_relaxed);
    return now;
  }
  int64_t Recent() const { return recent_.load(std::memory_order_relaxed); }

 private:
  const std::function<absl::Time()> clock_;
  std::atomic<int64_t> recent_{0};
};

class CallTime {
 public:
  explicit CallTime(StoreClock* clock) : clock_(clock) {}

  // By the clock, which is read once a call and only if it is asked for.
  int64_t Exact() {
    if (!now_) now_ = clock_->Read();
    return *now_;
  }
  // Exact if that was asked for already, else the store's latest reading.
  int64_t Recent() const { return now_ ? *now_ : clock_->Recent(); }

 private:
  StoreClock* const clock_;
  std::optional<int64_t> now_;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_CALL_TIME_H_
