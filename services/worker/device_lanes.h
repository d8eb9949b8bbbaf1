// What a Get has on the device while it runs: room for encoded blocks, room for the tables of a launch, pinned memory and a
// stream. There is a fixed number of these lanes; each is taken whole and comes back whole. Internal to services/worker.
//
// Units   bytes; addresses that Take gives are aligned to kLandingAlignment.
// Threads DeviceLanes: any. Of a lane, Take and `hold` from any thread, the rest from the thread of its Get.
// Life    a lane is free again when nobody holds it: a transfer that may still write into it, or a launch that was not done
//         by its deadline (Keep), keeps it from the next Get for as long as that takes. Lanes may outlive the DeviceLanes.
// Why whole: encoded blocks live from their arrival to one launch, all of them together. Taking room within a lane is an
// addition, giving it back costs nothing, and two Gets cannot stop each other half way for want of room.
#ifndef KVIST_SERVICES_WORKER_DEVICE_LANES_H_
#define KVIST_SERVICES_WORKER_DEVICE_LANES_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/device.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct DeviceLaneSizes {
  uint64_t landing_bytes = 0;  // for encoded blocks
  uint64_t scratch_bytes = 0;  // on the device, for tables and what kernels keep beside them
  uint64_t pinned_bytes = 0;   // for what goes between host and device beside the blocks
};

class DeviceLane {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceLane>> Create(const std::shared_ptr<Device>& device,
                                                            const DeviceLaneSizes& sizes);

  // Of the landing; empty if there is not so much left.
  std::optional<DeviceAddress> Take(uint64_t size_bytes);
  uint64_t landing_bytes() const { return sizes_.landing_bytes; }

  DeviceExtent scratch() const { return {memory_->base() + sizes_.landing_bytes, sizes_.scratch_bytes}; }
  absl::Span<uint8_t> pinned() const { return pinned_->bytes(); }
  Stream& stream() const { return *stream_; }

 private:
  friend class DeviceLanes;
  explicit DeviceLane(const DeviceLaneSizes& sizes) : sizes_(sizes) {}
  void Clear();

  const DeviceLaneSizes sizes_;
  std::shared_ptr<Device> device_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<PinnedMemory> pinned_;
  std::unique_ptr<Stream> stream_;
  std::mutex mutex_;
  uint64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
};

class DeviceLanes {
 public:
  // Errors: ResourceExhausted, Unavailable (cachestore/device.h).
  static absl::StatusOr<std::unique_ptr<DeviceLanes>> Create(const std::shared_ptr<Device>& device, Runtime* runtime,
                                                             size_t lanes, const DeviceLaneSizes& sizes);
  // What is kept late is waited for, for a moment; where the device is not done even then, it is left to it for good.
  ~DeviceLanes();

  // An empty lane; null if none came free in time.
  std::shared_ptr<DeviceLane> Take(absl::Time deadline);
  // `held` stays until `event` is done; for ever where that is null, which is a device that has failed.
  void Keep(std::shared_ptr<DeviceEvent> event, std::shared_ptr<void> held);
  size_t late();  // kept, and not done yet

 private:
  struct Pool;
  struct Late {
    std::shared_ptr<DeviceEvent> event;
    std::shared_ptr<void> held;
  };
  DeviceLanes(std::shared_ptr<Device> device, Runtime* runtime, std::shared_ptr<Pool> pool);
  void DropDone();

  const std::shared_ptr<Device> device_;
  Runtime* const runtime_;
  const std::shared_ptr<Pool> pool_;
  std::mutex late_mutex_;
  std::vector<Late> late_ ABSL_GUARDED_BY(late_mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DEVICE_LANES_H_
