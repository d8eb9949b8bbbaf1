#include "services/cluster/heat.h"

#include <algorithm>
#include <cmath>

namespace kvist {

void Heat::Read(const Key& segment, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  const auto found = read_.find(segment);
  if (found != read_.end()) {
    found->second += static_cast<double>(bytes);
    return;
  }
  double start = 0;
  if (read_.size() >= options_.segments) {
    const auto least =
        std::min_element(read_.begin(), read_.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    start = least->second;
    read_.erase(least);
  }
  read_.emplace(segment, start + static_cast<double>(bytes));
}

std::vector<Heat::Hot> Heat::Tick(absl::Time now) {
  std::lock_guard lock(mutex_);
  const double half_lives =
      last_tick_ == absl::InfinitePast() ? 0 : absl::FDivDuration(now - last_tick_, options_.half_life);
  last_tick_ = now;
  const double left = std::exp2(-half_lives);
  double sum = 0;
  for (auto entry = read_.begin(); entry != read_.end();) {
    entry->second *= left;
    if (entry->second < 1) {
      read_.erase(entry++);
    } else {
      sum += entry->second;
      ++entry;
    }
  }
  // A steady rate r settles at r * half_life / ln 2.
  const double seconds = absl::ToDoubleSeconds(options_.half_life) / std::log(2.0);
  const double mean = read_.empty() ? 0 : sum / static_cast<double>(read_.size()) / seconds;
  const double threshold = std::min(options_.always, std::max(options_.floor, options_.factor * mean));
  std::vector<Hot> hot;
  for (const auto& [segment, bytes] : read_) {
    const double rate = bytes / seconds;
    if (rate >= threshold) hot.push_back({segment, rate, rate / threshold});
  }
  std::sort(hot.begin(), hot.end(), [](const Hot& a, const Hot& b) { return a.bytes_per_second > b.bytes_per_second; });
  return hot;
}

}  // namespace kvist
