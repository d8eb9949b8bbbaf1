// What moves in one piece over a communicator: an ordered list of extents of device memory, in one group of NCCL's.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_OPERATION_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_OPERATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cachestore/device.h"

namespace kvist {

inline uint64_t TotalBytes(const std::vector<DeviceExtent>& extents) {
  uint64_t total = 0;
  for (const DeviceExtent& extent : extents) total += extent.size_bytes;
  return total;
}

// REQUIRES: the other ranks submit the matching operation, with the same sizes in the same order, and operations in the
// same order. Whoever submits has agreed on that with them before: NCCL itself checks nothing.
struct Operation {
  enum class Kind : uint8_t { kSend, kReceive, kBroadcast };
  Kind kind = Kind::kSend;
  int peer = 0;  // the other rank; of a broadcast, the rank that has the bytes
  std::vector<DeviceExtent> extents;
  std::shared_ptr<DeviceEvent> after;  // the extents are ready, or free to be written, when this is done; null = now
  // Keeps the memory. Dropped when nothing can touch it any more, which after a failure is later than `done`.
  std::shared_ptr<void> hold;
  absl::Time deadline = absl::InfiniteFuture();
  // Called once, by the deadline and a tick of the watchdog, on a thread that must not be kept.
  std::function<void(absl::Status)> done;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_OPERATION_H_
