// Decodes a ladder tile of mode own at precision 8; the contract is that of simd::DecodeTile.
#ifndef KVIST_KERNELS_SIMD_DECODE_LADDER8_H_
#define KVIST_KERNELS_SIMD_DECODE_LADDER8_H_

#include "kernels/tile.h"

namespace kvist::simd {

void DecodeLadder8(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target);

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_DECODE_LADDER8_H_
