#include "kernels/q/rope.h"

namespace kvist {
namespace {

constexpr double kTurnUnit = 0x1.921fb54442d18p+2 * 0x1p-64;  // 2 pi / 2^64

// 1 / n! with alternating signs, highest power first: sin / a to a^12, cos to a^12. The next term is below 2^-41.
constexpr double kSin[] = {
    1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0};
constexpr double kCos[] = {1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0};

double Horner(const double (&coefficients)[7], double square) {
  double sum = coefficients[0];
  for (int i = 1; i < 7; ++i) {
    const double product = sum * square;
    sum = product + coefficients[i];
  }
  return sum;
}

// Several pairs side by side, which a compiler sees when it knows where they are.
template <RopeStyle kStyle>
void UnturnAs(const CosSin* angles, size_t head_dim, float* row) {
  for (size_t i = 0; i < head_dim / 2; ++i) {
    const RopePair pair = RopePairAt(kStyle, i, head_dim);
    const float a = row[pair.first], b = row[pair.second], c = angles[i].cos, s = angles[i].sin;
    const float square = c * c + s * s;  // the factor's
    row[pair.first] = (a * c + b * s) / square;
    row[pair.second] = (b * c - a * s) / square;
  }
}

}  // namespace

CosSin CosSinAt(uint32_t position, uint64_t turns, float factor) {
  const uint64_t phase = position * turns;
  const uint64_t quadrant = (phase + (uint64_t{1} << 61)) >> 62;
  const double angle = double(int64_t(phase - (quadrant << 62))) * kTurnUnit;
  const double square = angle * angle;
  const double sin = Horner(kSin, square) * angle, cos = Horner(kCos, square);
  const double by_quadrant[4] = {cos, -sin, -cos, sin};  // the cosine; the sine is a quadrant behind
  return {float(by_quadrant[quadrant]) * factor, float(by_quadrant[(quadrant + 3) % 4]) * factor};
}

void Turn(RopeStyle style, absl::Span<const CosSin> angles, absl::Span<float> row) {
  for (size_t i = 0; i < angles.size(); ++i) {
    const RopePair pair = RopePairAt(style, i, row.size());
    const float a = row[pair.first], b = row[pair.second];
    const float ac = a * angles[i].cos, bs = b * angles[i].sin, bc = b * angles[i].cos, as = a * angles[i].sin;
    row[pair.first] = ac - bs;
    row[pair.second] = bc + as;
  }
}

void Unturn(RopeStyle style, absl::Span<const CosSin> angles, absl::Span<float> row) {
  if (style == RopeStyle::kInterleaved) {
    UnturnAs<RopeStyle::kInterleaved>(angles.data(), row.size(), row.data());
  } else {
    UnturnAs<RopeStyle::kHalves>(angles.data(), row.size(), row.data());
  }
}

}  // namespace kvist
