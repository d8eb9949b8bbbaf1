// Goal    What the ladder's nested levels cost against quantizers made for one rate: at most 0.12 dB at 2 to 4 bits and 0.4
//         dB at 8.
// Method  A tile of unit scales whose values are a fine grid goes through the encoder's own decisions; the error of each
//         level set is weighted with the density of N(0, 1). What the unbiased gain costs is left out: it is one factor,
//         so the correlation of a value with its level is what counts.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/simd/encode_tile.h"
#include "kernels/tables.h"

namespace kvist {
namespace {

constexpr uint32_t kTokens = 256, kDim = 256, kTiles = 4;
constexpr double kEdge = 6.5;

struct Sums {
  double x2 = 0, xy = 0, y2 = 0;
  double Db() const { return -10 * std::log10(1 - xy * xy / (x2 * y2)); }
};

// By precision. Levels in any unit.
struct Measured {
  Sums at2, at3, at4, at8;
};

void Add(double x, double level, Sums& sums) {
  const double weight = std::exp(-x * x / 2);
  sums.x2 += weight * x * x;
  sums.xy += weight * x * level;
  sums.y2 += weight * level * level;
}

Measured Measure() {
  const simd::TileShape shape = {kTokens, kDim, Dtype::kBf16};
  simd::LadderScales scales{};
  for (auto& scale : scales.token_scales) scale = 128;
  for (auto& scale : scales.channel_scales) scale = 128;
  std::vector<float> rotated(kTokens * kDim);
  std::vector<uint8_t> scratch(rotated.size()), codes(rotated.size());
  Measured measured;
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
    for (size_t d = 0; d < kDim; ++d) {
      for (size_t t = 0; t < kTokens; ++t) {
        const double step = (d * kTokens + t) * kTiles + tile + 0.5;
        rotated[d * kTokens + t] = float((2 * step / (kTokens * kDim * kTiles) - 1) * kEdge);
      }
    }
    simd::LadderCodes(shape, 0, scales, 8, rotated.data(), scratch.data(), codes.data());
    for (size_t d = 0; d < kDim; ++d) {
      const size_t i = d % kStrip, position = d / kStrip * kStrip + (i < 32 ? 2 * i : 2 * (i - 32) + 1);
      for (size_t t = 0; t < kTokens; ++t) {
        const double x = rotated[d * kTokens + t];
        const uint8_t code = codes[t * kDim + position];
        Add(x, Level8(code), measured.at8);
        Add(x, kLevels4[code >> 4], measured.at4);
        Add(x, kLevels3[code >> 4], measured.at3);
        Add(x, kLevels2[code >> 4], measured.at2);
      }
    }
  }
  return measured;
}

// SQNR of Lloyd-Max quantizers of N(0, 1).
constexpr double kBest2 = 9.300, kBest3 = 14.616, kBest4 = 20.222, kBest8 = 43.838;

TEST(Levels, LoseLittleToQuantizersOfOneRate) {
  const Measured measured = Measure();
  EXPECT_GT(measured.at2.Db(), kBest2 - 0.12);
  EXPECT_GT(measured.at3.Db(), kBest3 - 0.12);
  EXPECT_GT(measured.at4.Db(), kBest4 - 0.12);
  EXPECT_GT(measured.at8.Db(), kBest8 - 0.4);
  printf("SQNR at 2, 3, 4, 8 bits: %.3f %.3f %.3f %.3f dB\n", measured.at2.Db(), measured.at3.Db(), measured.at4.Db(),
         measured.at8.Db());
}

TEST(Levels, CarryTheUnbiasedGain) {
  const Measured measured = Measure();
  EXPECT_NEAR(kLevelUnit * measured.at2.xy / measured.at2.x2, 1, 0.004);
  EXPECT_NEAR(kLevelUnit * measured.at3.xy / measured.at3.x2, 1, 0.004);
  EXPECT_NEAR(kLevelUnit * measured.at4.xy / measured.at4.x2, 1, 0.004);
  EXPECT_NEAR(kLevelUnit8 / 4 * measured.at8.xy / measured.at8.x2, 1, 0.001);
}

TEST(Levels, OfEightBitsRiseWithTheCodeAndMirror) {
  for (int code = 1; code < 256; ++code) EXPECT_GT(Level8(uint8_t(code)), Level8(uint8_t(code - 1))) << code;
  for (int code = 0; code < 256; ++code) EXPECT_EQ(Level8(uint8_t(code)), -Level8(uint8_t(255 - code))) << code;
}

}  // namespace
}  // namespace kvist
