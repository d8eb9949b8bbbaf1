// A real accelerator: Device over the CUDA runtime, which is linked statically and looks for the driver when it is called.
//
// Threads OpenCudaDevice from any thread. Every call makes its device the current one of the thread that makes it.
// Errors  of OpenCudaDevice, each with what to do about it:
//         FailedPrecondition  built without CUDA, no driver, a driver older than the runtime, or no GPU.
//         InvalidArgument     no such ordinal; the message says how many there are.
//         Unavailable         the device is there and does not answer.
//         Later, in the words of device.h. An error that poisons the context (an illegal address, a launch that failed,
//         memory that cannot be corrected) is sticky: the runtime gives it to every later call, and so do we. Any other
//         is the caller's own and leaves the device whole. cuda_verdicts.h decides which is which.
//
// Why no context of our own: kernels, NCCL and engines in one process use the primary one, and memory is shared only
// within it.
#ifndef KVIST_CACHESTORE_CUDA_DEVICE_H_
#define KVIST_CACHESTORE_CUDA_DEVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cachestore/device.h"

namespace kvist {

absl::StatusOr<std::unique_ptr<Device>> OpenCudaDevice(int ordinal);

}  // namespace kvist

#endif  // KVIST_CACHESTORE_CUDA_DEVICE_H_
