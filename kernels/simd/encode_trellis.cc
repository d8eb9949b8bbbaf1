#include "kernels/simd/encode_trellis.h"

#include <algorithm>

#include "kernels/tables.h"
#include "kernels/trellis.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/encode_trellis.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kMaxTokens = 256;
// Rows to either side of the tile's end that decide in which state it is cut open: paths have met long before.
constexpr size_t kWindow = 32;
constexpr float kNever = 1e30f;  // cost of a state that the path does not start from

using DF = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<DF>;
constexpr size_t kLanes = hn::MaxLanes(DF());  // channels at once
constexpr size_t kStates = kTrellisStates;

// Viterbi's algorithm on kLanes channels at once.
template <int kBits>
class PathSearch {
  static constexpr size_t kCodes = size_t{1} << kBits, kOrigins = kStates >> kBits;

 public:
  PathSearch() {
    for (size_t s = 0; s < kStates; ++s) levels_[s] = float(TrellisLevels(kBits)[s]) * TrellisUnit(kBits);
  }

  // The best path over rows of [rows][kLanes] normalised values; codes at [rows][kLanes].
  void Run(const float* HWY_RESTRICT values, size_t rows, uint8_t* HWY_RESTRICT codes) {
    uint8_t ends[kLanes];
    FindEnds(values, rows, ends);
    for (size_t s = 0; s < kStates; ++s) {
      for (size_t lane = 0; lane < kLanes; ++lane) costs_[0][s * kLanes + lane] = s == ends[lane] ? 0.0f : kNever;
    }
    for (size_t row = 0; row < rows; ++row) Step(row, values + row * kLanes);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      size_t state = ends[lane];
      for (size_t row = rows; row-- > 0;) {
        codes[row * kLanes + lane] = uint8_t(state & (kCodes - 1));
        state = Before(row, lane, state);
      }
    }
  }

 private:
  // The states after the last row, from a free path over the tile's end and its beginning.
  void FindEnds(const float* HWY_RESTRICT values, size_t rows, uint8_t* HWY_RESTRICT ends) {
    const size_t window = std::min(kWindow, rows);
    std::fill_n(costs_[0], kStates * kLanes, 0.0f);
    for (size_t i = 0; i < 2 * window; ++i) Step(i, values + (rows - window + i) % rows * kLanes);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      size_t state = 0;
      for (size_t s = 1; s < kStates; ++s) {
        if (costs_[0][s * kLanes + lane] < costs_[0][state * kLanes + lane]) state = s;
      }
      for (size_t i = 2 * window; i-- > window;) state = Before(i, lane, state);
      ends[lane] = uint8_t(state);
    }
  }

  size_t Before(size_t step, size_t lane, size_t state) const {
    const size_t origin = state >> kBits;
    return origin | size_t{origins_[(step * kOrigins + origin) * kLanes + lane]} << (6 - kBits);
  }

  // Costs after one more row. The states that lead to one share their lower bits; which of them is cheapest is kept in
  // the cost's lowest bits, so that one minimum finds both.
  void Step(size_t step, const float* HWY_RESTRICT values) {
    const DF df;
    const DI di;
    const hn::Rebind<uint8_t, DI> d8;
    const auto value = hn::Load(df, values);
    const auto index = hn::Set(di, int32_t(kCodes - 1)), cost = hn::Set(di, ~int32_t(kCodes - 1));
    for (size_t origin = 0; origin < kOrigins; ++origin) {
      auto best = hn::And(hn::BitCast(di, hn::Load(df, costs_[0] + origin * kLanes)), cost);
      for (size_t i = 1; i < kCodes; ++i) {
        const auto other = hn::BitCast(di, hn::Load(df, costs_[0] + (i * kOrigins + origin) * kLanes));
        best = hn::Min(best, hn::Or(hn::And(other, cost), hn::Set(di, int32_t(i))));
      }
      hn::StoreU(hn::DemoteTo(d8, hn::And(best, index)), d8, origins_ + (step * kOrigins + origin) * kLanes);
      const auto so_far = hn::BitCast(df, hn::And(best, cost));
      for (size_t code = 0; code < kCodes; ++code) {
        const size_t state = origin * kCodes + code;
        const auto off = hn::Sub(value, hn::Set(df, levels_[state]));
        hn::Store(hn::Add(so_far, hn::Mul(off, off)), df, costs_[1] + state * kLanes);
      }
    }
    std::swap(costs_[0], costs_[1]);
  }

  HWY_ALIGN float memory_[2][kStates * kLanes];
  float* costs_[2] = {memory_[0], memory_[1]};
  float levels_[kStates];
  uint8_t origins_[kMaxTokens * kOrigins * kLanes];
};

HWY_INLINE size_t PositionOf(size_t d, size_t head_dim) {
  const size_t first = d / kStrip * kStrip, length = std::min<size_t>(kStrip, head_dim - first), i = d - first;
  return first + (i < length / 2 ? 2 * i : 2 * (i - length / 2) + 1);
}

template <int kBits>
void CodesOf(const TileShape& shape, uint32_t sinks, const LadderScales& scales, const float* HWY_RESTRICT rotated,
             uint8_t* HWY_RESTRICT codes) {
  const size_t rows = shape.tokens - sinks;
  PathSearch<kBits> search;
  HWY_ALIGN float values[kMaxTokens * kLanes];
  uint8_t found[kMaxTokens * kLanes];
  float inverse[kMaxTokens];
  for (size_t row = 0; row < rows; ++row) inverse[row] = 1.0f / LogScale(scales.token_scales[sinks + row]);
  const float mean_unit = LogScale(scales.mean_scale);
  for (size_t first = 0; first < shape.head_dim; first += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const size_t d = first + lane;
      const float scale =
          float(ChannelMultiplier(scales.channel_scales[d], shape.head_dim)) * MultiplierScale(shape.head_dim);
      const float factor = scale > 0 ? 1.0f / scale : 0.0f, mean = float(scales.mean_codes[d]) * scale * mean_unit;
      const float* HWY_RESTRICT y = rotated + d * shape.tokens + sinks;
      for (size_t row = 0; row < rows; ++row) values[row * kLanes + lane] = (y[row] - mean) * factor * inverse[row];
    }
    search.Run(values, rows, found);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      uint8_t* HWY_RESTRICT out = codes + PositionOf(first + lane, shape.head_dim);
      for (size_t row = 0; row < rows; ++row) {
        out[row * shape.head_dim] = uint8_t(found[row * kLanes + lane] << (8 - kBits));
      }
    }
  }
}

void TrellisCodes(const TileShape& shape, uint32_t sinks, const LadderScales& scales, int bits,
                  const float* HWY_RESTRICT rotated, uint8_t* HWY_RESTRICT codes) {
  if (bits == 3) return CodesOf<3>(shape, sinks, scales, rotated, codes);
  CodesOf<2>(shape, sinks, scales, rotated, codes);
}

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(TrellisCodes);

void TrellisCodes(const TileShape& shape, uint32_t sinks, const LadderScales& scales, int bits, const float* rotated,
                  uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(TrellisCodes)(shape, sinks, scales, bits, rotated, codes);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
