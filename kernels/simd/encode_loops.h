// The encoder's loops over a tile of floats, compiled once per CPU target and chosen at run time.
//
// Shapes  a tile is float[tokens][head_dim], row-major, head_dim a multiple of 16.
// Threads pure.
// Accuracy the order of every sum is fixed (sixteen partial sums a row), so that all targets give the same bits.
#ifndef KVIST_KERNELS_SIMD_ENCODE_LOOPS_H_
#define KVIST_KERNELS_SIMD_ENCODE_LOOPS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/block_format.h"

namespace kvist::simd {

// Widens a row of 16-bit values; false if one is NaN or Inf.
bool WidenRow(Dtype dtype, const uint16_t* bits, size_t n, float* out);
// In place: signs and orthonormal Walsh-Hadamard, block by block, as RotationNorms says.
void RotateRow(float* row, size_t head_dim);
// out[d] = mean over tokens of tile[t][d].
void ChannelMeans(const float* tile, size_t tokens, size_t head_dim, float* out);
// squares[t][d] = (tile[t][d] - mean[d])^2.
void CentredSquares(const float* tile, const float* mean, size_t tokens, size_t head_dim, float* squares);
// out[d] = mean over tokens of squares[t][d] * weight[t].
void WeightedChannelMeans(const float* squares, const float* weight, size_t tokens, size_t head_dim, float* out);
// out[t] = mean over channels of squares[t][d] * weight[d].
void WeightedTokenMeans(const float* squares, const float* weight, size_t tokens, size_t head_dim, float* out);
// codes[d] = the cell (0..15) of (row[d] - mean[d]) * inverse_channel[d] * inverse_token among the ladder's thresholds.
void CellsOfRow(const float* row, const float* mean, const float* inverse_channel, float inverse_token, size_t n, uint8_t* codes);
// codes[d] = row[d] * inverse_scale to nearest, ties to even, within -127..127.
void Int8Row(const float* row, float inverse_scale, size_t n, int8_t* codes);
float MaxAbs(const float* row, size_t n);
// Packs 256 codes of 4 bits into 64 + 32 + 32 bytes: FORMAT.md, "Planes of the ladder".
void PackStrip(const uint8_t* codes, uint8_t* two, uint8_t* one, uint8_t* last);
// Adds a row's energy and the energy of its difference from `decoded`.
void AddErrors(const float* row, const float* decoded, size_t n, double* signal, double* noise);

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_ENCODE_LOOPS_H_
