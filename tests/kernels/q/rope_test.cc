// Goal    Angles are the same bits everywhere, near the truth at every position, and turning is undone by Unturn.
// Method  Vectors from vectors.py (computed there from FORMAT.md alone), the C library's long double, round trips.
#include "kernels/q/rope.h"

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kvist {
namespace {

constexpr uint64_t kSeed = 20261129;

struct Vector {
  uint32_t position;
  uint64_t turns;
  float factor;
  uint32_t cos, sin;
};
constexpr Vector kVectors[] = {
    {0u, 0x28be60db939105bdu, 1.0f, 0x3f800000, 0x00000000},
    {0u, 0x28be60db939105bdu, 1.25f, 0x3fa00000, 0x00000000},
    {0u, 0x684dc4c179c52eu, 1.0f, 0x3f800000, 0x00000000},
    {0u, 0x684dc4c179c52eu, 1.25f, 0x3fa00000, 0x00000000},
    {0u, 0x2ab90b5e672u, 1.0f, 0x3f800000, 0x00000000},
    {0u, 0x2ab90b5e672u, 1.25f, 0x3fa00000, 0x00000000},
    {1u, 0x28be60db939105bdu, 1.0f, 0x3f0a5140, 0x3f576aa4},
    {1u, 0x28be60db939105bdu, 1.25f, 0x3f2ce590, 0x3f86a2a6},
    {1u, 0x684dc4c179c52eu, 1.0f, 0x3f7ffcb9, 0x3c23d657},
    {1u, 0x684dc4c179c52eu, 1.25f, 0x3f9ffdf4, 0x3c4ccbed},
    {1u, 0x2ab90b5e672u, 1.0f, 0x3f800000, 0x358637bd},
    {1u, 0x2ab90b5e672u, 1.25f, 0x3fa00000, 0x35a7c5ac},
    {7u, 0x28be60db939105bdu, 1.0f, 0x3f40ffbd, 0x3f283046},
    {7u, 0x28be60db939105bdu, 1.25f, 0x3f713fac, 0x3f523c58},
    {7u, 0x684dc4c179c52eu, 1.0f, 0x3f7f5f81, 0x3d8f3e32},
    {7u, 0x684dc4c179c52eu, 1.25f, 0x3f9f9bb1, 0x3db30dbe},
    {7u, 0x2ab90b5e672u, 1.0f, 0x3f800000, 0x36eae18b},
    {7u, 0x2ab90b5e672u, 1.25f, 0x3fa00000, 0x3712ccf7},
    {100003u, 0x28be60db939105bdu, 1.0f, 0x3f7bfc0f, 0xbe34a7ab},
    {100003u, 0x28be60db939105bdu, 1.25f, 0x3f9d7d89, 0xbe61d196},
    {100003u, 0x684dc4c179c52eu, 1.0f, 0x3f098e06, 0x3f57e783},
    {100003u, 0x684dc4c179c52eu, 1.25f, 0x3f2bf188, 0x3f86f0b2},
    {100003u, 0x2ab90b5e672u, 1.0f, 0x3f7eb893, 0x3dcc7707},
    {100003u, 0x2ab90b5e672u, 1.25f, 0x3f9f335c, 0x3dff94c9},
    {4294967295u, 0x28be60db939105bdu, 1.0f, 0xbf5e3104, 0x3efe4c74},
    {4294967295u, 0x28be60db939105bdu, 1.25f, 0xbf8adea2, 0x3f1eefc8},
    {4294967295u, 0x684dc4c179c52eu, 1.0f, 0x3cd6c165, 0xbf7fe97a},
    {4294967295u, 0x684dc4c179c52eu, 1.25f, 0x3d0638df, 0xbf9ff1ec},
    {4294967295u, 0x2ab90b5e672u, 1.0f, 0xbf6ac4d6, 0xbecc270e},
    {4294967295u, 0x2ab90b5e672u, 1.25f, 0xbf92bb06, 0xbeff30d2},
};

TEST(Rope, GivesTheBitsOfTheSpecification) {
  for (const Vector& vector : kVectors) {
    const CosSin got = CosSinAt(vector.position, vector.turns, vector.factor);
    EXPECT_EQ(std::bit_cast<uint32_t>(got.cos), vector.cos) << vector.position << " * " << vector.turns;
    EXPECT_EQ(std::bit_cast<uint32_t>(got.sin), vector.sin) << vector.position << " * " << vector.turns;
  }
}

TEST(Rope, IsNearTheTruthInEveryQuadrant) {
  std::mt19937_64 random(kSeed);
  for (int i = 0; i < 20000; ++i) {
    const uint32_t position = uint32_t(random());
    const uint64_t turns = random();
    const long double angle = std::ldexp(2 * 3.14159265358979323846264338327950288L, -64) * (position * turns);
    const CosSin got = CosSinAt(position, turns, 1);
    EXPECT_NEAR(got.cos, std::cos(angle), 0x1p-24) << "seed " << kSeed << ", " << i;
    EXPECT_NEAR(got.sin, std::sin(angle), 0x1p-24) << "seed " << kSeed << ", " << i;
  }
}

TEST(Rope, TurnsPairsOfEachStyleAndUnturnsThem) {
  for (const RopeStyle style : {RopeStyle::kHalves, RopeStyle::kInterleaved}) {
    const std::vector<CosSin> quarter_and_none = {{0, 2}, {2, 0}};  // factor 2
    std::vector<float> row = {1, 2, 3, 4};
    Turn(style, quarter_and_none, absl::MakeSpan(row));
    const std::vector<float> turned = style == RopeStyle::kHalves ? std::vector<float>{-6, 4, 2, 8}   // (1, 3), (2, 4)
                                                                  : std::vector<float>{-4, 2, 6, 8};  // (1, 2), (3, 4)
    EXPECT_EQ(row, turned);
    Unturn(style, quarter_and_none, absl::MakeSpan(row));
    EXPECT_EQ(row, (std::vector<float>{1, 2, 3, 4}));
  }
}

}  // namespace
}  // namespace kvist
