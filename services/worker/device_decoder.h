// Puts the kernels of a decode plan on a stream: the seam between a worker's logic and a GPU. Tests run the same kernels'
// bodies on the CPU.
//
// Threads any. Launch never waits for the device.
// Errors  of Launch: those of cuda::LaunchDecode. What was put on the stream before it may still run.
#ifndef KVIST_SERVICES_WORKER_DEVICE_DECODER_H_
#define KVIST_SERVICES_WORKER_DEVICE_DECODER_H_

#include <memory>

#include "absl/status/status.h"
#include "cachestore/device.h"
#include "kernels/cuda/decode.h"

namespace kvist {

class DeviceDecoder {
 public:
  virtual ~DeviceDecoder() = default;
  // Behind what is on `stream`. `table` holds the plan's table by then; it, `workspace`, blocks and pages stay until the
  // stream has passed.
  virtual absl::Status Launch(const cuda::DecodePlan& plan, DeviceAddress table, DeviceAddress workspace,
                              Stream& stream) = 0;
};

// cuda::LaunchDecode on `device`, which is that of all streams and outlives this.
std::unique_ptr<DeviceDecoder> NewCudaDecoder(Device* device);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DEVICE_DECODER_H_
