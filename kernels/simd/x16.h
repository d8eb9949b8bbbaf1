// x16 with the widest vectors of the CPU: one table look-up a value. Decodes bit-identically to reference/.
//
// Shapes  values  u16 [tokens][head_dim], contiguous; low u8 [tokens][head_dim]; codes u8 [tokens][head_dim / 2].
// Threads pure functions.
// Why     Of real KV one value in 5,000 is escaped, one strip of 64 in 70: a strip with an escape is put together value by
//         value, the others never look.
#ifndef KVIST_KERNELS_SIMD_X16_H_
#define KVIST_KERNELS_SIMD_X16_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/simd/encode_tile.h"
#include "kernels/tile.h"

namespace kvist::simd {

// REQUIRES: a tile of mode kOwn that CheckX16Escapes has passed; of `parameters.stream` as DecodeTile.
void DecodeX16(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target);

// Codes that are kX16Escape, of two a byte. REQUIRES: `size_bytes` is a multiple of 128, as of a tile.
size_t CountEscapes(const uint8_t* codes, size_t size_bytes);

// The own form of a tile, with the 15 commonest exponents (of equally common ones the smaller). Returns false, and leaves
// what it writes undefined, if too many values have other exponents (kX16MostEscapes).
bool EncodeX16(const TileShape& shape, const uint16_t* values, std::vector<uint8_t>& record, uint8_t* low,
               uint8_t* codes);

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_X16_H_
