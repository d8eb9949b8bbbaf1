#include "kernels/q/reconstruct.h"

#include <bit>
#include <cmath>

namespace kvist {

std::vector<const SideValues*> History::Sources(uint32_t layer, size_t kv) const {
  std::vector<const SideValues*> sources;
  for (uint32_t back = 1; back <= facts_.Before(layer); ++back) {
    sources.push_back(&layers_[back][0]);
    sources.push_back(&layers_[back][1]);
  }
  if (kv == 0 && facts_.key_from_value) sources.push_back(&layers_[0][1]);
  return sources;
}

void PredictSide(const HeadGroup& group, uint32_t layer, size_t kv, size_t tokens, const QFunctions& functions,
                 History& history) {
  functions.predict(group.layer(layer).sides[kv], tokens, history.Sources(layer, kv), history.Next()[kv]);
}

void AddFactors(const HeadGroup& group, uint32_t layer, size_t kv, const SparseRows& rows, const QFunctions& functions,
                History& history) {
  const ProfileFacts& facts = group.facts();
  SideValues& values = history.Next()[kv];
  functions.add_rows(rows, group.layer(layer).sides[kv].synthesis.data(), values.rows.data());
  const bool is_source = facts.layers_before > 0 || (kv == 1 && facts.key_from_value);
  if (is_source) functions.prepare_source(rows.counts.size(), facts.Width(), values);
}

float StepSize(float theta, int step) {
  const float half = (step & 1) != 0 ? std::bit_cast<float>(0x3f3504f3u) : 1.0f;
  return theta * half * std::ldexp(1.0f, -(step >> 1));
}

Angles BlockAngles(const ProfileFacts& facts, uint32_t first_position, size_t tokens) {
  Angles angles;
  if (facts.rope == RopeStyle::kNone) return angles;
  angles.pairs.reserve(tokens * facts.turns.size());
  angles.cos.resize(tokens * facts.head_dim);
  angles.sin.resize(tokens * facts.head_dim);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t i = 0; i < facts.turns.size(); ++i) {
      const CosSin angle = CosSinAt(first_position + uint32_t(t), facts.turns[i], facts.rope_factor);
      const RopePair pair = RopePairAt(facts.rope, i, facts.head_dim);
      const size_t first = t * facts.head_dim + pair.first, second = t * facts.head_dim + pair.second;
      angles.pairs.push_back(angle);
      angles.cos[first] = angles.cos[second] = angle.cos;
      angles.sin[first] = -angle.sin;
      angles.sin[second] = angle.sin;
    }
  }
  return angles;
}

}  // namespace kvist
