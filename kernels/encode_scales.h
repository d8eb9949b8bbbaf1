// What the encoder chooses, the same on every CPU and on the device: scales on FORMAT.md's log axis, and the numbers of its
// search. The format allows other choices; two encoders that make these write the same block.
//
// Units   scales are bytes of FORMAT.md, "Log scales".
// Threads constants and pure functions.
#ifndef KVIST_KERNELS_ENCODE_SCALES_H_
#define KVIST_KERNELS_ENCODE_SCALES_H_

#include <bit>
#include <cstdint>

#include "kernels/tables.h"

namespace kvist {

// Partial sums of a row or column, added in order at the end. Tokens and head_dim are multiples of it.
inline constexpr uint32_t kPartialSums = 16;
inline constexpr int kSinkhornPasses = 8;
// A channel's scale is at least this part of its mean, so that the mean's code fits beside it; at 1/100 the noise that
// this adds is 50 dB below the mean.
inline constexpr float kLeastScaleOfMean = 0.01f;

// The u with s(u) nearest to `value` on the log axis, clamped; 0 for anything that is not above zero.
constexpr uint8_t NearestLogScale(float value) {
  if (!(value > LogScale(0))) return 0;
  if (!(value < LogScale(255))) return 255;
  // Eight boundaries 2^((2i + 1) / 16) in the mantissa.
  constexpr uint32_t kBoundaries[8] = {0x3f85aac3, 0x3f91c3d3, 0x3f9ef532, 0x3fad583f,
                                       0x3fbd08a4, 0x3fce248c, 0x3fe0ccdf, 0x3ff5257d};
  const uint32_t bits = std::bit_cast<uint32_t>(value), mantissa = (bits & 0x7fffff) | 0x3f800000;
  int u = (int(bits >> 23) - 127 + 16) * 8;
  for (int i = 0; i < 8; ++i) u += mantissa > kBoundaries[i];
  return uint8_t(u < 0 ? 0 : u > 255 ? 255 : u);
}

// The least u with 127 * s(u) >= absmax.
constexpr uint8_t CoveringLogScale(float absmax) {
  int u = NearestLogScale(absmax / 127.0f);
  while (u < 255 && 127.0f * LogScale(uint8_t(u)) < absmax) ++u;
  while (u > 0 && 127.0f * LogScale(uint8_t(u - 1)) >= absmax) --u;
  return uint8_t(u);
}

}  // namespace kvist

#endif  // KVIST_KERNELS_ENCODE_SCALES_H_
