#include "cachestore/allocator.h"

#include <algorithm>
#include <iterator>

#include "cachestore/check.h"

namespace kvist {

Allocator::Allocator(uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {
  Check(capacity_bytes > 0 && capacity_bytes % kGranularity == 0, "an arena is a whole number of granules");
  std::lock_guard<std::mutex> lock(mutex_);
  AddHole(0, capacity_bytes);
}

std::optional<Extents> Allocator::Take(uint64_t size_bytes) {
  uint64_t rest = RoundUp(size_bytes);
  Check(rest > 0, "an extent is never empty");
  std::lock_guard<std::mutex> lock(mutex_);
  Extents extents;
  auto fit = holes_by_size_.lower_bound({rest, 0});
  if (fit == holes_by_size_.end() && state_.usable_bytes < rest) return std::nullopt;
  while (fit == holes_by_size_.end()) {
    const auto largest = std::prev(holes_by_size_.end());
    extents.push_back(Carve(largest, largest->first));
    rest -= extents.back().size_bytes;
    fit = holes_by_size_.lower_bound({rest, 0});
  }
  extents.push_back(Carve(fit, rest));
  return extents;
}

void Allocator::Return(const Extents& extents) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const Extent& extent : extents) {
    ReturnOne(extent);
    --state_.live_extents;
  }
  returns_.fetch_add(1, std::memory_order_release);
}

void Allocator::Shrink(Extents& extents, uint64_t size_bytes) {
  uint64_t kept = RoundUp(size_bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  size_t used = 0;
  for (; used < extents.size() && kept > 0; ++used) {
    Extent& extent = extents[used];
    if (extent.size_bytes > kept) {
      ReturnOne({extent.offset + kept, extent.size_bytes - kept});
      extent.size_bytes = kept;
    }
    kept -= extent.size_bytes;
  }
  Check(kept == 0 && used > 0, "a block keeps part of what it took");
  for (size_t i = used; i < extents.size(); ++i) {
    ReturnOne(extents[i]);
    --state_.live_extents;
  }
  extents.resize(used);
  returns_.fetch_add(1, std::memory_order_release);
}

Allocator::State Allocator::state() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}

void Allocator::AddHole(uint64_t offset, uint64_t size_bytes) {
  holes_by_size_.emplace(size_bytes, offset);
  holes_by_offset_.emplace(offset, size_bytes);
  ++state_.holes;
  state_.free_bytes += size_bytes;
  if (size_bytes >= kMinExtent) state_.usable_bytes += size_bytes;
}

void Allocator::RemoveHole(uint64_t offset, uint64_t size_bytes) {
  holes_by_size_.erase({size_bytes, offset});
  holes_by_offset_.erase(offset);
  --state_.holes;
  state_.free_bytes -= size_bytes;
  if (size_bytes >= kMinExtent) state_.usable_bytes -= size_bytes;
}

Extent Allocator::Carve(BySize::iterator hole, uint64_t size_bytes) {
  const auto [hole_bytes, offset] = *hole;
  RemoveHole(offset, hole_bytes);
  if (hole_bytes > size_bytes) AddHole(offset + size_bytes, hole_bytes - size_bytes);
  ++state_.live_extents;
  return {offset, size_bytes};
}

void Allocator::ReturnOne(Extent extent) {
  uint64_t first = extent.offset;
  uint64_t last = extent.offset + extent.size_bytes;
  Check(first < last && last <= capacity_bytes_, "an extent lies inside the arena");
  const auto next = holes_by_offset_.lower_bound(first);
  std::optional<Extent> above, below;
  if (next != holes_by_offset_.end()) {
    Check(next->first >= last, "an extent is returned once");
    if (next->first == last) above = Extent{next->first, next->second};
  }
  if (next != holes_by_offset_.begin()) {
    const auto previous = std::prev(next);
    Check(previous->first + previous->second <= first, "an extent is returned once");
    if (previous->first + previous->second == first) below = Extent{previous->first, previous->second};
  }
  if (above) RemoveHole(above->offset, above->size_bytes);
  if (below) RemoveHole(below->offset, below->size_bytes);
  if (above) last += above->size_bytes;
  if (below) first = below->offset;
  AddHole(first, last - first);
}

}  // namespace kvist
