#include "services/worker/locations.h"

namespace kvist {
namespace {

constexpr size_t kMaxEntries = 8192;
constexpr absl::Duration kKept = absl::Seconds(10), kBetweenAdoptions = absl::Seconds(5);

}  // namespace

Locations::Entry& Locations::At(const Key& segment_head, absl::Time now) {
  const auto [entry, inserted] = entries_.try_emplace(segment_head);
  entry->second.expires = now + kKept;
  if (!inserted) return entry->second;
  order_.push_back(segment_head);
  while (order_.size() > kMaxEntries) {
    entries_.erase(order_.front());
    order_.pop_front();
  }
  size_ = entries_.size();
  return entries_[segment_head];
}

std::optional<Location> Locations::Find(const Key& segment_head) {
  if (empty()) return std::nullopt;
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  const auto entry = entries_.find(segment_head);
  if (entry == entries_.end()) return std::nullopt;
  if (entry->second.expires > now) return entry->second.location;
  entries_.erase(entry);
  size_ = entries_.size();
  return std::nullopt;
}

void Locations::Record(const Key& segment_head, Location location) {
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  At(segment_head, now).location = std::move(location);
}

void Locations::Forget(const Key& segment_head) {
  if (empty()) return;
  std::lock_guard lock(mutex_);
  entries_.erase(segment_head);
  size_ = entries_.size();
  if (entries_.empty()) order_.clear();
}

bool Locations::TakeAdoption(const Key& segment_head) {
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  Entry& entry = At(segment_head, now);
  if (now - entry.adopted < kBetweenAdoptions) return false;
  entry.adopted = now;
  return true;
}

}  // namespace kvist
