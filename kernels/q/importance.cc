#include "kernels/q/importance.h"

#include <algorithm>
#include <cmath>

namespace kvist {
namespace {

constexpr float kMostDeviations = 6;
constexpr double kLeastLog = -9, kMostLog = 12;  // of a weight

float Bounded(double log) { return std::isfinite(log) ? float(std::clamp(log, kLeastLog, kMostLog)) : 0; }

// FORMAT.md's features of one token: 1, each head's logarithm, deviations, their squares.
std::vector<float> FeaturesOf(const HeadGroup& group, uint32_t layer, const LayerValues& values, size_t token) {
  const ProfileFacts& facts = group.facts();
  const size_t width = facts.Width();
  const std::vector<float>& deviations = group.layer(layer).deviations;
  std::vector<float> features(facts.OwnFeatures());
  features[0] = 1;
  float* logs = &features[1];
  float* scores = logs + 2 * facts.heads;
  for (size_t kv = 0; kv < 2; ++kv) {
    const float* centred = &values[kv][token * width];
    const std::vector<float>& mean = group.layer(layer).sides[kv].mean;
    for (size_t i = 0; i < width; ++i) {
      const float value = centred[i] + mean[i], deviation = deviations[kv * width + i];
      const float score = deviation > 0 ? centred[i] / deviation : 0;
      logs[kv * facts.heads + i / facts.head_dim] += value * value;
      scores[kv * width + i] = std::clamp(score, -kMostDeviations, kMostDeviations);
      scores[(2 + kv) * width + i] = scores[kv * width + i] * scores[kv * width + i];
    }
  }
  for (size_t head = 0; head < 2 * facts.heads; ++head) logs[head] = std::log(logs[head] + 1e-6f) - 5;
  return features;
}

}  // namespace

Importance::Importance(const HeadGroup& group, size_t tokens) : group_(group), tokens_(tokens) {
  for (size_t kv = 0; kv < 2; ++kv) {
    first_[kv].resize(size_t{group.facts().layers} * tokens);
    sums_[kv].resize(tokens);
  }
}

void Importance::AddLayer(uint32_t layer, const LayerValues& values) {
  for (size_t token = 0; token < tokens_; ++token) {
    const std::vector<float> features = FeaturesOf(group_, layer, values, token);
    for (size_t kv = 0; kv < 2; ++kv) {
      const float own = Own(layer, kv, features);
      first_[kv][size_t{layer} * tokens_ + token] = own;
      sums_[kv][token] += own;
    }
  }
}

float Importance::Own(uint32_t layer, size_t kv, const std::vector<float>& features) const {
  const std::vector<float>& weights = group_.layer(layer).sides[kv].own;
  double sum = 0;
  for (size_t i = 0; i < features.size(); ++i) sum += double(features[i]) * weights[i];
  return Bounded(sum);
}

float Importance::At(size_t kv, uint32_t layer, size_t token) const {
  const std::vector<float>& weights = group_.layer(layer).sides[kv].around;
  const float layers = float(group_.facts().layers);
  float sum = weights[0] + weights[1] * First(kv, layer, token) + weights[2] * First(1 - kv, layer, token) +
              weights[3] * sums_[0][token] / layers + weights[4] * sums_[1][token] / layers;
  size_t next = 5;
  for (int off : {-3, -2, -1, 1, 2, 3}) {
    const uint32_t near = uint32_t(std::clamp(int(layer) + off, 0, int(layers) - 1));
    sum += weights[next] * First(0, near, token) + weights[next + 1] * First(1, near, token);
    next += 2;
  }
  return Bounded(sum);
}

}  // namespace kvist
