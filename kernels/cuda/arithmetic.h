// FORMAT.md, "Arithmetic", for host and device: the same lines run in the kernels and in the CPU tests.
//
// Shapes  a strip is FORMAT.md's: 64 channels, or the 16 or 32 that end a row of 80 or 96.
// Units   a packed pair holds two integers (low, high) as low + 65536 * high modulo 2^32; a biased pair has 32768 added
//         to both, so that its halves are two uint16.
// Threads pure functions.
// Accuracy bit for bit that of reference/decode_tile.cc. Compile with --fmad=false (nvcc) and -ffp-contract=off.
// Why     The transform is linear, so 32-bit additions transform two 16-bit values at once (both results fit 16 bits:
//         FORMAT.md's proof, and with the code -128 of a hostile wide row they still do, since the first code of a row
//         is never negated: at most 127 + 255 * 128 = 32767, at least -32768). Hopper adds 64 integers a clock and SM
//         but 128 floats: integers are what a decode kernel runs out of first.
#ifndef KVIST_KERNELS_CUDA_ARITHMETIC_H_
#define KVIST_KERNELS_CUDA_ARITHMETIC_H_

#include <bit>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/half.h"
#include "kernels/tables.h"

namespace kvist::cuda {

inline constexpr uint32_t kPairBias = 0x80008000u;

// Two values narrowed to `kDtype`, the first in the low half. REQUIRES: no NaN.
template <Dtype kDtype>
KVIST_HD uint32_t NarrowPair(float low, float high) {
#if defined(__CUDA_ARCH__)
  // One instruction each; to nearest even, subnormals kept, overflow to infinity (PTX ISA, cvt.rn).
  uint32_t bits;
  if constexpr (kDtype == Dtype::kBf16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    std::memcpy(&bits, &pair, sizeof(bits));
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    std::memcpy(&bits, &pair, sizeof(bits));
  }
  return bits;
#else
  return Narrow(low, kDtype) | uint32_t{Narrow(high, kDtype)} << 16;
#endif
}

// The halves of a biased pair as exact floats: their bits become the low mantissa bits of 2^23 + half.
KVIST_HD float LowOfBiased(uint32_t pair) {
  return std::bit_cast<float>(BytePermute(pair, 0x4b000000u, 0x7610)) - 8421376.0f;  // 2^23 + 2^15
}
KVIST_HD float HighOfBiased(uint32_t pair) {
  return std::bit_cast<float>(BytePermute(pair, 0x4b000000u, 0x7632)) - 8421376.0f;
}

// Byte `index` of a word of int8 codes, as float: exact in the same way.
KVIST_HD float FloatOfByte(uint32_t codes, uint32_t index) {
  const uint32_t biased = BytePermute(codes ^ 0x80808080u, 0x4b000000u, 0x7540 + index);
  return std::bit_cast<float>(biased) - 8388736.0f;  // 2^23 + 2^7
}

// The levels of a precision as four words of four int8, by code.
struct LevelWords {
  uint32_t word[4];
};
constexpr LevelWords LevelWordsOf(int precision) {
  LevelWords result{};
  const int8_t* levels = LevelsOf(precision);
  for (int i = 0; i < 16; ++i) result.word[i / 4] |= uint32_t(uint8_t(levels[i])) << (8 * (i % 4));
  return result;
}

// Levels of the four codes in the low nibbles of `codes`, one a byte: a lookup in each half of the table, and a choice
// by the highest bit of each code.
KVIST_HD uint32_t FourLevels(const LevelWords& levels, uint32_t codes) {
  const uint32_t index = codes & 0x7777;
  const uint32_t upper = BytePermute(0x0000ff00, 0, codes >> 3 & 0x1111);
  return (BytePermute(levels.word[2], levels.word[3], index) & upper) |
         (BytePermute(levels.word[0], levels.word[1], index) & ~upper);
}

KVIST_HD int32_t SignedByte(uint32_t word, int index) { return int8_t(word >> (8 * index)); }

// A code's integer value (FORMAT.md, "Ladder"): v[d].
KVIST_HD int32_t OwnValue(int32_t level, int32_t multiplier) { return (level * multiplier + 64) >> 7; }

// The planes of one row's strip of kLength channels. Absent planes are zero. A strip of 16 keeps its two bytes of P1
// and of P2 in the low half of their word.
template <uint32_t kLength>
struct StripCodes {
  static constexpr uint32_t kWords = kLength / 16;                          // of P0
  static constexpr uint32_t kBitWords = kLength == 64 ? 2 : 1;              // of P1, P2
  static constexpr uint32_t kBytes = kLength / 4, kBitBytes = kLength / 8;  // in a plane's row
  uint32_t p0[kWords], p1[kBitWords], p2[kBitWords];
};

// A word of a one-bit plane, shifted so that bit 0 and bit 4 of its bytes are the bits of the positions whose P0 codes
// are at bits 0 and 4 of word `j`.
template <uint32_t kLength>
KVIST_HD uint32_t BitsBeside(const uint32_t* plane, uint32_t j) {
  if constexpr (kLength == 64) return plane[j & 1] >> (j >> 1);
  if constexpr (kLength == 32) return plane[0] >> j;
  return plane[0] | plane[0] >> 1 << 16;
}

// Eight codes as nibbles: nibble 2b + h is the code at position p = kLength / 4 * (odd + 2h) + 4j + b.
template <uint32_t kLength>
KVIST_HD uint32_t EightCodes(const StripCodes<kLength>& strip, uint32_t j, uint32_t odd) {
  const uint32_t two = odd != 0 ? strip.p0[j] : strip.p0[j] << 2;
  const uint32_t p1 = BitsBeside<kLength>(strip.p1, j) >> (2 * odd), p2 = BitsBeside<kLength>(strip.p2, j) >> (2 * odd);
  return (two & 0xcccccccc) | (p1 << 1 & 0x22222222) | (p2 & 0x11111111);
}

// Calls visit(i, level of channel i, level of channel i + kLength / 2) for i = 0 .. kLength / 2 - 1 of a strip.
// Positions 2i and 2i + 1 are those two channels, and they stand in neighbouring bytes.
template <uint32_t kLength, typename Visit>
KVIST_HD void ForEachLevelPair(const StripCodes<kLength>& strip, const LevelWords& levels, const Visit& visit) {
  constexpr uint32_t kWords = kLength / 16;
  uint32_t low[kWords][2], high[kWords][2];  // levels of bytes 0, 1 and 2, 3 of word j, for positions `odd` and odd + 2
  KVIST_UNROLL
  for (uint32_t j = 0; j < kWords; ++j) {
    KVIST_UNROLL
    for (uint32_t odd = 0; odd < 2; ++odd) {
      const uint32_t codes = EightCodes<kLength>(strip, j, odd);
      low[j][odd] = FourLevels(levels, codes);
      high[j][odd] = FourLevels(levels, codes >> 16);
    }
  }
  KVIST_UNROLL
  for (uint32_t q = 0; q < 4; ++q) {
    KVIST_UNROLL
    for (uint32_t j = 0; j < kWords; ++j) {
      const uint32_t i = kLength / 8 * q + 2 * j, first = low[j][q & 1], second = high[j][q & 1];
      visit(i, SignedByte(first, q / 2), SignedByte(first, 2 + q / 2));
      visit(i + 1, SignedByte(second, q / 2), SignedByte(second, 2 + q / 2));
    }
  }
}

// (a, b) packed; and the first butterfly of a transform on the way: (a + b, a - b).
KVIST_HD uint32_t Pack(int32_t low, int32_t high) { return uint32_t(low) + (uint32_t(high) << 16); }
KVIST_HD uint32_t PackButterfly(int32_t a, int32_t b) { return uint32_t(a) * 65537u - uint32_t(b) * 65535u; }

// Unnormalised transform of kCount values (a power of two), in place, natural order. Unsigned: wrapping is defined.
template <uint32_t kCount>
KVIST_HD void Transform(uint32_t* values) {
  KVIST_UNROLL
  for (uint32_t half = 1; half < kCount; half *= 2) {
    KVIST_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      if ((i & half) != 0) continue;
      const uint32_t a = values[i], b = values[i + half];
      values[i] = a + b;
      values[i + half] = a - b;
    }
  }
}

// The signs of channels 64 * index to 64 * index + 63 as bits: SignOf without a table.
constexpr uint64_t SignWord(uint32_t index) {
  if (index == 0) return 0xaa39268a22a07822;
  if (index == 1) return 0x8b357def518c2b38;
  return index == 2 ? 0x8bc9c7ce27aea4dc : 0x43a71e1b98d02037;
}

// N[d] of FORMAT.md for a channel of a row of `head_dim`.
constexpr float NormOf(uint32_t head_dim, uint32_t channel) {
  const RotationBlocks split = BlocksOf(head_dim);
  const float norm = (channel < split.blocks[0].length ? split.blocks[0] : split.blocks[1]).Norm();
  return (SignWord(channel / 64) >> (channel % 64) & 1) != 0 ? -norm : norm;
}

// The scale S of a row with codes, and of the mean: both factors exact before they meet the scale.
KVIST_HD float OwnRowScale(uint8_t scale, uint32_t head_dim) {
  return LogScale(scale) * (kLevelUnit * HeadroomScale(head_dim));
}
KVIST_HD float MeanScale(uint8_t scale, uint32_t head_dim) { return LogScale(scale) * MultiplierScale(head_dim); }

// x of FORMAT.md from an integer that is exact as float: each operation rounds by itself.
template <Basis kBasis>
KVIST_HD float Scaled(float value, float norm, float scale) {
  if constexpr (kBasis == Basis::kOriginal) value = value * norm;
  return value * scale;
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ARITHMETIC_H_
