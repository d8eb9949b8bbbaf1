// Goal    Conversions between f32 and the 16-bit types are IEEE 754 round to nearest even.
// Method  Every 16-bit pattern survives a round trip; midpoints between neighbours go to the even one, and what lies
//         just beside a midpoint goes to the nearer one.
#include "kernels/half.h"

#include <cmath>

#include "gtest/gtest.h"

namespace kvist {
namespace {

class Halves : public testing::TestWithParam<Dtype> {};

TEST_P(Halves, EveryFinitePatternSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if (!IsFinite(uint16_t(bits), GetParam())) continue;
    ASSERT_EQ(Narrow(Widen(uint16_t(bits), GetParam()), GetParam()), bits);
  }
}

TEST_P(Halves, MidpointsGoToTheEvenNeighbour) {
  for (uint32_t bits = 0; bits < 0x7fff; ++bits) {
    if (!IsFinite(uint16_t(bits + 1), GetParam())) break;
    const float low = Widen(uint16_t(bits), GetParam()), high = Widen(uint16_t(bits + 1), GetParam());
    const float middle = low / 2 + high / 2;
    if (double{middle} * 2 != double{low} + high) continue;  // no f32 between two subnormal bf16 values
    const uint16_t even = uint16_t(bits + (bits & 1));
    ASSERT_EQ(Narrow(middle, GetParam()), even) << bits;
    ASSERT_EQ(Narrow(-middle, GetParam()), even | 0x8000) << bits;
    if (std::nextafterf(middle, low) == low || std::nextafterf(middle, high) == high) continue;
    ASSERT_EQ(Narrow(std::nextafterf(middle, low), GetParam()), bits);
    ASSERT_EQ(Narrow(std::nextafterf(middle, high), GetParam()), bits + 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Halves, testing::Values(Dtype::kBf16, Dtype::kF16));

TEST(Half, F16OverflowIsInfinityFromHalfwayToTheNextPower) {
  EXPECT_EQ(F16FromFloat(65504), 0x7bff);
  EXPECT_EQ(F16FromFloat(std::nextafterf(65520, 0)), 0x7bff);
  EXPECT_EQ(F16FromFloat(65520), 0x7c00);
  EXPECT_EQ(F16FromFloat(-1e30f), 0xfc00);
}

TEST(Half, F16UnderflowIsASignedZero) {
  EXPECT_EQ(F16FromFloat(0x1p-25f), 0);
  EXPECT_EQ(F16FromFloat(std::nextafterf(0x1p-25f, 1)), 1);
  EXPECT_EQ(F16FromFloat(-0x1p-26f), 0x8000);
  EXPECT_EQ(F16FromFloat(0x1.8p-24f), 2);
}

}  // namespace
}  // namespace kvist
