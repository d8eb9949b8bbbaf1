// How many lines of each event the log takes: kLogBurst at once, and after that one a second, which says how many were
// left out before it. A crowd that makes the node complain then fills no disk, and stands in no other event's way.
//
// An event is told by its text, which is a constant of the code: there are few. Texts beyond kMostEvents share a place.
// Threads any.
#ifndef KVIST_SERVICES_NODE_LOG_LIMIT_H_
#define KVIST_SERVICES_NODE_LOG_LIMIT_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace kvist {

inline constexpr double kLogBurst = 10, kLogLinesPerSecond = 1;

class LogLimit {
 public:
  static constexpr size_t kMostEvents = 256;

  // Nothing: the line is left out. Else it is to be written, and so many of its event were left out since the last.
  std::optional<uint64_t> Take(std::string_view event, absl::Time now) {
    std::lock_guard lock(mutex_);
    Place& place = PlaceOf(event);
    const double passed = std::max(0.0, absl::ToDoubleSeconds(now - place.taken));
    place.lines = std::min(kLogBurst, place.lines + passed * kLogLinesPerSecond);
    place.taken = now;
    if (place.lines < 1) {
      ++place.left_out;
      return std::nullopt;
    }
    place.lines -= 1;
    return std::exchange(place.left_out, 0);
  }

 private:
  struct Place {
    double lines = kLogBurst;  // that may be written now
    absl::Time taken = absl::InfinitePast();
    uint64_t left_out = 0;
  };

  Place& PlaceOf(std::string_view event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = places_.find(event);
    if (found != places_.end()) return found->second;
    return places_.size() < kMostEvents ? places_[std::string(event)] : others_;
  }

  std::mutex mutex_;
  std::map<std::string, Place, std::less<>> places_ ABSL_GUARDED_BY(mutex_);
  Place others_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_LOG_LIMIT_H_
