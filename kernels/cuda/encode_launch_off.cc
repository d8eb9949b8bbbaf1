// LaunchEncode and LaunchWrite of a build without CUDA.
#include "kernels/cuda/encode.h"

namespace kvist::cuda {

absl::Status LaunchEncode(const EncodePlan&, const uint8_t*, uint8_t*, void*) {
  return absl::UnimplementedError("built without CUDA");
}

absl::Status LaunchWrite(const EncodeLayout&, void*) { return absl::UnimplementedError("built without CUDA"); }

}  // namespace kvist::cuda
