#include "cachestore/cuda_verdicts.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

std::string Version(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

}  // namespace

bool CudaErrorIsSticky(int error) {
  switch (error) {
    case CudaError::kCudartUnloading:
    case CudaError::kDeviceUninitialized:
    case CudaError::kEccUncorrectable:
    case CudaError::kNvlinkUncorrectable:
    case CudaError::kContained:
    case CudaError::kIllegalAddress:
    case CudaError::kLaunchTimeout:
    case CudaError::kContextIsDestroyed:
    case CudaError::kAssert:
    case CudaError::kHardwareStackError:
    case CudaError::kIllegalInstruction:
    case CudaError::kMisalignedAddress:
    case CudaError::kInvalidAddressSpace:
    case CudaError::kInvalidPc:
    case CudaError::kLaunchFailure:
    case CudaError::kTensorMemoryLeak:
    case CudaError::kMpsClientTerminated:
    case CudaError::kExternalDevice:
    case CudaError::kUnknown:
      return true;
    default:
      return false;
  }
}

absl::Status StatusOfCuda(int error, const std::string& message) {
  if (error == CudaError::kSuccess) return absl::OkStatus();
  if (CudaErrorIsSticky(error)) return absl::UnavailableError(message);
  if (error == CudaError::kMemoryAllocation) return absl::ResourceExhaustedError(message);
  if (error == CudaError::kInvalidValue) return absl::InvalidArgumentError(message);
  return absl::InternalError(message);
}

absl::StatusOr<int> DevicesOf(const DriverAnswer& answer) {
  const std::string runtime = Version(answer.runtime_version), driver = Version(answer.driver_version);
  if (answer.driver_version == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("no CUDA driver here: libcuda.so.1 was not found (built with CUDA ", runtime, ")"));
  }
  if (answer.error == CudaError::kInsufficientDriver) {
    return absl::FailedPreconditionError(
        absl::StrCat("the CUDA driver is too old: it is for CUDA ", driver, ", this was built with ", runtime));
  }
  if (answer.error == CudaError::kNoDevice || (answer.error == CudaError::kSuccess && answer.devices == 0)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the CUDA driver (for CUDA ", driver, ") shows no GPU (see CUDA_VISIBLE_DEVICES)"));
  }
  if (answer.error != CudaError::kSuccess) {
    return absl::UnavailableError(absl::StrCat("the CUDA driver (for CUDA ", driver, ", this was built with ", runtime,
                                               ") does not count its devices: ", answer.error_words));
  }
  return answer.devices;
}

absl::Status CheckOrdinal(int ordinal, int devices) {
  if (ordinal >= 0 && ordinal < devices) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("no GPU ", ordinal, ": there are ", devices, ", numbered 0 to ", devices - 1));
}

bool IsMigSlice(absl::string_view device_name) { return absl::StrContains(device_name, " MIG "); }

absl::Status OutOfDeviceMemory(int ordinal, absl::string_view device_name, uint64_t asked_bytes, uint64_t free_bytes,
                               uint64_t total_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("GPU ", ordinal, " (", device_name, "): ", asked_bytes,
                                                   " bytes were asked, ", free_bytes, " of ", total_bytes,
                                                   " are free"));
}

}  // namespace kvist
