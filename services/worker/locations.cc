#include "services/worker/locations.h"

namespace kvist {
namespace {

constexpr absl::Duration kKept = absl::Seconds(10), kBetweenAdoptions = absl::Seconds(5);

}  // namespace

Locations::Entry& Locations::At(const Key& segment_head, absl::Time now) {
  const auto [entry, inserted] = entries_.try_emplace(segment_head);
  entry->second.expires = now + kKept;
  if (!inserted) return entry->second;
  entry->second.place = order_.insert(order_.end(), segment_head);
  if (order_.size() > kMaxEntries) Remove(entries_.find(order_.front()));
  size_ = entries_.size();
  return entries_.at(segment_head);
}

void Locations::Remove(Entries::iterator entry) {
  order_.erase(entry->second.place);
  entries_.erase(entry);
  size_ = entries_.size();
}

std::optional<Location> Locations::Find(const Key& segment_head) {
  if (empty()) return std::nullopt;
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  const auto entry = entries_.find(segment_head);
  if (entry == entries_.end()) return std::nullopt;
  if (entry->second.expires > now) return entry->second.location;
  Remove(entry);
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
  if (const auto entry = entries_.find(segment_head); entry != entries_.end()) Remove(entry);
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
