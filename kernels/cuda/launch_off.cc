// LaunchDecode of a build without CUDA.
#include "kernels/cuda/decode.h"

namespace kvist::cuda {

absl::Status LaunchDecode(const DecodePlan&, const uint8_t*, uint8_t*, void*) {
  return absl::UnimplementedError("built without CUDA");
}

}  // namespace kvist::cuda
