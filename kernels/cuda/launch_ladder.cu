#include "kernels/cuda/decode_ladder.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/run.cuh"

namespace kvist::cuda {
namespace {

template <Basis kBasis>
int LaunchFor(uint32_t head_dim, const DecodeArguments& arguments, uint32_t items, void* stream) {
  switch (head_dim) {
    case 64:
      return Launch<DecodeLadderBody<64, kBasis>>(arguments, items, stream);
    case 80:
      return Launch<DecodeLadderBody<80, kBasis>>(arguments, items, stream);
    case 96:
      return Launch<DecodeLadderBody<96, kBasis>>(arguments, items, stream);
    case 128:
      return Launch<DecodeLadderBody<128, kBasis>>(arguments, items, stream);
    case 256:
      return Launch<DecodeLadderBody<256, kBasis>>(arguments, items, stream);
  }
  return cudaErrorInvalidDeviceFunction;
}

}  // namespace

int LaunchLadder(const DecodeTables& tables, Basis basis, uint32_t head_dim, uint32_t first_item, uint32_t items,
                 void* stream) {
  const DecodeArguments arguments = {tables, first_item};
  if (basis == Basis::kKeptRotated) return LaunchFor<Basis::kKeptRotated>(head_dim, arguments, items, stream);
  return LaunchFor<Basis::kOriginal>(head_dim, arguments, items, stream);
}

}  // namespace kvist::cuda
