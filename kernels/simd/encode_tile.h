// The hot loops of the encoder: plain loops compiled for the CPU's vectors, one arithmetic on all of them.
//
// Shapes  rotated  f32 [head_dim][tokens]: transposed, so that every step runs along the tokens.
//         values   u16 [tokens][head_dim], contiguous.
// Units   counts. Scales are bytes of FORMAT.md, "Log scales".
// Threads pure functions; scratch memory is passed in.
// Accuracy sums have a fixed order (16 partial sums), so that every target of a build writes the same block. FORMAT.md
//          does not promise that: only decoding is part of the format.
#ifndef KVIST_KERNELS_SIMD_ENCODE_TILE_H_
#define KVIST_KERNELS_SIMD_ENCODE_TILE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/block_format.h"

namespace kvist::simd {

struct TileShape {
  uint32_t tokens, head_dim;
  Dtype dtype;
};

// The side numbers of one own-mode ladder tile. token_scales[t] of a sink is unused.
struct LadderScales {
  uint8_t token_scales[256], channel_scales[256], mean_scale;
  int8_t mean_codes[256];
};

// Squared differences of two tiles, and whether any pair of values differs.
struct TileError {
  double signal = 0, noise = 0;
  bool identical = false, finite = true;  // finite: of `decoded`
};

bool AllFinite(const TileShape& shape, const uint16_t* values);

// rotated = R * values, by token.
void Rotate(const TileShape& shape, const uint16_t* values, float* rotated);

// Fits channel and token scales (eight Sinkhorn passes over the squares) and, if `keep_mean`, the channel means, over
// the tokens from `sinks` on. `squares` is scratch of the same size as `rotated`.
void FitScales(const TileShape& shape, uint32_t sinks, bool keep_mean, const float* rotated, float* squares,
               LadderScales& scales);

// Nearest codes for the quantized scales, at [tokens][head_dim] in the byte positions of FORMAT.md, "Packing". The lower
// four bits stay zero unless `bits` is 8. `scratch` holds tokens * head_dim bytes.
void LadderCodes(const TileShape& shape, uint32_t sinks, const LadderScales& scales, int bits, const float* rotated,
                 uint8_t* scratch, uint8_t* codes);

// Packs `rows` rows of positioned 8-bit codes into P0 to P3, as far as `planes` are not null.
void PackPlanes(const TileShape& shape, uint32_t rows, const uint8_t* codes, uint8_t* const planes[4]);

// Rows [1 + head_dim] of the first `count` tokens: log scale, then codes of the rotated vector.
void WideRows(const TileShape& shape, uint32_t count, const float* rotated, uint8_t* out);

// i8: a log scale and head_dim codes by token, and their errors, as Compare would measure them. False if a value is not
// finite: nothing that was written then means anything.
bool I8Rows(const TileShape& shape, const uint16_t* values, uint8_t* token_scales, uint8_t* codes, TileError& error);

TileError Compare(const TileShape& shape, const uint16_t* values, const uint16_t* decoded);

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_ENCODE_TILE_H_
