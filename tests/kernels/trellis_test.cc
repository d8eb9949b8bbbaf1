// Goal    How near the trellis comes to its values: at least 16.5 dB at 3 bits and 10.95 at 2, on N(0, 1), after its levels
//         were rounded; and paths that end where they start.
// Method  Tiles of unit scales go through the encoder's search; levels are looked up by the states that the codes make.
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/simd/encode_trellis.h"
#include "kernels/tables.h"
#include "kernels/trellis.h"
#include "tests/kernels/targets.h"

namespace kvist {
namespace {

constexpr uint32_t kTokens = 128, kDim = 256;

size_t PositionOf(size_t d) {
  const size_t i = d % kStrip;
  return d / kStrip * kStrip + (i < 32 ? 2 * i : 2 * (i - 32) + 1);
}

struct Found {
  std::vector<float> rotated = std::vector<float>(kTokens * kDim);
  std::vector<uint8_t> codes = std::vector<uint8_t>(kTokens * kDim);
};

Found Search(uint32_t sinks, int bits, uint64_t seed) {
  Found found;
  simd::LadderScales scales{};
  for (auto& scale : scales.token_scales) scale = 128;
  for (auto& scale : scales.channel_scales) scale = 128;
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (float& value : found.rotated) value = normal(random);
  simd::TrellisCodes({kTokens, kDim, Dtype::kBf16}, sinks, scales, bits, found.rotated.data(), found.codes.data());
  return found;
}

struct Sums {
  double x2 = 0, xy = 0, noise = 0;
};

Sums Measure(const Found& found, uint32_t sinks, int bits) {
  Sums sums;
  const size_t rows = kTokens - sinks;
  for (size_t d = 0; d < kDim; ++d) {
    const auto code = [&](size_t row) { return found.codes[row % rows * kDim + PositionOf(d)] >> (8 - bits); };
    for (size_t row = 0; row < rows; ++row) {
      uint32_t state = 0;
      for (size_t back = 6 / bits; back-- > 0;) state = NextState(state, code(row + rows - back), bits);
      const double x = found.rotated[d * kTokens + sinks + row], y = TrellisLevels(bits)[state] * TrellisUnit(bits);
      sums.x2 += x * x;
      sums.xy += x * y;
      sums.noise += (x - y) * (x - y);
    }
  }
  return sums;
}

TEST(Trellis, ReachesItsQualityOnNormalValues) {
  for (uint32_t sinks : {0u, 4u}) {
    for (const auto& [bits, least_db] : {std::pair{3, 16.5}, {2, 10.95}}) {
      Sums all;
      for (uint64_t seed = 1; seed <= 4; ++seed) {
        const Sums sums = Measure(Search(sinks, bits, seed), sinks, bits);
        all = {all.x2 + sums.x2, all.xy + sums.xy, all.noise + sums.noise};
      }
      const double db = 10 * std::log10(all.x2 / all.noise);
      printf("%d bits, %u sinks: %.3f dB\n", bits, sinks, db);
      EXPECT_GT(db, least_db);
      EXPECT_LT(db, least_db + 0.4);
      // What the gain makes up for: values all of it, keys half.
      const double shrinkage = all.xy / all.x2;
      EXPECT_NEAR(shrinkage * TrellisUnitOf(bits, false) / TrellisUnit(bits), 1, 0.003);
      EXPECT_NEAR(shrinkage * TrellisUnitOf(bits, true) / TrellisUnit(bits), (1 + shrinkage) / 2, 0.003);
    }
  }
}

TEST(Trellis, SearchesAlikeOnEveryTarget) {
  for (int bits : {2, 3}) {
    std::vector<std::vector<uint8_t>> codes;
    ForEachTarget([&] { codes.push_back(Search(4, bits, 9).codes); });
    for (const std::vector<uint8_t>& other : codes) EXPECT_EQ(other, codes[0]);
  }
}

}  // namespace
}  // namespace kvist
