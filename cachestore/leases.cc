#include "cachestore/leases.h"

#include "cachestore/check.h"

namespace kvist {

LeaseId Leases::Grant(LeasedBlocks& blocks, absl::Time deadline) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (blocks.size() > kMaxPins - pins_) return {};
  const uint64_t id = next_id_++;
  Lease& lease = leases_[id];
  lease.deadline = absl::ToUnixNanos(deadline);
  pins_ += blocks.size();
  lease.blocks = std::move(blocks);
  blocks.clear();
  by_deadline_.emplace(lease.deadline, id);
  PublishEarliest();
  return {id};
}

LeasedBlocks Leases::Take(LeaseId id) {
  std::lock_guard<std::mutex> lock(mutex_);
  LeasedBlocks blocks = Remove(id.value);
  PublishEarliest();
  return blocks;
}

std::vector<LeasedBlocks> Leases::TakeExpired(absl::Time now) {
  const int64_t now_ns = absl::ToUnixNanos(now);
  std::vector<LeasedBlocks> expired;
  if (now_ns < earliest_.load(std::memory_order_acquire)) return expired;
  std::lock_guard<std::mutex> lock(mutex_);
  while (!by_deadline_.empty() && by_deadline_.begin()->first <= now_ns) {
    expired.push_back(Remove(by_deadline_.begin()->second));
  }
  PublishEarliest();
  return expired;
}

size_t Leases::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return leases_.size();
}

LeasedBlocks Leases::Remove(uint64_t id) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return {};
  LeasedBlocks blocks = std::move(found->second.blocks);
  Check(!blocks.empty() && blocks.size() <= pins_, "a lease holds the pins that were counted");
  pins_ -= blocks.size();
  by_deadline_.erase({found->second.deadline, id});
  leases_.erase(found);
  return blocks;
}

void Leases::PublishEarliest() {
  earliest_.store(by_deadline_.empty() ? kNever : by_deadline_.begin()->first, std::memory_order_release);
}

}  // namespace kvist
