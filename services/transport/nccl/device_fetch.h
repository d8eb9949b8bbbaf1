// Brings blocks of one node into device memory: over NCCL while it can be trusted, over gRPC whenever not.
//
// Threads  any number at once.
// Errors   none: a block that did not come is a miss with its reason, whatever failed.
// Time     a transfer over NCCL gets half of what is left until the deadline, so that the other half is there for gRPC.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_DEVICE_FETCH_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_DEVICE_FETCH_H_

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/device.h"
#include "cachestore/key.h"
#include "services/transport/nccl/device_link.h"
#include "services/transport/transport.h"

namespace kvist {

// The other way to the same node.
class BlockFallback {
 public:
  virtual ~BlockFallback() = default;
  virtual absl::StatusOr<Fetched> Fetch(absl::Span<const Key> keys, const TakeLanding& take, absl::Time deadline) = 0;
};

// Cache.Get over `channel`, then a copy through pinned memory. Both outlive it.
// Errors  those of Channel::Get, of the device, and of `take`; DataLoss if parts do not fit their header.
std::unique_ptr<BlockFallback> NewChannelFallback(Channel* channel, Device* device);

class DeviceFetch {
 public:
  struct Counts {
    uint64_t over_nccl = 0, over_grpc = 0, misses = 0;  // blocks
    uint64_t fell_back = 0;                             // fetches, of which some or all blocks went over gRPC
  };

  // `link` is null where there is no NCCL. Both outlive this.
  DeviceFetch(DeviceLink* link, BlockFallback* fallback) : link_(link), fallback_(fallback) {}

  Fetched Fetch(absl::Span<const Key> keys, const TakeLanding& take, absl::Time deadline);
  Counts counts() const;

 private:
  void FallBack(absl::Span<const Key> keys, const TakeLanding& take, absl::Time deadline, Fetched* fetched);

  DeviceLink* const link_;
  BlockFallback* const fallback_;
  mutable std::mutex mutex_;
  Counts counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_DEVICE_FETCH_H_
