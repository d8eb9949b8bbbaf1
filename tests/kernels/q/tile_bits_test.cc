// Goal    Bits go where their lack would cost most; a block that was written with them has exactly these, and what cannot be
//         shared out is refused.
// Method  A profile of made-up sensitivities; every other share of the same mean is tried and costs more.
#include "kernels/tile_bits.h"

#include <cmath>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "kernels/q/profile.h"
#include "tests/kernels/q/synthetic_profile.h"

namespace kvist {
namespace {

using testing::HasSubstr;

// K, V of each layer.
Profile WithSensitivity(const std::vector<std::array<float, 2>>& layers) {
  ProfileFile file = MakeProfileFile({.layers = uint32_t(layers.size())});
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (size_t kv : kSideOrder)
      file.groups[0].layers[layer].sides[kv].sensitivity = {Bf16FromFloat(layers[layer][kv])};
  }
  return ParseProfileOrDie(WriteOrDie(file));
}

int Sum(const std::vector<uint8_t>& bits) { return std::accumulate(bits.begin(), bits.end(), 0); }

TEST(TileBits, NoOtherShareOfTheSameBitsCostsLess) {
  const std::vector<std::array<float, 2>> sensitivities = {{8, 1}, {0.5f, 0.25f}, {30, 2}};
  const Profile profile = WithSensitivity(sensitivities);
  const auto error = [](int bits) { return bits == 2 ? 0.1367 : bits == 3 ? 0.0361 : bits == 4 ? 0.00959 : 0.000043; };
  const auto cost = [&](const std::vector<int>& bits) {
    double sum = 0;
    for (size_t i = 0; i < 6; ++i) sum += std::pow(sensitivities[i / 2][i % 2], 0.75) * error(bits[i]);
    return sum;
  };
  for (int total : {13, 15, 18, 21}) {
    const std::vector<uint8_t> chosen = BitsByTile(profile, Codec::kLadder, float(total) / 6).value();
    const double reached = cost({chosen.begin(), chosen.end()});
    ASSERT_EQ(Sum(chosen), total);
    for (int code = 0; code < 729; ++code) {  // 2, 3 and 4 bits of six sides
      std::vector<int> other;
      for (int i = 0, rest = code; i < 6; ++i, rest /= 3) other.push_back(2 + rest % 3);
      if (other[0] + other[1] + other[2] + other[3] + other[4] + other[5] != total) continue;
      EXPECT_GE(cost(other), reached * 0.999999);
    }
  }
}

TEST(TileBits, AHeadHasTheBitsOfItsOwnSensitivityWhateverItsGroup) {
  ProfileFile file = MakeProfileFile({.layers = 2, .heads = 4, .groups = 2});
  for (ProfileGroup& group : file.groups) {
    for (ProfileLayer& layer : group.layers) layer.sides[0].sensitivity = layer.sides[1].sensitivity = {0, 0};
  }
  file.groups[0].layers[0].sides[0].sensitivity = {Bf16FromFloat(5), 0};
  file.groups[0].layers[1].sides[1].sensitivity = {0, Bf16FromFloat(3)};
  file.groups[1].layers[1].sides[1].sensitivity = {Bf16FromFloat(1), Bf16FromFloat(2)};
  const Profile profile = ParseProfileOrDie(WriteOrDie(file));
  const std::vector<uint8_t> three = {3, 2, 2, 2, 2, 2, 2, 2, /**/ 2, 2, 2, 2, 2, 3, 2, 3};
  EXPECT_EQ(BitsByTile(profile, Codec::kLadder, 2.1875f).value(), three);
  std::vector<uint8_t> four = three;
  four[8 + 4 + 2] = 3;
  EXPECT_EQ(BitsByTile(profile, Codec::kTrellis, 2.25f).value(), four);
}

TEST(TileBits, EightBitsGoToATileThatOutweighsAllOthers) {
  const Profile profile = WithSensitivity({{1000, 0}, {0.001f, 0}, {0.001f, 0}});
  const std::vector<uint8_t> bits = BitsByTile(profile, Codec::kLadder, 3.0f).value();
  EXPECT_EQ(bits[0], 8);
  EXPECT_EQ(bits[1], 2);
  EXPECT_EQ(Sum(bits), 18);
}

TEST(TileBits, TheEndsOfTheRangeAreTheSameForAll) {
  const Profile profile = WithSensitivity({{4, 1}, {3, 2}});
  EXPECT_EQ(BitsByTile(profile, Codec::kLadder, 2).value(), (std::vector<uint8_t>{2, 2, 2, 2}));
  EXPECT_EQ(BitsByTile(profile, Codec::kLadder, 8).value(), (std::vector<uint8_t>{8, 8, 8, 8}));
  EXPECT_EQ(BitsByTile(profile, Codec::kTrellis, 2.5f).value(), (std::vector<uint8_t>{3, 2, 3, 2}));
  EXPECT_EQ(BitsByTile(profile, Codec::kTrellis, 7).value(), (std::vector<uint8_t>{8, 3, 8, 8}));
}

TEST(TileBits, WhatCannotBeSharedOutIsRefused) {
  const Profile profile = WithSensitivity({{4, 1}, {3, 2}});
  const auto refusal = [&](Codec codec, float mean) { return BitsByTile(profile, codec, mean).status().ToString(); };
  EXPECT_EQ(refusal(Codec::kI8, 8), "INVALID_ARGUMENT: mean_bits: codes of i8 all have one length");
  EXPECT_EQ(refusal(Codec::kLadder, 1.9f), "INVALID_ARGUMENT: mean_bits 1.9; ladder has 2 to 8");
  EXPECT_EQ(refusal(Codec::kTrellis, 8.5f), "INVALID_ARGUMENT: mean_bits 8.5; trellis has 2 to 8");
  EXPECT_THAT(refusal(Codec::kLadder, NAN), HasSubstr("mean_bits nan"));
  EXPECT_EQ(BitsByTile(WithSensitivity({{0, 0}}), Codec::kLadder, 3).status().ToString(),
            "FAILED_PRECONDITION: mean_bits: the profile does not say how sensitive its heads are; calibrate anew");
}

}  // namespace
}  // namespace kvist
