// Goal    The decode arithmetic that device code uses is the reference's, value by value.
// Method  Host build of the same header: every code, scale byte and channel against tables.h and half.h, and packed
//         transforms against plain ones, with the largest and the hostile values.
#include "kernels/cuda/arithmetic.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kvist::cuda {
namespace {

template <uint32_t kLength>
void ExpectStripUnpacksLikeTheFormat(std::mt19937_64& random) {
  for (int precision : {2, 3, 4}) {
    StripCodes<kLength> strip{};
    std::vector<int> codes(kLength);
    for (uint32_t i = 0; i < kLength; ++i) {
      codes[i] = int(random() % 16);
      const uint32_t p = i < kLength / 2 ? 2 * i : 2 * (i - kLength / 2) + 1;
      const uint32_t byte2 = p % (kLength / 4), at2 = p / (kLength / 4) * 2;
      const uint32_t byte1 = p % (kLength / 8), at1 = p / (kLength / 8);
      strip.p0[byte2 / 4] |= uint32_t(codes[i] >> 2) << (8 * (byte2 % 4) + at2);
      if (precision >= 3) strip.p1[byte1 / 4] |= uint32_t(codes[i] >> 1 & 1) << (8 * (byte1 % 4) + at1);
      if (precision >= 4) strip.p2[byte1 / 4] |= uint32_t(codes[i] & 1) << (8 * (byte1 % 4) + at1);
    }
    std::vector<int> met(kLength, -1000);
    ForEachLevelPair<kLength>(strip, LevelWordsOf(precision), [&](uint32_t i, int32_t first, int32_t second) {
      met[i] = first;
      met[i + kLength / 2] = second;
    });
    for (uint32_t i = 0; i < kLength; ++i) EXPECT_EQ(met[i], LevelsOf(precision)[codes[i]]) << kLength << " " << i;
  }
}

TEST(CudaArithmetic, StripsUnpackAsTheFormatPacksThem) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50; ++round) {
    ExpectStripUnpacksLikeTheFormat<64>(random);
    ExpectStripUnpacksLikeTheFormat<32>(random);
    ExpectStripUnpacksLikeTheFormat<16>(random);
  }
}

TEST(CudaArithmetic, BiasedHalvesAreExactFloats) {
  for (int32_t low = -32768; low <= 32767; low += 1) {
    const int32_t high = -low - 1;
    const uint32_t pair = Pack(low, high) + kPairBias;
    ASSERT_EQ(LowOfBiased(pair), float(low));
    ASSERT_EQ(HighOfBiased(pair), float(high));
  }
}

TEST(CudaArithmetic, CodeBytesAreExactFloats) {
  for (int code = -128; code < 128; ++code) {
    for (uint32_t index = 0; index < 4; ++index) {
      ASSERT_EQ(FloatOfByte(uint32_t(uint8_t(code)) << (8 * index) | (0x5aa5c33cu & ~(0xffu << (8 * index))), index),
                float(code));
    }
  }
}

TEST(CudaArithmetic, PackedPairsTransformLikeSingleValues) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 200; ++round) {
    // The bound of a block of 64, and rounds with nothing but the extremes.
    std::vector<uint32_t> plain(64);
    for (uint32_t& value : plain)
      value = uint32_t(round < 100 ? int(random() % 1017) - 508 : (random() & 1 ? 508 : -508));
    uint32_t packed[32];
    for (int i = 0; i < 32; ++i) packed[i] = PackButterfly(int32_t(plain[i]), int32_t(plain[i + 32]));
    packed[0] += kPairBias;  // reaches every sum once
    Transform<32>(packed);
    Transform<64>(plain.data());
    for (int i = 0; i < 32; ++i) {
      ASSERT_EQ(LowOfBiased(packed[i]), float(int32_t(plain[i])));
      ASSERT_EQ(HighOfBiased(packed[i]), float(int32_t(plain[i + 32])));
    }
  }
}

TEST(CudaArithmetic, NormsAreTheSignOverTheRootOfTheBlock) {
  for (uint32_t head_dim : {64, 80, 96, 128, 256}) {
    const RotationBlocks split = BlocksOf(head_dim);
    for (int b = 0; b < split.count; ++b) {
      for (uint32_t d = split.blocks[b].first; d < split.blocks[b].first + split.blocks[b].length; ++d) {
        ASSERT_EQ(NormOf(head_dim, d), SignOf(d) * split.blocks[b].Norm()) << head_dim << " " << d;
      }
    }
  }
}

TEST(CudaArithmetic, NarrowsPairsAsHalfDoes) {
  for (float value :
       {0.0f, -0.0f, 1.0f, 1.00390625f, 65519.0f, 65520.0f, 3.4e38f, 5.9e-8f, 2.9e-8f, -6.1e-5f, 1e-40f}) {
    EXPECT_EQ(NarrowPair<Dtype::kBf16>(value, -1), Bf16FromFloat(value) | uint32_t{Bf16FromFloat(-1)} << 16);
    EXPECT_EQ(NarrowPair<Dtype::kF16>(value, -1), F16FromFloat(value) | uint32_t{F16FromFloat(-1)} << 16);
  }
}

}  // namespace
}  // namespace kvist::cuda
