#include "services/worker/device_lanes.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "services/transport/nccl/device_link.h"

namespace kvist {
namespace {

constexpr absl::Duration kLookAgain = absl::Milliseconds(1);  // at what is late, while somebody waits for a lane
constexpr absl::Duration kLastLook = absl::Seconds(2);

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceLane>> DeviceLane::Create(const std::shared_ptr<Device>& device,
                                                               const DeviceLaneSizes& sizes) {
  absl::StatusOr<std::unique_ptr<DeviceMemory>> memory = device->Allocate(sizes.landing_bytes + sizes.scratch_bytes);
  if (!memory.ok()) return memory.status();
  absl::StatusOr<std::unique_ptr<PinnedMemory>> pinned = device->AllocatePinned(sizes.pinned_bytes);
  if (!pinned.ok()) return pinned.status();
  absl::StatusOr<std::unique_ptr<Stream>> stream = device->NewStream();
  if (!stream.ok()) return stream.status();
  std::unique_ptr<DeviceLane> lane(new DeviceLane(sizes));
  lane->device_ = device;
  lane->memory_ = *std::move(memory);
  lane->pinned_ = *std::move(pinned);
  lane->stream_ = *std::move(stream);
  return lane;
}

std::optional<DeviceAddress> DeviceLane::Take(uint64_t size_bytes) {
  if (size_bytes > sizes_.landing_bytes) return std::nullopt;  // so that rounding cannot wrap
  const uint64_t aligned = (size_bytes + kLandingAlignment - 1) / kLandingAlignment * kLandingAlignment;
  std::lock_guard lock(mutex_);
  if (aligned > sizes_.landing_bytes - taken_) return std::nullopt;
  const DeviceAddress at = memory_->base() + taken_;
  taken_ += aligned;
  return at;
}

void DeviceLane::Clear() {
  std::lock_guard lock(mutex_);
  taken_ = 0;
}

struct DeviceLanes::Pool {
  explicit Pool(Runtime* runtime) : returned(runtime->NewCondition()) {}
  void Return(std::unique_ptr<DeviceLane> lane) {
    lane->Clear();
    {
      std::lock_guard lock(mutex);
      free.push_back(std::move(lane));
    }
    returned->NotifyOne();
  }

  const std::unique_ptr<Condition> returned;
  std::mutex mutex;
  std::vector<std::unique_ptr<DeviceLane>> free ABSL_GUARDED_BY(mutex);
};

absl::StatusOr<std::unique_ptr<DeviceLanes>> DeviceLanes::Create(const std::shared_ptr<Device>& device,
                                                                 Runtime* runtime, size_t lanes,
                                                                 const DeviceLaneSizes& sizes) {
  auto pool = std::make_shared<Pool>(runtime);
  for (size_t i = 0; i < lanes; ++i) {
    absl::StatusOr<std::unique_ptr<DeviceLane>> lane = DeviceLane::Create(device, sizes);
    if (!lane.ok()) return lane.status();
    pool->Return(*std::move(lane));
  }
  return std::unique_ptr<DeviceLanes>(new DeviceLanes(device, runtime, std::move(pool)));
}

DeviceLanes::DeviceLanes(std::shared_ptr<Device> device, Runtime* runtime, std::shared_ptr<Pool> pool)
    : device_(std::move(device)), runtime_(runtime), pool_(std::move(pool)) {}

DeviceLanes::~DeviceLanes() {
  std::lock_guard lock(late_mutex_);
  const bool all_done = std::all_of(late_.begin(), late_.end(), [](const Late& late) {
    return late.event != nullptr && Await(*late.event, kLastLook).ok();
  });
  // A device that answers nothing any more writes nothing any more either.
  if (!all_done && device_->Health().ok()) new std::vector<Late>(std::move(late_));
}

std::shared_ptr<DeviceLane> DeviceLanes::Take(absl::Time deadline) {
  DropDone();
  std::unique_lock lock(pool_->mutex);
  while (pool_->free.empty()) {
    const absl::Time now = runtime_->Now();
    if (now >= deadline) return nullptr;
    lock.unlock();
    const bool any_late = late() > 0;  // whose end nobody tells us
    lock.lock();
    if (!pool_->free.empty()) break;
    pool_->returned->WaitUntil(lock, any_late ? std::min(deadline, now + kLookAgain) : deadline);
  }
  std::unique_ptr<DeviceLane> lane = std::move(pool_->free.back());
  pool_->free.pop_back();
  return std::shared_ptr<DeviceLane>(
      lane.release(), [pool = pool_](DeviceLane* used) { pool->Return(std::unique_ptr<DeviceLane>(used)); });
}

void DeviceLanes::Keep(std::shared_ptr<DeviceEvent> event, std::shared_ptr<void> held) {
  std::lock_guard lock(late_mutex_);
  late_.push_back({std::move(event), std::move(held)});
}

void DeviceLanes::DropDone() {
  std::vector<Late> done;  // let go after the mutex: what they hold takes others
  std::lock_guard lock(late_mutex_);
  const auto first_done = std::partition(late_.begin(), late_.end(), [](const Late& late) {
    return late.event == nullptr || !late.event->Done().value_or(false);
  });
  done.assign(std::make_move_iterator(first_done), std::make_move_iterator(late_.end()));
  late_.erase(first_done, late_.end());
}

size_t DeviceLanes::late() {
  DropDone();
  std::lock_guard lock(late_mutex_);
  return late_.size();
}

}  // namespace kvist
