#include "kernels/q/reconstruct.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "kernels/half.h"

namespace kvist {

void History::Push(LayerValues values) {
  layers_.insert(layers_.begin(), std::move(values));
  if (layers_.size() > facts_.layers_before) layers_.pop_back();
}

std::vector<float> Predicted(const Profile& profile, uint32_t layer, size_t kv, size_t tokens,
                             absl::Span<const LayerValues> before, const LayerValues& own, AddProductFunction add) {
  const size_t width = profile.facts().Width();
  const std::vector<float>& matrix = profile.layer(layer).sides[kv].predictor;
  std::vector<float> values(tokens * width);
  size_t first_row = 0;
  const auto add_source = [&](const std::vector<float>& source) {
    for (size_t t = 0; t < tokens; ++t) {
      add(absl::MakeSpan(source).subspan(t * width, width), &matrix[first_row * width],
          absl::MakeSpan(values).subspan(t * width, width));
    }
    first_row += width;
  };
  for (const LayerValues& earlier : before) {
    add_source(earlier[0]);
    add_source(earlier[1]);
  }
  if (kv == 0 && profile.facts().key_from_value) add_source(own[1]);
  return values;
}

void AddCoefficients(const Profile& profile, uint32_t layer, size_t kv, const SideCoefficients& coefficients,
                     AddProductFunction add, std::vector<float>& values) {
  const size_t width = profile.facts().Width();
  const Profile::Side& side = profile.layer(layer).sides[kv];
  std::vector<float> scaled(side.coded_rows);
  for (size_t t = 0; t < coefficients.steps.size(); ++t) {
    const float step = StepSize(profile.facts().step, coefficients.steps[t]);
    for (size_t c = 0; c < scaled.size(); ++c) scaled[c] = float(coefficients.q[t * scaled.size() + c]) * step;
    add(scaled, side.synthesis.data(), absl::MakeSpan(values).subspan(t * width, width));
  }
}

float StepSize(float theta, int step) {
  const float half = (step & 1) != 0 ? std::bit_cast<float>(0x3f3504f3u) : 1.0f;
  return theta * half * std::ldexp(1.0f, -(step >> 1));
}

std::vector<CosSin> BlockAngles(const ProfileFacts& facts, uint32_t first_position, size_t tokens) {
  std::vector<CosSin> angles;
  if (facts.rope == RopeStyle::kNone) return angles;
  for (size_t t = 0; t < tokens; ++t) {
    for (uint64_t turns : facts.turns) {
      angles.push_back(CosSinAt(first_position + uint32_t(t), turns, facts.rope_factor));
    }
  }
  return angles;
}

void WriteRow(const Profile& profile, uint32_t layer, size_t kv, size_t head, absl::Span<const CosSin> angles,
              Dtype dtype, const float* centred, uint16_t* out) {
  const size_t head_dim = profile.facts().head_dim;
  const float* mean = &profile.layer(layer).sides[kv].mean[head * head_dim];
  std::array<float, 256> row;
  for (size_t d = 0; d < head_dim; ++d) row[d] = centred[d] + mean[d];
  if (kv == 0) Turn(profile.facts().rope, angles, absl::MakeSpan(row).first(head_dim));
  for (size_t d = 0; d < head_dim; ++d) out[d] = std::isnan(row[d]) ? uint16_t(0x7fff) : Narrow(row[d], dtype);
}

}  // namespace kvist
