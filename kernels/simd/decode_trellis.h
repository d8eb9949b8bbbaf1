// Decodes a trellis tile of mode own; the contract is that of simd::DecodeTile.
#ifndef KVIST_KERNELS_SIMD_DECODE_TRELLIS_H_
#define KVIST_KERNELS_SIMD_DECODE_TRELLIS_H_

#include "kernels/tile.h"

namespace kvist::simd {

void DecodeTrellis(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target);

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_DECODE_TRELLIS_H_
