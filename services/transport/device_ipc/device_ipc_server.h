// The node's end: lets workers on its host read blocks in device memory, where they are. A worker maps the memory once
// (CUDA IPC) and then asks which extents hold a block; each answer pins the block for a time.
//
// Life     a worker's pins end with its Unpin, with their deadline, or with its socket, whichever is first: a worker that
//          dies costs nothing, one that stops costs `pinned_for`.
// Why sure a worker trusts what it decoded only if it still held the pin afterwards (device_ipc_client.h), so a pin whose
//          deadline has passed cannot become a wrong value.
// Threads  one of its own, which does everything and never waits for a worker.
// Refused  another protocol or device, a second hello, what is no message: a sentence says why, then the socket closes.
#ifndef KVIST_SERVICES_TRANSPORT_DEVICE_IPC_DEVICE_IPC_SERVER_H_
#define KVIST_SERVICES_TRANSPORT_DEVICE_IPC_DEVICE_IPC_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/device.h"
#include "cachestore/device_blocks.h"

namespace kvist {

inline constexpr uint32_t kDeviceIpcProtocol = 1;
inline constexpr size_t kMaxDeviceGetKeys = 256;

struct DeviceIpcOptions {
  std::string path;  // of the Unix socket
  size_t max_workers = 64;
  size_t max_pins = 4096;  // of one worker; a block beyond that is answered as in host memory
  absl::Duration pinned_for = absl::Seconds(5);
};

struct DeviceIpcCounters {
  uint64_t workers = 0, pins = 0;                      // now
  uint64_t blocks = 0, expired_pins = 0, refused = 0;  // since the start: given out, taken back, workers turned away
};

class DeviceIpcServer {
 public:
  // `memory` is where the extents of `blocks` lie. All three outlive the server.
  // Errors: as ListenUnix; FailedPrecondition where the device cannot share memory (MIG).
  static absl::StatusOr<std::unique_ptr<DeviceIpcServer>> Start(const DeviceIpcOptions& options, Device* device,
                                                                const DeviceMemory* memory, DeviceBlocks* blocks);
  virtual ~DeviceIpcServer() = default;  // ends all pins and removes the socket
  virtual DeviceIpcCounters counters() const = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_DEVICE_IPC_DEVICE_IPC_SERVER_H_
