#include "kernels/layer_bits.h"

#include <cmath>
#include <queue>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/block_format.h"
#include "kernels/q/profile.h"

namespace kvist {
namespace {

// What a code of so many bits leaves of N(0, 1), with the unbiased gain (FORMAT.md, "Levels" and "Trellis").
struct Rung {
  int bits;
  double error;
};
// Rows of 8 bits, which trellis has in place of codes, are as good as codes of 8.
constexpr Rung kLadder[] = {{2, 0.1367}, {3, 0.0361}, {4, 0.00959}, {8, 0.0000430}};
constexpr Rung kTrellis[] = {{2, 0.0857}, {3, 0.0224}, {8, 0.0000430}};

// Layers differ less on text that was not calibrated on. SmolLM2, ladder at 4 bits in the mean: KLD .0032 at 1, .0025 at .75, .0026
// at .5; trellis at 2.58: .0110, .0093, .0096.
constexpr double kTrust = 0.75;

absl::Span<const Rung> RungsOf(Codec codec) {
  if (codec == Codec::kLadder) return kLadder;
  if (codec == Codec::kTrellis) return kTrellis;
  return {};
}

// The next rung of a layer's keys or values.
struct Step {
  double saved_per_bit;
  uint32_t layer;
  size_t kv;
  size_t to;

  bool operator<(const Step& other) const {  // of equal ones the first layer, and K before V
    if (saved_per_bit != other.saved_per_bit) return saved_per_bit < other.saved_per_bit;
    return layer != other.layer ? layer > other.layer : kv > other.kv;
  }
};

int& BitsOfSide(LayerBits& bits, size_t kv) { return kv == 0 ? bits.key : bits.value; }

absl::Status CheckMean(Codec codec, absl::Span<const Rung> rungs, float mean_bits) {
  const std::string name(CodecName(codec));
  if (rungs.empty())
    return absl::InvalidArgumentError(absl::StrCat("mean_bits: codes of ", name, " all have one length"));
  if (mean_bits >= float(rungs.front().bits) && mean_bits <= float(rungs.back().bits)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("mean_bits ", mean_bits, "; ", name, " has ", rungs.front().bits, " to ", rungs.back().bits));
}

// Of all heads of a layer's keys or values.
double SensitivityOf(const Profile& profile, uint32_t layer, size_t kv) {
  double sum = 0;
  for (const HeadGroup& group : profile.groups()) {
    for (const float head : group.layer(layer).sides[kv].sensitivity) sum += head;
  }
  return sum;
}

bool SaysSensitivity(const Profile& profile) {
  for (uint32_t layer = 0; layer < profile.facts().layers; ++layer) {
    for (size_t kv : {0, 1}) {
      if (SensitivityOf(profile, layer, kv) > 0) return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<std::vector<LayerBits>> BitsByLayer(const Profile& profile, Codec codec, float mean_bits) {
  const absl::Span<const Rung> rungs = RungsOf(codec);
  if (absl::Status status = CheckMean(codec, rungs, mean_bits); !status.ok()) return status;
  if (!SaysSensitivity(profile)) {
    return absl::FailedPreconditionError(
        "mean_bits: the profile does not say how sensitive layers are; calibrate anew");
  }
  const uint32_t layers = profile.facts().layers;
  const int least = rungs.front().bits;
  std::vector<LayerBits> bits(layers, LayerBits{least, least});
  std::priority_queue<Step> steps;
  const auto offer = [&](uint32_t layer, size_t kv, size_t to) {
    if (to == rungs.size()) return;
    const double saved = rungs[to - 1].error - rungs[to].error, cost = rungs[to].bits - rungs[to - 1].bits;
    const double weight = std::pow(SensitivityOf(profile, layer, kv), kTrust);
    steps.push({weight * saved / cost, layer, kv, to});
  };
  for (uint32_t layer = 0; layer < layers; ++layer) {
    for (size_t kv : {0, 1}) offer(layer, kv, 1);
  }
  double left = (double(mean_bits) - least) * 2 * layers + 1e-6;
  while (!steps.empty()) {
    const Step step = steps.top();
    steps.pop();
    const int cost = rungs[step.to].bits - rungs[step.to - 1].bits;
    if (cost > left) continue;  // a cheaper one may still fit
    left -= cost;
    BitsOfSide(bits[step.layer], step.kv) = rungs[step.to].bits;
    offer(step.layer, step.kv, step.to + 1);
  }
  return bits;
}

}  // namespace kvist
