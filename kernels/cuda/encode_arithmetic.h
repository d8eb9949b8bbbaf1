// The encoder's codes, for host and device; its scales are those of kernels/encode_scales.h.
//
// Units   scales are bytes of FORMAT.md, "Log scales".
// Threads pure functions.
// Accuracy the same operations in the same order as the loops of simd/encode_tile.h, so that device and CPU write the same block.
//         Comparisons are written out: what a NaN does in std::min is part of the result (values near the largest overflow
//         when they are rotated; such a tile misses its floor, but on both sides with the same sums).
#ifndef KVIST_KERNELS_CUDA_ENCODE_ARITHMETIC_H_
#define KVIST_KERNELS_CUDA_ENCODE_ARITHMETIC_H_

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/encode_scales.h"
#include "kernels/half.h"
#include "kernels/tables.h"

namespace kvist::cuda {

KVIST_HD float Magnitude(float value) { return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0x7fffffff); }
KVIST_HD float Larger(float a, float b) { return a < b ? b : a; }  // std::max(a, b)

KVIST_HD float SumInOrder(const float* sums) {
  float total = 0;
  for (uint32_t j = 0; j < kPartialSums; ++j) total += sums[j];
  return total;
}

// Nearest integer, ties to even, from -127 to 127; some code for NaN too.
KVIST_HD int8_t CodeOf(float value, float inverse) {
  const float scaled = value * inverse, above = -127.0f < scaled ? scaled : -127.0f;
  const float clamped = above < 127.0f ? above : 127.0f;
  return int8_t((clamped + 12582912.0f) - 12582912.0f);
}

// How many decision thresholds lie below the magnitude, mirrored for negative values.
KVIST_HD uint8_t NearestLevel(float value) {
  constexpr float kBelow[7] = {kThresholds[0], kThresholds[1], kThresholds[2], kThresholds[3],
                               kThresholds[4], kThresholds[5], kThresholds[6]};
  const float magnitude = Magnitude(value);
  int above = 0;
  KVIST_UNROLL
  for (int i = 0; i < 7; ++i) above += magnitude > kBelow[i];
  return uint8_t(value < 0 ? 7 - above : 8 + above);
}

KVIST_HD int32_t LevelOf(uint32_t code) {
  constexpr int8_t kAbove[8] = {kLevels4[8],  kLevels4[9],  kLevels4[10], kLevels4[11],
                                kLevels4[12], kLevels4[13], kLevels4[14], kLevels4[15]};
  return code < 8 ? -kAbove[7 - code] : kAbove[code - 8];
}

// FORMAT.md, "Packing".
KVIST_HD uint32_t PositionOf(uint32_t channel, uint32_t head_dim) {
  const uint32_t first = channel / kStrip * kStrip, left = head_dim - first, length = left < kStrip ? left : kStrip;
  const uint32_t i = channel - first;
  return first + (i < length / 2 ? 2 * i : 2 * (i - length / 2) + 1);
}

// Byte `index` of a row of plane 1, 2 or 3, from the row's 4-bit codes by position.
KVIST_HD uint8_t PlaneByte(const uint8_t* codes, uint32_t head_dim, int plane, uint32_t index) {
  const uint32_t bits = plane == 1 ? 2 : 1, shift = plane == 1 ? 2 : plane == 2 ? 1 : 0;
  const uint32_t strip = index / (kStrip * bits / 8) * kStrip, left = head_dim - strip;
  const uint32_t run = (left < kStrip ? left : kStrip) * bits / 8, j = index - strip * bits / 8;
  uint32_t byte = 0;
  for (uint32_t q = 0; q < 8 / bits; ++q) {
    byte |= (uint32_t{codes[strip + q * run + j]} >> shift & ((1u << bits) - 1)) << (q * bits);
  }
  return uint8_t(byte);
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_ARITHMETIC_H_
