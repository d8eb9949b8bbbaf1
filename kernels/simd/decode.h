// The fast decoder: Highway, one body for every target, chosen at run time. Gives the bits of reference/.
#ifndef KVIST_KERNELS_SIMD_DECODE_H_
#define KVIST_KERNELS_SIMD_DECODE_H_

#include "kernels/tile.h"

namespace kvist::simd {

void DecodeTile(const TileView& tile, int bits, Basis basis, const TileRows& out);  // a DecodeTileFunction

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_DECODE_H_
