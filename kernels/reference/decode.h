// The scalar oracle: plain code to be read beside FORMAT.md. Every faster decoder must give the same bits.
#ifndef KVIST_KERNELS_REFERENCE_DECODE_H_
#define KVIST_KERNELS_REFERENCE_DECODE_H_

#include "kernels/tile.h"

namespace kvist::reference {

void DecodeTile(const TileView& tile, int bits, Basis basis, const TileRows& out);  // a DecodeTileFunction

}  // namespace kvist::reference

#endif  // KVIST_KERNELS_REFERENCE_DECODE_H_
