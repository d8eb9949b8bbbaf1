// Decodes one tile with the widest vectors of the CPU (AVX-512, AVX2; anything less runs the reference). Bit-identical
// to reference/ on every input: integer up to the last three float operations, each rounded by itself.
//
// Threads pure; the CPU is asked once.
#ifndef KVIST_KERNELS_SIMD_DECODE_TILE_H_
#define KVIST_KERNELS_SIMD_DECODE_TILE_H_

#include "kernels/tile.h"

namespace kvist::simd {

// REQUIRES: if parameters.stream, every row of every tile starts at a multiple of 64 bytes.
void DecodeTile(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target);

// Orders streamed stores before later ones; to be called once after the last tile.
void FinishStreaming();

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_DECODE_TILE_H_
