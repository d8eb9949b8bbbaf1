// What to make of the answers of the CUDA runtime: pure decisions, by number, so that they are tested where there is neither
// a GPU nor a toolkit. cuda_device.cc holds the numbers against NVIDIA's header when it is compiled.
//
// Units   versions as CUDA counts them: 13000 is 13.0.
// Threads pure functions.
#ifndef KVIST_CACHESTORE_CUDA_VERDICTS_H_
#define KVIST_CACHESTORE_CUDA_VERDICTS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvist {

struct CudaError {
  static constexpr int kSuccess = 0;
  static constexpr int kInvalidValue = 1;
  static constexpr int kMemoryAllocation = 2;
  static constexpr int kCudartUnloading = 4;
  static constexpr int kInsufficientDriver = 35;
  static constexpr int kNoDevice = 100;
  static constexpr int kDeviceUninitialized = 201;
  static constexpr int kEccUncorrectable = 214;
  static constexpr int kNvlinkUncorrectable = 220;
  static constexpr int kContained = 226;
  static constexpr int kIllegalAddress = 700;
  static constexpr int kLaunchTimeout = 702;
  static constexpr int kContextIsDestroyed = 709;
  static constexpr int kAssert = 710;
  static constexpr int kHardwareStackError = 714;
  static constexpr int kIllegalInstruction = 715;
  static constexpr int kMisalignedAddress = 716;
  static constexpr int kInvalidAddressSpace = 717;
  static constexpr int kInvalidPc = 718;
  static constexpr int kLaunchFailure = 719;
  static constexpr int kTensorMemoryLeak = 721;
  static constexpr int kMpsClientTerminated = 810;
  static constexpr int kExternalDevice = 911;
  static constexpr int kUnknown = 999;
};

// Whether the error ends the context: the runtime gives it to every later call of the process.
bool CudaErrorIsSticky(int error);

// Of a call that failed: Unavailable when the device has failed for good, ResourceExhausted without memory (the device is
// whole), InvalidArgument, or Internal.
absl::Status StatusOfCuda(int error, const std::string& message);

// What the runtime says when it is asked for devices.
struct DriverAnswer {
  int driver_version = 0;   // 0: there is no driver
  int runtime_version = 0;  // of the build
  int error = 0;            // of cudaGetDeviceCount
  std::string error_words = {};
  int devices = 0;
};
// How many devices there are: at least one.
// Errors: FailedPrecondition  no driver, one that is older than the runtime, or no GPU; the message has both versions.
//         Unavailable         anything else that the driver says.
absl::StatusOr<int> DevicesOf(const DriverAnswer& answer);

// InvalidArgument: no such device; the message says how many there are.
absl::Status CheckOrdinal(int ordinal, int devices);

// Whether a device is a MIG slice, by its name ("NVIDIA H100 80GB HBM3 MIG 1g.10gb").
//
// Why by the name: the runtime has no field for it (13.0: none in cudaDeviceProp, no attribute), and a slice's UUID has 16
// bytes like any other. NVML knows (nvmlDeviceIsMigDeviceHandle), at the price of one more library to find; and what is at
// stake is the text of a refusal, since CUDA IPC and NCCL refuse a slice on their own.
bool IsMigSlice(absl::string_view device_name);

// ResourceExhausted, with what was asked and what is free.
absl::Status OutOfDeviceMemory(int ordinal, absl::string_view device_name, uint64_t asked_bytes, uint64_t free_bytes,
                               uint64_t total_bytes);

}  // namespace kvist

#endif  // KVIST_CACHESTORE_CUDA_VERDICTS_H_
