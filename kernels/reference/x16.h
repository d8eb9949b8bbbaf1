// x16 by the scalar oracle: FORMAT.md, "x16", line by line.
#ifndef KVIST_KERNELS_REFERENCE_X16_H_
#define KVIST_KERNELS_REFERENCE_X16_H_

#include "kernels/tile.h"

namespace kvist::reference {

// REQUIRES: a tile of mode kOwn that CheckX16Escapes has passed.
void DecodeX16(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target);

}  // namespace kvist::reference

#endif  // KVIST_KERNELS_REFERENCE_X16_H_
