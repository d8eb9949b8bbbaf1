// Goal    What vectors make of a stream and of its numbers is what the oracle makes of them, bit by bit, whatever they are.
// Method  Profiles whose sides differ in all that a fast path looks at: coded rows, classes, zeros of predictors, scale of the
//         values; streams of coefficients of any size, read alone and in pairs, cut at every byte, and of random bytes. Each
//         stream lies in memory of its own length, so that a sanitizer sees a read beyond it.
#include <algorithm>
#include <cmath>
#include <random>

#include "gtest/gtest.h"
#include "kernels/q/coefficients.h"
#include "kernels/reference/q.h"
#include "kernels/simd/q.h"
#include "tests/kernels/q/synthetic_profile.h"
#include "tests/kernels/targets.h"

namespace kvist {
namespace {

constexpr uint64_t kSeed = 20261129;

// Sides with `coded` of 128 rows at most, classes around a number of their own, and mostly zeros in their predictors.
HeadGroup UnevenGroup(float step, uint64_t seed) {
  ProfileFile file = MakeProfileFile(
      {.layers = 4, .heads = 1, .head_dim = 128, .layers_between_resets = 0, .layers_before = 1, .step = step});
  std::mt19937_64 random(seed);
  for (ProfileLayer& layer : file.groups[0].layers) {
    for (ProfileSide& side : layer.sides) {
      const int highest = int(random() % 50);
      side.coded_rows = uint16_t(random() % 129);
      for (int8_t& base : side.base_classes) base = int8_t(highest - int(random() % 30));
      for (int8_t& code : side.predictor.codes) code = random() % 4 == 0 ? int8_t(random() % 255 - 127) : int8_t(0);
    }
  }
  return ParseProfileOrDie(WriteOrDie(file)).groups()[0];
}

// Most coefficients small, some that need an escape, and the largest there is.
LayerCoefficients RandomCoefficients(const HeadGroup& group, uint32_t layer, size_t tokens, std::mt19937_64& random) {
  LayerCoefficients coefficients;
  for (size_t kv : kSideOrder) {
    const HeadGroup::Side& side = group.layer(layer).sides[kv];
    for (size_t t = 0; t < tokens; ++t) {
      const int step = random() % 10 == 0 ? int(random() % 32) - 8 : int(random() % 4) - 2;
      coefficients[kv].steps.push_back(int8_t(step));
      for (size_t c = 0; c < side.coded_rows; ++c) {
        const uint64_t kind = random() % 100;
        const int32_t largest = kind < 60 ? 0 : kind < 90 ? 3 : kind < 97 ? 20 : kind < 99 ? 3000 : kMostCoefficient;
        const int32_t q = int32_t(random() % (2 * largest + 1)) - largest;
        coefficients[kv].q.push_back(ClassOf(side.base_classes[c], step, 0) == 0 ? 0 : q);
      }
    }
  }
  return coefficients;
}

void ExpectSameRows(const SparseRows& got, const SparseRows& expected) {
  ASSERT_EQ(got.counts, expected.counts);
  for (size_t t = 0; t < expected.counts.size(); ++t) {
    for (size_t i = t * expected.width; i < t * expected.width + expected.counts[t]; ++i) {
      ASSERT_EQ(got.factors[i], expected.factors[i]) << "token " << t;
      ASSERT_EQ(got.offsets[i], expected.offsets[i]) << "token " << t;
    }
  }
}

// Reads the streams of neighbouring layers with the oracle and with every target: the same word, and the same rows if it is
// a good one.
absl::Status ReadWithAll(const HeadGroup& group, uint32_t layer, size_t tokens,
                         const std::vector<std::vector<uint8_t>>& streams) {
  std::vector<absl::Span<const uint8_t>> spans(streams.begin(), streams.end());
  std::array<LayerRows, 2> expected;
  const auto of = [&](std::array<LayerRows, 2>& rows) { return absl::MakeSpan(rows).first(streams.size()); };
  const absl::Status status = reference::ReadRows(group, layer, tokens, spans, of(expected));
  ForEachTarget([&] {
    std::array<LayerRows, 2> got;
    EXPECT_EQ(simd::Q().read_rows(group, layer, tokens, spans, of(got)), status);
    for (size_t i = 0; status.ok() && i < streams.size(); ++i) {
      for (size_t kv : kSideOrder) ExpectSameRows(got[i][kv], expected[i][kv]);
    }
  });
  return status;
}

TEST(QStream, AnyCoefficientsAreReadAloneAndInPairs) {
  std::mt19937_64 random(kSeed);
  for (uint64_t round = 0; round < 20; ++round) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", round " + std::to_string(round));
    const HeadGroup group = UnevenGroup(0.05f, kSeed + round);
    const CoefficientWriter writer(group);
    const size_t tokens = 16 * (1 + random() % 3);
    std::vector<std::vector<uint8_t>> streams;
    for (uint32_t layer = 0; layer < 4; ++layer) {
      streams.push_back(writer.Write(layer, tokens, RandomCoefficients(group, layer, tokens, random)));
    }
    streams[round % 4] = {};  // zeros
    for (uint32_t layer = 0; layer < 4; ++layer) {
      EXPECT_TRUE(ReadWithAll(group, layer, tokens, {streams[layer]}).ok());
      if (layer == 3) continue;
      EXPECT_TRUE(ReadWithAll(group, layer, tokens, {streams[layer], streams[layer + 1]}).ok());
    }
  }
}

TEST(QStream, EveryCutAndEveryLongerStreamIsRefusedWithTheOraclesWord) {
  std::mt19937_64 random(kSeed);
  const HeadGroup group = UnevenGroup(0.05f, kSeed);
  const CoefficientWriter writer(group);
  const std::vector<uint8_t> good = writer.Write(1, 16, RandomCoefficients(group, 1, 16, random));
  const std::vector<uint8_t> other = writer.Write(2, 16, RandomCoefficients(group, 2, 16, random));
  ASSERT_GT(good.size(), 200u);
  for (size_t size = 1; size < good.size(); size += size < 100 || good.size() - size < 100 ? 1 : 13) {
    const std::vector<uint8_t> cut(good.begin(), good.begin() + size);
    EXPECT_EQ(ReadWithAll(group, 1, 16, {cut}).code(), absl::StatusCode::kDataLoss) << size;
    EXPECT_EQ(ReadWithAll(group, 1, 16, {cut, other}).code(), absl::StatusCode::kDataLoss) << size;
  }
  std::vector<uint8_t> longer = good;
  longer.push_back(0);
  EXPECT_EQ(ReadWithAll(group, 1, 16, {longer, other}).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReadWithAll(group, 0, 16, {{}, longer}).code(), absl::StatusCode::kDataLoss);
}

TEST(QStream, AnyBytesAreReadToTheirEnd) {
  std::mt19937_64 random(kSeed);
  const HeadGroup group = UnevenGroup(0.05f, kSeed);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::vector<uint8_t>> streams(2);
    for (std::vector<uint8_t>& stream : streams) {
      stream.resize(1 + random() % 2000);
      for (uint8_t& byte : stream) byte = uint8_t(random());
      if (random() % 2 == 0)
        std::fill_n(stream.begin(), std::min<size_t>(stream.size(), 64), uint8_t(0));  // states of 0
    }
    EXPECT_FALSE(ReadWithAll(group, 1, 32, streams).ok()) << "seed " << kSeed << ", round " << round;
  }
}

// Sources of one scale, some of them 0, and those that a list of a predictor's numbers would be wrong for.
std::vector<SideValues> RandomSources(size_t tokens, size_t width, float scale, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<SideValues> sources(3);
  for (SideValues& source : sources) {
    for (size_t i = 0; i < tokens * width; ++i) {
      source.rows.push_back(random() % 4 == 0 ? 0.0f : scale * normal(random));
    }
  }
  return sources;
}

TEST(QArithmetic, PredictionsAreTheOraclesForEveryScaleOfTheirSources) {
  std::mt19937_64 random(kSeed);
  const HeadGroup group = UnevenGroup(0.05f, kSeed);
  const HeadGroup::Side& side = group.layer(2).sides[0];  // K: predicted from K and V of layer 1, and from V
  for (const float scale : {1.0f, 0x1p-62f, 0x1p-100f, 0x1p-140f, 0x1p100f, 0x1p126f, INFINITY, NAN}) {
    for (const size_t tokens : {16, 48, 112, 256}) {
      std::vector<SideValues> sources = RandomSources(tokens, 128, scale, random);
      SideValues expected;
      reference::Predict(side, tokens, {&sources[0], &sources[1], &sources[2]}, expected);
      ForEachTarget([&] {
        SideValues got;
        for (SideValues& source : sources) simd::Q().prepare_source(tokens, 128, source);
        simd::Q().predict(side, tokens, {&sources[0], &sources[1], &sources[2]}, got);
        ASSERT_EQ(got.rows.size(), expected.rows.size());
        for (size_t i = 0; i < expected.rows.size(); ++i) {
          const bool both_nan = std::isnan(got.rows[i]) && std::isnan(expected.rows[i]);
          ASSERT_TRUE(both_nan || std::bit_cast<uint32_t>(got.rows[i]) == std::bit_cast<uint32_t>(expected.rows[i]))
              << "scale " << scale << ", " << tokens << " tokens, element " << i;
        }
      });
    }
  }
}

TEST(QArithmetic, HeadsAreWrittenAsTheOracleDoesWithNanAndInfinityAmongThem) {
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  for (const uint32_t head_dim : {64, 80, 96, 128, 256}) {
    for (const RopeStyle rope : {RopeStyle::kNone, RopeStyle::kHalves, RopeStyle::kInterleaved}) {
      const ProfileFile file = MakeProfileFile({.head_dim = head_dim, .rope = rope});
      constexpr size_t kTokens = 16;
      const Angles angles = BlockAngles(file.facts, 777, kTokens);
      std::vector<float> mean(head_dim), centred(kTokens * head_dim);
      for (float& value : mean) value = normal(random);
      for (float& value : centred) value = normal(random) * std::exp2(float(random() % 60) - 30);
      centred[3 * head_dim + 5] = NAN;
      centred[4 * head_dim + 6] = INFINITY;
      centred[5 * head_dim + 7] = 3.3e38f;
      for (const Dtype dtype : {Dtype::kBf16, Dtype::kF16}) {
        const HeadRows rows = {mean.data(), centred.data(), head_dim, rope, angles, head_dim, dtype, 2, kTokens};
        std::vector<uint16_t> expected(kTokens * head_dim, 0x5555);
        reference::WriteRows(rows, {expected.data(), head_dim});
        ForEachTarget([&] {
          std::vector<uint16_t> got(kTokens * head_dim, 0x5555);
          simd::Q().write_rows(rows, {got.data(), head_dim});
          EXPECT_EQ(got, expected) << head_dim;
        });
      }
    }
  }
}

}  // namespace
}  // namespace kvist
