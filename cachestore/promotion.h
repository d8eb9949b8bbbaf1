// When a block is worth moving, and how much may be moved: the two rules of TierMover, apart so that they can be tested.
//
// Units   bytes; nanoseconds since the epoch.
// Threads HitWindow: any. TokenBucket: one thread.
#ifndef KVIST_CACHESTORE_PROMOTION_H_
#define KVIST_CACHESTORE_PROMOTION_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "cachestore/key.h"

namespace kvist {

// Remembers first hits, and knows a second one within a time. Two keys of one place forget each other: a promotion comes
// later then, never wrongly but once in 2^64.
//
// Memory: 16 bytes a place, taken at start.
class HitWindow {
 public:
  HitWindow(size_t places, absl::Duration window) : window_ns_(absl::ToInt64Nanoseconds(window)), places_(places) {}

  // True for every second hit of a key that comes at most the window after the first.
  bool IsSecond(const Key& key, int64_t now_ns) {
    std::lock_guard<std::mutex> lock(mutex_);
    Place& place = places_[key.Prefix64() % places_.size()];
    const bool second = place.hit && place.tag == key.Word(8) && now_ns - place.when_ns <= window_ns_;
    place = {key.Word(8), now_ns, !second};
    return second;
  }

 private:
  struct Place {
    uint64_t tag = 0;
    int64_t when_ns : 63 = 0;
    bool hit : 1 = false;
  };
  const int64_t window_ns_;
  std::mutex mutex_;
  std::vector<Place> places_ ABSL_GUARDED_BY(mutex_);  // its size never changes
};

// Lets through so many bytes a second in the mean, and at most one block more than the burst at once.
class TokenBucket {
 public:
  TokenBucket(uint64_t bytes_per_second, uint64_t burst_bytes)
      : bytes_per_second_(bytes_per_second), burst_bytes_(burst_bytes), level_bytes_(burst_bytes) {}

  bool MayTake(int64_t now_ns) {
    const double passed = std::max<int64_t>(0, now_ns - filled_ns_) * 1e-9;
    filled_ns_ = std::max(filled_ns_, now_ns);
    level_bytes_ = std::min<double>(burst_bytes_, level_bytes_ + passed * bytes_per_second_);
    return level_bytes_ > 0;
  }
  void Take(uint64_t bytes) { level_bytes_ -= bytes; }

 private:
  const double bytes_per_second_, burst_bytes_;
  double level_bytes_;
  int64_t filled_ns_ = 0;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_PROMOTION_H_
