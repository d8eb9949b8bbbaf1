// Finds a tile's trellis codes: for each channel, the path through the states with the least squared error, which ends in
// the state that it starts from.
//
// Shapes, units, threads, accuracy: as encode_tile.h.
#ifndef KVIST_KERNELS_SIMD_ENCODE_TRELLIS_H_
#define KVIST_KERNELS_SIMD_ENCODE_TRELLIS_H_

#include "kernels/simd/encode_tile.h"

namespace kvist::simd {

// Codes of `bits` bits for the quantized scales, in the uppermost bits of bytes at [tokens - sinks][head_dim] in the byte
// positions of FORMAT.md, "Packing".
void TrellisCodes(const TileShape& shape, uint32_t sinks, const LadderScales& scales, int bits, const float* rotated,
                  uint8_t* codes);

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_ENCODE_TRELLIS_H_
