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

// What a channel's multiplier stands for; zero for a channel too small to be kept.
constexpr float EffectiveScale(uint8_t u, uint32_t head_dim) {
  return float(ChannelMultiplier(u, head_dim)) * MultiplierScale(head_dim);
}

// Eight boundaries 2^((2i + 1) / 16) between log scales, as bits.
constexpr uint32_t LogBoundary(int i) {
  constexpr uint32_t kBoundaries[8] = {0x3f85aac3, 0x3f91c3d3, 0x3f9ef532, 0x3fad583f,
                                       0x3fbd08a4, 0x3fce248c, 0x3fe0ccdf, 0x3ff5257d};
  return kBoundaries[i];
}

// The u with s(u) nearest to `value` on the log axis, clamped; 0 for anything that is not above zero.
constexpr uint8_t NearestLogScale(float value) {
  if (!(value > LogScale(0))) return 0;
  if (!(value < LogScale(255))) return 255;
  const uint32_t bits = std::bit_cast<uint32_t>(value), mantissa = (bits & 0x7fffff) | 0x3f800000;
  int u = (int(bits >> 23) - 127 + 16) * 8;
  for (int i = 0; i < 8; ++i) u += mantissa > LogBoundary(i);
  return uint8_t(u < 0 ? 0 : u > 255 ? 255 : u);
}

// The least u with 127 * s(u) >= absmax; 255 if there is none. 127 * s(u) are eight mantissas, one after the other, in every
// power of two: how many of them lie below that of absmax is all that is asked.
constexpr uint8_t CoveringLogScale(float absmax) {
  if (!(absmax > 127.0f * LogScale(0))) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(absmax), mantissa = bits & 0x7fffff;
  int u = (int(bits >> 23) - 127 - 7 + 16) * 8 + 1;  // 127 s(u) of u = 8 * 16 + 1 is the first from 2^7 on
  for (int i = 1; i <= 8; ++i) {
    u += mantissa > (std::bit_cast<uint32_t>(127.0f * LogScale(uint8_t(128 + i))) & 0x7fffff);
  }
  return uint8_t(u > 255 ? 255 : u);
}

}  // namespace kvist

#endif  // KVIST_KERNELS_ENCODE_SCALES_H_
