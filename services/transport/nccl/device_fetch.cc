#include "services/transport/nccl/device_fetch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"

namespace kvist {
namespace {

v1::MissReason ReasonOf(const absl::Status& status) {
  if (absl::IsDeadlineExceeded(status)) return v1::MISS_REASON_DEADLINE;
  if (absl::IsResourceExhausted(status)) return v1::MISS_REASON_OVERLOADED;
  if (absl::IsDataLoss(status)) return v1::MISS_REASON_CHECKSUM;
  return v1::MISS_REASON_OWNER_DOWN;
}

bool Arrived(const FetchedBlock& block) { return block.extent.size_bytes > 0; }

}  // namespace

Fetched DeviceFetch::Fetch(absl::Span<const Key> keys, const TakeLanding& take, absl::Time deadline) {
  Fetched fetched;
  fetched.blocks.assign(keys.size(), FetchedBlock{v1::MISS_REASON_UNSPECIFIED, true, {}});
  if (link_ != nullptr) {
    const absl::Time now = absl::Now();
    absl::StatusOr<Fetched> direct = link_->Fetch(keys, take, now + (deadline - now) / 2);
    if (direct.ok()) fetched = *std::move(direct);
  }
  const auto over_nccl = std::count_if(fetched.blocks.begin(), fetched.blocks.end(), Arrived);
  FallBack(keys, take, deadline, &fetched);
  const auto arrived = std::count_if(fetched.blocks.begin(), fetched.blocks.end(), Arrived);
  const std::lock_guard lock(mutex_);
  counts_.over_nccl += uint64_t(over_nccl);
  counts_.over_grpc += uint64_t(arrived - over_nccl);
  counts_.misses += keys.size() - uint64_t(arrived);
  return fetched;
}

// For the blocks that are `elsewhere` so far.
void DeviceFetch::FallBack(absl::Span<const Key> keys, const TakeLanding& take, absl::Time deadline, Fetched* fetched) {
  std::vector<size_t> items;
  std::vector<Key> left;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!fetched->blocks[i].elsewhere) continue;
    items.push_back(i);
    left.push_back(keys[i]);
  }
  if (items.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    ++counts_.fell_back;
  }
  absl::StatusOr<Fetched> rest = fallback_->Fetch(left, take, deadline);
  for (size_t i = 0; i < items.size(); ++i) {
    fetched->blocks[items[i]] = rest.ok() ? rest->blocks[i] : FetchedBlock{ReasonOf(rest.status()), false, {}};
  }
  if (rest.ok()) {
    using Both = std::pair<std::shared_ptr<void>, std::shared_ptr<void>>;
    fetched->hold = std::make_shared<Both>(std::move(fetched->hold), std::move(rest->hold));
  }
}

DeviceFetch::Counts DeviceFetch::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace kvist
