// The scalar oracle: FORMAT.md, "Arithmetic", line by line. Slow and readable; the fast targets must give the same
// bits.
#ifndef KVIST_KERNELS_REFERENCE_DECODE_TILE_H_
#define KVIST_KERNELS_REFERENCE_DECODE_TILE_H_

#include "kernels/tile.h"

namespace kvist::reference {

void DecodeTile(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target);

}  // namespace kvist::reference

#endif  // KVIST_KERNELS_REFERENCE_DECODE_TILE_H_
