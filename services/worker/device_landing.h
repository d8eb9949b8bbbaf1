// Where the encoded blocks of one Get come to lie in device memory before they are decoded: in the lane of the Get, or
// where they are in a node's memory. Internal to services/worker.
//
// Over the wire a block comes into host memory, is verified there, and goes up through the staging; over a direct way it
// is on the device already, and nobody has looked at it.
//
// Threads any, as BlockTarget. After Close nothing is added; Blocks is for the caller of Close.
#ifndef KVIST_SERVICES_WORKER_DEVICE_LANDING_H_
#define KVIST_SERVICES_WORKER_DEVICE_LANDING_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cachestore/staging.h"
#include "services/transport/device_ipc/device_ipc_client.h"
#include "services/transport/nccl/device_link.h"
#include "services/worker/block_target.h"
#include "services/worker/device_lanes.h"
#include "services/worker/node_link.h"

namespace kvist {

enum class BlockWay : uint8_t { kIpc, kNccl, kGrpc, kGroup };

struct LandedBlock {
  absl::InlinedVector<DeviceExtent, 2> extents;  // in order; each begins at a multiple of 64
  BlockWay way = BlockWay::kGrpc;
  std::shared_ptr<NodeLink> node;             // that gave it over a direct way
  std::shared_ptr<const DeviceIpcBlock> ipc;  // its bytes are a node's: they count only if this is held to the end
  std::shared_ptr<void> hold;                 // of other memory than the lane's

  uint64_t size_bytes() const {
    uint64_t size = 0;
    for (const DeviceExtent& extent : extents) size += extent.size_bytes;
    return size;
  }
};

class DeviceLanding final : public BlockTarget {
 public:
  DeviceLanding(std::shared_ptr<Staging> staging, std::shared_ptr<DeviceLane> lane)
      : staging_(std::move(staging)), lane_(std::move(lane)) {}

  std::optional<BlockVerdict> Take(size_t block, absl::Span<const uint8_t> bytes,
                                   const ExpectedBlock& expected) override;
  void Add(size_t block, LandedBlock landed);
  // Of the lane, which it holds.
  absl::StatusOr<Landing> TakeRoom(uint64_t size_bytes);
  void Close() override;

  std::map<size_t, LandedBlock> Blocks();
  bool full();             // some block found no room in the lane
  absl::Status trouble();  // why a block could not be brought to the device, if that failed

 private:
  void NoteTrouble(const absl::Status& status);

  const std::shared_ptr<Staging> staging_;
  std::mutex mutex_;
  std::shared_ptr<DeviceLane> lane_ ABSL_GUARDED_BY(mutex_);  // null when closed
  std::map<size_t, LandedBlock> blocks_ ABSL_GUARDED_BY(mutex_);
  bool full_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status trouble_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DEVICE_LANDING_H_
