// What those ask of a store who read blocks in device memory: kernels, CUDA IPC, NCCL. It stands beside the waist, since
// only a store with a device tier has an answer.
//
// Units   bytes.
// Threads every method from any thread.
#ifndef KVIST_CACHESTORE_DEVICE_BLOCKS_H_
#define KVIST_CACHESTORE_DEVICE_BLOCKS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cachestore/block_store.h"
#include "cachestore/device.h"

namespace kvist {

// A block in device memory that stays where it is, unchanged, until this is destroyed.
class DevicePin {
 public:
  virtual ~DevicePin() = default;
  virtual uint64_t size_bytes() const = 0;
  virtual absl::Span<const DeviceExtent> extents() const = 0;  // in order; each begins at a multiple of 64
};

struct DeviceLookup {
  std::unique_ptr<DevicePin> pin;
  // kDevice with a pin. kHost: the block is there, not (yet) on the device; kNone: a miss, for this reason.
  Tier tier = Tier::kNone;
  MissReason miss = MissReason::kNone;
};

class DeviceBlocks {
 public:
  virtual ~DeviceBlocks() = default;
  // Counts as a read: the second within a window promotes a block that is not on the device.
  // Errors: Unavailable  the device has failed.
  virtual absl::StatusOr<DeviceLookup> GetOnDevice(const Key& key) = 0;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_DEVICE_BLOCKS_H_
