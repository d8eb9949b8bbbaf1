#include "services/cluster/heat.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace kvist {
namespace {

constexpr int kSample = 16;

}  // namespace

void Heat::Read(const Key& segment, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  const auto found = places_.find(segment);
  if (found != places_.end()) {
    entries_[found->second].bytes += static_cast<double>(bytes);
    return;
  }
  if (entries_.size() < options_.segments) {
    places_[segment] = entries_.size();
    entries_.push_back({segment, static_cast<double>(bytes)});
    return;
  }
  const size_t place = LeastOfSome();
  places_.erase(entries_[place].segment);
  places_[segment] = place;
  entries_[place] = {segment, entries_[place].bytes + static_cast<double>(bytes)};
}

// Looking at all of a full table for each newcomer would cost the data path 10 us.
size_t Heat::LeastOfSome() {
  size_t least = 0;
  for (int i = 0; i < kSample; ++i) {
    sample_ = sample_ * 6364136223846793005u + 1442695040888963407u;
    const size_t place = (sample_ >> 33) % entries_.size();
    if (i == 0 || entries_[place].bytes < entries_[least].bytes) least = place;
  }
  return least;
}

void Heat::Remove(size_t place) {
  places_.erase(entries_[place].segment);
  if (place + 1 != entries_.size()) {
    entries_[place] = entries_.back();
    places_[entries_[place].segment] = place;
  }
  entries_.pop_back();
}

// A steady rate r settles at r * half_life / ln 2.
double Heat::Seconds() const { return absl::ToDoubleSeconds(options_.half_life) / std::log(2.0); }

std::vector<Heat::Hot> Heat::Tick(absl::Time now, const std::map<Key, size_t>& copies) {
  std::lock_guard lock(mutex_);
  const double half_lives =
      last_tick_ == absl::InfinitePast() ? 0 : absl::FDivDuration(now - last_tick_, options_.half_life);
  last_tick_ = now;
  const double left = std::exp2(-half_lives);
  const double seconds = Seconds();
  const auto rate_of = [&](const Entry& entry) {
    const auto elsewhere = copies.find(entry.segment);
    return entry.bytes / seconds * static_cast<double>(1 + (elsewhere == copies.end() ? 0 : elsewhere->second));
  };
  double sum = 0;
  for (size_t place = entries_.size(); place-- > 0;) {
    entries_[place].bytes *= left;
    if (entries_[place].bytes < 1) {
      Remove(place);
    } else {
      sum += rate_of(entries_[place]);
    }
  }
  const double mean = sum / static_cast<double>(std::max(entries_.size(), options_.few));
  const double threshold = std::max(options_.floor, options_.factor * mean);
  std::vector<Hot> hot;
  for (const Entry& entry : entries_) {
    const double times = rate_of(entry) / threshold;
    if (times >= (hot_.contains(entry.segment) ? 0.5 : 1)) hot.push_back({entry.segment, rate_of(entry), times});
  }
  hot_.clear();
  for (const Hot& segment : hot) hot_.insert(segment.segment);
  std::sort(hot.begin(), hot.end(), [](const Hot& a, const Hot& b) {
    return a.bytes_per_second != b.bytes_per_second ? a.bytes_per_second > b.bytes_per_second : a.segment < b.segment;
  });
  return hot;
}

Heat::Reading Heat::Look(size_t top) const {
  Reading reading;
  std::vector<Hot> all;
  {
    std::lock_guard lock(mutex_);
    for (const Entry& entry : entries_) {
      const double rate = entry.bytes / Seconds();
      all.push_back({entry.segment, rate, 0});
      reading.bytes_per_second += rate;
      if (hot_.contains(entry.segment)) reading.hot += rate;
      reading.most_read = std::max(reading.most_read, rate);
    }
  }
  reading.segments = all.size();
  if (reading.bytes_per_second > 0) {
    reading.hot /= reading.bytes_per_second;
    reading.most_read /= reading.bytes_per_second;
  }
  const size_t shown = std::min(top, all.size());
  std::partial_sort(all.begin(), all.begin() + shown, all.end(),
                    [](const Hot& a, const Hot& b) { return a.bytes_per_second > b.bytes_per_second; });
  all.resize(shown);
  reading.top = std::move(all);
  return reading;
}

}  // namespace kvist
