// Where a node's blocks are found for a transfer from device to device: pinned, in device memory, ready when an event is.
//
// Threads  any number at once. Find does not wait for the device: a block of another tier is copied up behind `ready`.
// Errors   Unavailable  the device has failed; ResourceExhausted  no more may be pinned now. Misses are values.
// Why not BlockStore: its pieces are host memory, which NCCL cannot send.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_BLOCKS_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_BLOCKS_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cachestore/block_store.h"
#include "cachestore/device.h"
#include "cachestore/key.h"
#include "services/transport/nccl/operation.h"

namespace kvist {

struct FoundBlock {
  MissReason miss = MissReason::kNone;
  bool elsewhere = false;             // stored, but it cannot be brought to the device now
  std::vector<DeviceExtent> extents;  // the block's bytes in order; empty unless it is here
  std::shared_ptr<void> pin;          // the extents stay as they are until it is dropped
};

struct FoundBlocks {
  std::vector<FoundBlock> blocks;      // one per key, in order
  std::shared_ptr<DeviceEvent> ready;  // all extents hold their bytes; null = now
};

class TransferBlocks {
 public:
  virtual ~TransferBlocks() = default;
  // At most `room_bytes` in all: blocks beyond are `elsewhere`.
  virtual absl::StatusOr<FoundBlocks> Find(absl::Span<const Key> keys, uint64_t room_bytes) = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_BLOCKS_H_
