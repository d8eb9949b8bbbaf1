// What stands in for cuda_device.cc in a build without a toolkit (--config=cpu).
#include "cachestore/cuda_device.h"

namespace kvist {

absl::StatusOr<std::unique_ptr<Device>> OpenCudaDevice(int /*ordinal*/) {
  return absl::FailedPreconditionError("built without CUDA: build without --config=cpu to use a GPU");
}

}  // namespace kvist
