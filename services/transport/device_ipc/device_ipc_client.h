// The worker's end: maps the node's device memory once, and finds blocks in it. What it gives out are addresses in this
// process; the worker verifies and decodes from them with its own kernels.
//
// Threads every method from any thread; one request is on the socket at a time. A block may outlive its client.
// Errors  Unavailable         the node has gone, or the client gave it up: make another.
//         DeadlineExceeded    the node did not answer in time; the client stays usable.
//         FailedPrecondition  refused: another release, another GPU, too many workers. The node's sentence says which.
//         A miss is a value.
#ifndef KVIST_SERVICES_TRANSPORT_DEVICE_IPC_DEVICE_IPC_CLIENT_H_
#define KVIST_SERVICES_TRANSPORT_DEVICE_IPC_DEVICE_IPC_CLIENT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/block_store.h"
#include "cachestore/device.h"
#include "cachestore/device_blocks.h"
#include "cachestore/key.h"

namespace kvist {

// A block of the node, where it lies. Unpinned when destroyed.
class DeviceIpcBlock {
 public:
  virtual ~DeviceIpcBlock() = default;
  virtual uint64_t size_bytes() const = 0;
  virtual absl::Span<const DeviceExtent> extents() const = 0;
  // Whether the bytes were the block's all the while until now. To be asked when the kernels that read them are done
  // (their event): if it is not OK, what they wrote must not be used, and the block counts as missed.
  // Errors: Unavailable       the node has gone.
  //         DeadlineExceeded  the pin's time was over.
  virtual absl::Status StillHeld() const = 0;
};

struct DeviceIpcLookup {
  std::unique_ptr<DeviceIpcBlock> block;
  bool in_host_memory = false;          // the node has it, not on the device: read it over gRPC
  MissReason miss = MissReason::kNone;  // where it is neither
};

class DeviceIpcClient {
 public:
  // `device` outlives the client and its blocks.
  static absl::StatusOr<std::unique_ptr<DeviceIpcClient>> Connect(const std::string& path, Device* device,
                                                                  absl::Duration deadline);
  virtual ~DeviceIpcClient() = default;
  // One lookup a key, in their order. REQUIRES: at most kMaxDeviceGetKeys keys, else InvalidArgument.
  virtual absl::StatusOr<std::vector<DeviceIpcLookup>> Get(absl::Span<const Key> keys, absl::Duration deadline) = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_DEVICE_IPC_DEVICE_IPC_CLIENT_H_
