#include "kernels/cuda/encode_i8.h"
#include "kernels/cuda/encode_ladder.h"
#include "kernels/cuda/encode_launch.h"
#include "kernels/cuda/encode_write.h"
#include "kernels/cuda/run.cuh"

namespace kvist::cuda {

int LaunchEncodeTiles(const EncodeArguments& arguments, Codec codec, uint32_t items, void* stream) {
  if (codec == Codec::kI8) return Launch<EncodeI8Body>(arguments, items, stream);
  if (codec == Codec::kLadder) return Launch<EncodeLadderBody>(arguments, items, stream);
  return cudaErrorInvalidDeviceFunction;
}

int LaunchCopies(const CopyTask* tasks, uint32_t count, void* stream) { return Launch<CopyBody>(tasks, count, stream); }

int LaunchSeals(const SealTask* tasks, uint32_t count, void* stream) { return Launch<SealBody>(tasks, count, stream); }

}  // namespace kvist::cuda
