#include "kernels/cuda/checksum.h"
#include "kernels/cuda/decode_plain.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/resolve.h"
#include "kernels/cuda/run.cuh"

namespace kvist::cuda {
namespace {

template <template <uint32_t> class Body>
int LaunchFor(uint32_t head_dim, const DecodeArguments& arguments, uint32_t items, void* stream) {
  switch (head_dim) {
    case 64:
      return Launch<Body<64>>(arguments, items, stream);
    case 80:
      return Launch<Body<80>>(arguments, items, stream);
    case 96:
      return Launch<Body<96>>(arguments, items, stream);
    case 128:
      return Launch<Body<128>>(arguments, items, stream);
    case 256:
      return Launch<Body<256>>(arguments, items, stream);
  }
  return cudaErrorInvalidDeviceFunction;
}

}  // namespace

int LaunchChecks(const DecodeTables& tables, const CheckSizes& sizes, void* stream) {
  const size_t status_bytes = sizes.blocks * sizeof(uint32_t);
  int error = cudaMemsetAsync(tables.status, 0, status_bytes, static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) error = Launch<SumKibsBody>(tables, sizes.sum_items, stream);
  constexpr uint32_t kPieces = ComparePiecesBody::kPieces;
  if (error == cudaSuccess) {
    error = Launch<ComparePiecesBody>({tables, sizes.pieces}, (sizes.pieces + kPieces - 1) / kPieces, stream);
  }
  if (error == cudaSuccess) error = Launch<ResolveBody>(tables, sizes.layers, stream);
  return error;
}

int LaunchPlain(const DecodeTables& tables, Codec codec, uint32_t head_dim, uint32_t first_item, uint32_t items,
                void* stream) {
  const DecodeArguments arguments = {tables, first_item};
  if (codec == Codec::kI8) return LaunchFor<DecodeI8Body>(head_dim, arguments, items, stream);
  if (codec == Codec::kRaw16) return LaunchFor<DecodeRaw16Body>(head_dim, arguments, items, stream);
  return cudaErrorInvalidDeviceFunction;
}

const char* ErrorText(int error) { return cudaGetErrorString(cudaError_t(error)); }

}  // namespace kvist::cuda
