// A profile of no model, and values for it, that cost codec q what those of a real model do: for benchmarks, which must not
// depend on a profile that somebody made.
//
// Why     SmolLM2's shape (30 layers, 3 heads of 64). What speed depends on was measured with profiles of that model and two
//         blocks each of four texts: LOCAL 1.46 bits a value, 0.93 symbols and 0.32 coefficients that are not 0, 1.2 % escapes;
//         DEEP 0.95, 0.87, 0.21 and 0.2 %, with predictors of which 77 (V) and 85 (K) of 100 numbers are 0. Classes fall with
//         the rows as they do there, tokens differ in their steps by a few halves of a power of two as they do there.
#ifndef KVIST_TESTS_KERNELS_Q_MODEL_LIKE_H_
#define KVIST_TESTS_KERNELS_Q_MODEL_LIKE_H_

#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/block_format.h"
#include "kernels/half.h"
#include "tests/kernels/q/synthetic_profile.h"

namespace kvist {

inline constexpr float kImportance = 0.03f;  // of each channel, in deviations: a token's weight is e^-2, times e^+-2
inline constexpr float kSpread = 0.62f;      // the mean magnitude of a class whose deviation is 1

enum class ModelLike { kLocal, kDeep };

// Classes at the first row, at each quarter of the rows, and at the last.
using ClassFall = std::array<float, 5>;
inline constexpr ClassFall kLocalFall = {36, 21, 16, 11, 3}, kDeepFall = {31, 17, 12.5f, 8, 0};
inline constexpr uint32_t kDeepZerosOf100[] = {85, 77};

inline ProfileFile ModelLikeProfileFile(ModelLike kind) {
  const bool deep = kind == ModelLike::kDeep;
  ProfileFile file = MakeProfileFile({.layers = 30,
                                      .heads = 3,
                                      .layers_between_resets = deep ? 0u : 1u,
                                      .layers_before = deep ? 1u : 0u,
                                      .key_from_value = deep});
  std::mt19937_64 random(1);
  const size_t width = file.facts.Width();
  for (ProfileLayer& layer : file.groups[0].layers) {
    for (size_t kv : kSideOrder) {
      ProfileSide& side = layer.sides[kv];
      const ClassFall& fall = deep ? kDeepFall : kLocalFall;
      for (size_t row = 0; row < width; ++row) {
        const float at = 4 * float(row) / float(width);
        const size_t quarter = size_t(at);
        side.base_classes[row] =
            int8_t(std::lround(fall[quarter] + (at - float(quarter)) * (fall[quarter + 1] - fall[quarter])));
      }
      for (int8_t& code : side.predictor.codes) {
        code = random() % 100 < kDeepZerosOf100[kv] ? int8_t(0) : int8_t(1 + random() % 15);
      }
      for (uint8_t& scale : side.predictor.row_scales) scale = 128 - 88;  // 2^-11
      std::fill(side.own.begin(), side.own.end(), uint16_t(0));
      for (size_t i = 0; i < 2 * width; ++i) {
        side.own[1 + 2 * file.facts.heads + i] = Bf16FromFloat((random() & 1) != 0 ? kImportance : -kImportance);
        layer.deviations[i] = Bf16FromFloat(file.facts.step * std::exp2(float(side.base_classes[i % width]) / 4 - 4));
      }
      side.around[0] = Bf16FromFloat(-2);
    }
  }
  return file;
}

inline float Laplace(std::mt19937_64& random, float mean_magnitude) {
  std::exponential_distribution<float> magnitude(1 / mean_magnitude);
  return (random() & 1) != 0 ? magnitude(random) : -magnitude(random);
}

// One block as an engine has it: what the predictors say of the layers before, and coefficients drawn from the classes.
// REQUIRES: at most one layer before predicts.
inline std::vector<uint16_t> DrawValues(const Profile& profile, const BlockShape& shape, uint32_t first_position) {
  const ProfileFacts& facts = profile.facts();
  const size_t width = facts.Width(), dim = shape.head_dim;
  std::mt19937_64 random(2);
  std::vector<uint16_t> values(shape.Elements());
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    std::vector<CosSin> angles;
    for (const uint64_t turns : facts.turns) angles.push_back(CosSinAt(first_position + t, turns, facts.rope_factor));
    std::array<std::vector<float>, 2> before;
    for (uint32_t layer = 0; layer < shape.layers; ++layer) {
      std::array<std::vector<float>, 2> own;
      for (const size_t kv : kSideOrder) {
        const HeadGroup::Side& side = profile.groups()[0].layer(layer).sides[kv];
        std::vector<float> row(width);
        const float* predictor = side.predictor.data();
        const auto add = [&](const std::vector<float>& factors, const float* matrix) {
          for (size_t i = 0; i < width; ++i) {
            for (size_t j = 0; j < width; ++j) row[j] += factors[i] * matrix[i * width + j];
          }
        };
        for (uint32_t source = 0; source < 2 * facts.Before(layer); ++source, predictor += width * width) {
          add(before[source], predictor);
        }
        if (kv == 0 && facts.key_from_value) add(own[1], predictor);
        std::vector<float> coefficients(width);
        for (size_t c = 0; c < width; ++c) {
          const float steps = std::exp2(float(side.base_classes[c]) / 4 - 4);
          coefficients[c] = Laplace(random, kSpread * facts.step * steps);
        }
        add(coefficients, side.synthesis.data());
        own[kv] = row;
        for (size_t i = 0; i < width; ++i) row[i] += side.mean[i];
        for (size_t head = 0; head < shape.heads; ++head) {
          const absl::Span<float> of_head = absl::MakeSpan(row).subspan(head * dim, dim);
          if (kv == 0) Turn(facts.rope, angles, of_head);
          uint16_t* out = &values[(((kv * shape.layers + layer) * shape.heads + head) * shape.tokens + t) * dim];
          for (size_t d = 0; d < dim; ++d) out[d] = Narrow(of_head[d], shape.dtype);
        }
      }
      before = own;
    }
  }
  return values;
}

}  // namespace kvist

#endif  // KVIST_TESTS_KERNELS_Q_MODEL_LIKE_H_
