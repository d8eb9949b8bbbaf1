#include "cachestore/leases.h"

#include "cachestore/check.h"

namespace kvist {

LeaseId Leases::Grant(LeasedBlocks& blocks, int64_t deadline_ns) {
  std::lock_guard<std::mutex> lock(mutex_);
  const TenantId tenant = blocks.front()->key().tenant;
  if (!Keep(next_id_, blocks, deadline_ns)) return {};
  return {next_id_++, tenant};
}

bool Leases::GrantAs(LeaseId id, LeasedBlocks& blocks, int64_t deadline_ns) {
  std::lock_guard<std::mutex> lock(mutex_);
  return Keep(id.value, blocks, deadline_ns);
}

bool Leases::Keep(uint64_t id, LeasedBlocks& blocks, int64_t deadline_ns) {
  if (blocks.size() > kMaxPins - pins_) return false;
  Lease& lease = leases_[id];
  Check(lease.blocks.empty(), "an id is granted once");
  lease.deadline_ns = deadline_ns;
  pins_ += blocks.size();
  lease.blocks = std::move(blocks);
  blocks.clear();
  by_deadline_.emplace(lease.deadline_ns, id);
  PublishEarliest();
  return true;
}

LeasedBlocks Leases::Take(LeaseId id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = leases_.find(id.value);
  if (found == leases_.end() || found->second.blocks.front()->key().tenant != id.tenant) return {};
  LeasedBlocks blocks = Remove(id.value);
  PublishEarliest();
  return blocks;
}

std::vector<LeasedBlocks> Leases::TakeExpired(int64_t now_ns, size_t pins) {
  std::vector<LeasedBlocks> expired;
  if (!AnyExpired(now_ns)) return expired;
  std::lock_guard<std::mutex> lock(mutex_);
  for (size_t taken = 0; taken < pins && !by_deadline_.empty() && by_deadline_.begin()->first <= now_ns;) {
    expired.push_back(Remove(by_deadline_.begin()->second));
    taken += expired.back().size();
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
  by_deadline_.erase({found->second.deadline_ns, id});
  leases_.erase(found);
  return blocks;
}

void Leases::PublishEarliest() {
  earliest_ns_.store(by_deadline_.empty() ? kNever : by_deadline_.begin()->first, std::memory_order_release);
}

}  // namespace kvist
