#include "kernels/q/importance.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace kvist {
namespace {

constexpr float kMostDeviations = 6;
constexpr double kLeastLog = -9, kMostLog = 12;  // of a weight

float Bounded(double log) { return std::isfinite(log) ? float(std::clamp(log, kLeastLog, kMostLog)) : 0; }

// Tokens that go side by side: each one's sums are chains, whose order decides their bits.
constexpr size_t kTogether = kRansLanes;
using Together = std::array<float, kTogether>;

// One channel's share: of each token the logarithm's sum of squares, the deviation and its square.
void AddChannel(const Together& centred, float mean, float deviation, Together& squares, Together& score,
                Together& score_square) {
  for (size_t t = 0; t < kTogether; ++t) {
    const float value = centred[t] + mean;
    squares[t] += value * value;
  }
  if (!(deviation > 0)) return;
  // One comparison a loop, or no compiler sees vectors. NaN stays.
  Together bounded;
  for (size_t t = 0; t < kTogether; ++t) {
    const float own = centred[t] / deviation;
    bounded[t] = own < -kMostDeviations ? -kMostDeviations : own;
  }
  for (size_t t = 0; t < kTogether; ++t) {
    score[t] = bounded[t] > kMostDeviations ? kMostDeviations : bounded[t];
    score_square[t] = score[t] * score[t];
  }
}

// FORMAT.md's features of tokens from `first` on: 1, each head's logarithm, deviations, their squares.
std::vector<Together> FeaturesOf(const HeadGroup& group, uint32_t layer, const LayerValues& values, size_t first) {
  const ProfileFacts& facts = group.facts();
  const size_t width = facts.Width();
  const std::vector<float>& deviations = group.layer(layer).deviations;
  std::vector<Together> features(facts.OwnFeatures());
  features[0].fill(1);
  Together* logs = &features[1];
  Together* scores = logs + 2 * facts.heads;
  for (size_t kv = 0; kv < 2; ++kv) {
    const float* rows = &values[kv][first * width];
    const std::vector<float>& mean = group.layer(layer).sides[kv].mean;
    for (size_t i = 0; i < width; ++i) {
      Together centred;
      for (size_t t = 0; t < kTogether; ++t) centred[t] = rows[t * width + i];
      AddChannel(centred, mean[i], deviations[kv * width + i], logs[kv * facts.heads + i / facts.head_dim],
                 scores[kv * width + i], scores[(2 + kv) * width + i]);
    }
  }
  for (size_t head = 0; head < 2 * facts.heads; ++head) {
    for (float& log : logs[head]) log = std::log(log + 1e-6f) - 5;
  }
  return features;
}

// What the weights of a side make of the features.
Together OwnStage(const std::vector<float>& weights, const std::vector<Together>& features) {
  std::array<double, kTogether> sums{};
  for (size_t i = 0; i < features.size(); ++i) {
    const float* of_tokens = features[i].data();
    const double weight = weights[i];
#pragma GCC unroll 1
    for (size_t t = 0; t < kTogether; ++t) sums[t] += double(of_tokens[t]) * weight;
  }
  Together own;
  for (size_t t = 0; t < kTogether; ++t) own[t] = Bounded(sums[t]);
  return own;
}

}  // namespace

Importance::Importance(const HeadGroup& group, size_t tokens) : group_(group), tokens_(tokens) {
  for (size_t kv = 0; kv < 2; ++kv) {
    first_[kv].resize(size_t{group.facts().layers} * tokens);
    sums_[kv].resize(tokens);
  }
}

void Importance::AddLayer(uint32_t layer, const LayerValues& values) {
  for (size_t first = 0; first < tokens_; first += kTogether) {
    const std::vector<Together> features = FeaturesOf(group_, layer, values, first);
    for (size_t kv = 0; kv < 2; ++kv) {
      const Together own = OwnStage(group_.layer(layer).sides[kv].own, features);
      for (size_t t = 0; t < kTogether; ++t) {
        first_[kv][size_t{layer} * tokens_ + first + t] = own[t];
        sums_[kv][first + t] += own[t];
      }
    }
  }
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
