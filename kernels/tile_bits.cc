#include "kernels/tile_bits.h"

#include <algorithm>
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

// Heads differ less on text that was not calibrated on. SmolLM2, ladder at 4.03 bits in the mean: KLD .0023 at 1, .0020 at .75,
// .0023 at .5; trellis at 2.58: .0074, .0071, .0093.
constexpr double kTrust = 0.75;

absl::Span<const Rung> RungsOf(Codec codec) {
  if (codec == Codec::kLadder) return kLadder;
  if (codec == Codec::kTrellis) return kTrellis;
  return {};
}

// The next rung of a tile.
struct Step {
  double saved_per_bit;
  size_t tile;
  size_t to;

  bool operator<(const Step& other) const {  // of equal ones the first
    return saved_per_bit != other.saved_per_bit ? saved_per_bit < other.saved_per_bit : tile > other.tile;
  }
};

absl::Status CheckMean(Codec codec, absl::Span<const Rung> rungs, float mean_bits) {
  const std::string name(CodecName(codec));
  if (rungs.empty())
    return absl::InvalidArgumentError(absl::StrCat("mean_bits: codes of ", name, " all have one length"));
  if (mean_bits >= float(rungs.front().bits) && mean_bits <= float(rungs.back().bits)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("mean_bits ", mean_bits, "; ", name, " has ", rungs.front().bits, " to ", rungs.back().bits));
}

// [layers][2][heads], to the power that is trusted.
std::vector<double> WeightsOf(const Profile& profile) {
  std::vector<double> weights;
  for (uint32_t layer = 0; layer < profile.facts().layers; ++layer) {
    for (size_t kv : {0, 1}) {
      for (const HeadGroup& group : profile.groups()) {
        for (const float head : group.layer(layer).sides[kv].sensitivity) weights.push_back(std::pow(head, kTrust));
      }
    }
  }
  return weights;
}

// Gives each next bit where it saves most, until `left` of them are given.
std::vector<uint8_t> ShareOut(absl::Span<const Rung> rungs, const std::vector<double>& weights, double left) {
  std::vector<uint8_t> bits(weights.size(), uint8_t(rungs.front().bits));
  std::priority_queue<Step> steps;
  const auto cost = [&](size_t to) { return rungs[to].bits - rungs[to - 1].bits; };
  const auto offer = [&](size_t tile, size_t to) {
    if (to == rungs.size()) return;
    steps.push({weights[tile] * (rungs[to - 1].error - rungs[to].error) / cost(to), tile, to});
  };
  for (size_t tile = 0; tile < bits.size(); ++tile) offer(tile, 1);
  while (!steps.empty()) {
    const Step step = steps.top();
    steps.pop();
    if (cost(step.to) > left) continue;  // a cheaper one may still fit
    left -= cost(step.to);
    bits[step.tile] = uint8_t(rungs[step.to].bits);
    offer(step.tile, step.to + 1);
  }
  return bits;
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> BitsByTile(const Profile& profile, Codec codec, float mean_bits) {
  const absl::Span<const Rung> rungs = RungsOf(codec);
  if (absl::Status status = CheckMean(codec, rungs, mean_bits); !status.ok()) return status;
  const std::vector<double> weights = WeightsOf(profile);
  if (std::all_of(weights.begin(), weights.end(), [](double weight) { return weight == 0; })) {
    return absl::FailedPreconditionError(
        "mean_bits: the profile does not say how sensitive its heads are; calibrate anew");
  }
  return ShareOut(rungs, weights, (double(mean_bits) - rungs.front().bits) * double(weights.size()) + 1e-6);
}

}  // namespace kvist
