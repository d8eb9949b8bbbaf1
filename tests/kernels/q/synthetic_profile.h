// Profiles of no model: random matrices that can be inverted well, tables of a falling density.
#ifndef KVIST_TESTS_KERNELS_Q_SYNTHETIC_PROFILE_H_
#define KVIST_TESTS_KERNELS_Q_SYNTHETIC_PROFILE_H_

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/half.h"
#include "kernels/q/profile.h"

namespace kvist {

struct SyntheticProfile {
  uint32_t layers = 2, heads = 1, head_dim = 64;
  uint32_t layers_between_resets = 1, layers_before = 0;  // LOCAL; DEEP is 0 and 2
  bool key_from_value = true;
  RopeStyle rope = RopeStyle::kHalves;
  float step = 0.05f;
  uint64_t seed = 20261129;
  uint32_t groups = 1;
};

// Of a class whose values are 2^(c / 4 - 4) steps large in the mean.
inline void FillClass(size_t c, uint16_t* frequencies) {
  const double mean = std::max(std::exp2(double(c) / 4 - 4), 0.15);
  double sum = 1;
  for (int q = 1; q < 4000; ++q) sum += 2 * std::exp(-q / mean);
  int left = 4096 - 1;
  double inside = 1;
  for (int q = 1; q <= 15; ++q) {
    const double density = std::exp(-q / mean);
    inside += 2 * density;
    frequencies[q] = uint16_t(std::max(1.0, 4000 * density / sum));
    left -= 2 * frequencies[q];
  }
  frequencies[16] = uint16_t(1 + std::max(0.0, 4000 * (1 - inside / sum) - 64));
  frequencies[0] = uint16_t(left + 1 - frequencies[16]);
}

inline std::vector<uint16_t> EvenFrequencies(size_t symbols) {
  return std::vector<uint16_t>(symbols, uint16_t(4096 / symbols));
}

// Falls from 8 standard deviations to a small one, near an identity that is mixed a little.
inline void FillSynthesis(size_t width, std::mt19937_64& random, ProfileSide& side) {
  for (size_t row = 0; row < width; ++row) {
    side.synthesis.row_scales[row] = uint8_t(128 - 56);  // 2^-7: codes of 127 are about 1
    side.synthesis.column_scales[row] = 128;
    for (size_t column = 0; column < width; ++column) {
      side.synthesis.codes[row * width + column] = int8_t(row == column ? 120 : int(random() % 7) - 3);
    }
    side.base_classes[row] = int8_t(36 - 8 * double(row) / double(width));
  }
  side.coded_rows = uint16_t(width);
}

inline void FillGroup(size_t width, std::mt19937_64& random, ProfileGroup& group) {
  for (size_t c = 0; c < kClasses; ++c) FillClass(c, &group.class_frequencies[c * kClassFrequencies]);
  for (size_t kv : kSideOrder) {
    group.step_frequencies[kv] = EvenFrequencies(kStepSymbols);
    group.shift_frequencies[kv] = EvenFrequencies(kShiftSymbols);
    for (ProfileLayer& layer : group.layers) {
      ProfileSide& side = layer.sides[kv];
      FillSynthesis(width, random, side);
      for (uint16_t& mean : side.mean) mean = Bf16FromFloat(float(int(random() % 17) - 8) / 16);
      for (uint8_t& scale : side.predictor.row_scales) scale = uint8_t(128 - 80);  // 2^-10
      for (uint8_t& scale : side.predictor.column_scales) scale = 128;
      for (int8_t& code : side.predictor.codes) code = int8_t(int(random() % 31) - 15);
      for (uint16_t& weight : side.own) weight = Bf16FromFloat(float(int(random() % 17) - 8) / 1024);
      side.around[1] = Bf16FromFloat(1);  // the own importance as it is
      for (uint16_t& sensitivity : side.sensitivity) sensitivity = Bf16FromFloat(float(1 + random() % 16));
      std::fill(layer.deviations.begin(), layer.deviations.end(), Bf16FromFloat(1));
    }
  }
}

inline ProfileFile MakeProfileFile(const SyntheticProfile& wanted) {
  std::mt19937_64 random(wanted.seed);
  ProfileFile file;
  file.facts.rope = wanted.rope;
  file.facts.layers_before = wanted.layers_before;
  file.facts.key_from_value = wanted.key_from_value;
  file.facts.layers_between_resets = wanted.layers_between_resets;
  file.facts.heads = wanted.heads;
  file.facts.head_dim = wanted.head_dim;
  file.facts.groups = wanted.groups;
  file.facts.layers = wanted.layers;
  file.facts.step = wanted.step;
  file.facts.notes = R"({"model": "none"})";
  for (size_t i = 0; i < wanted.head_dim / 2; ++i) {
    file.facts.turns.push_back(uint64_t(std::pow(10000.0, -2.0 * double(i) / wanted.head_dim) * 2935890503282001226.0));
  }
  file.Resize();
  for (ProfileGroup& group : file.groups) FillGroup(file.facts.OfGroup().Width(), random, group);
  return file;
}

inline std::vector<uint8_t> WriteOrDie(const ProfileFile& file) { return file.Write().value(); }

inline Profile ParseProfileOrDie(const std::vector<uint8_t>& bytes) {
  Profile profile = Profile::Parse(bytes).value();
  if (absl::Status prepared = profile.PrepareEncoding(); !prepared.ok()) absl::StatusOr<Profile>(prepared).value();
  return profile;
}

inline Profile MakeProfile(const SyntheticProfile& wanted) {
  return ParseProfileOrDie(WriteOrDie(MakeProfileFile(wanted)));
}

}  // namespace kvist

#endif  // KVIST_TESTS_KERNELS_Q_SYNTHETIC_PROFILE_H_
