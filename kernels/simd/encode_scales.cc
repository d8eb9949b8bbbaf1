// FitScales of encode_tile.h: Sinkhorn passes over a tile's squares, then scales as bytes.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/encode_scales.h"
#include "kernels/simd/encode_tile.h"
#include "kernels/tables.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/encode_scales.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

#include "kernels/simd/encode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, 8>;

constexpr size_t kMaxHeadDim = 256, kMaxTokens = 256;
constexpr size_t kChannels = 8;  // that are worked on together, so that their chains of additions go side by side

// Statistics of the tokens that count: weight 1, or 0 for a sink.
struct Statistics {
  HWY_ALIGN float weight[kMaxTokens];
  HWY_ALIGN float inverse[kMaxTokens];  // weight over the token's mean square
  HWY_ALIGN float token_square[kMaxTokens];
  HWY_ALIGN float channel_square[kMaxHeadDim];
  HWY_ALIGN float mean[kMaxHeadDim];
  float rows;
};

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

// For kChannels rows: sums of row[t] * factors[t], 16 partial sums added in order.
void Dots(const float* rows, const float* factors, size_t tokens, float* dots) {
  for (size_t i = 0; i < kChannels; ++i) {
    float sums[kPartialSums] = {};
    for (size_t t = 0; t < tokens; ++t) sums[t % kPartialSums] += rows[i * tokens + t] * factors[t];
    dots[i] = 0;
    for (float sum : sums) dots[i] += sum;
  }
}

// sums[t] += row[t] * factor, for kChannels rows in their order.
void AddRows(const float* rows, const float* factors, size_t tokens, float* sums) {
  for (size_t i = 0; i < kChannels; ++i) {
    for (size_t t = 0; t < tokens; ++t) sums[t] += rows[i * tokens + t] * factors[i];
  }
}

void NearestLogScales(const float* values, size_t count, uint8_t* scales) {
  for (size_t i = 0; i < count; ++i) scales[i] = NearestLogScale(values[i]);
}

#else

template <size_t kCount>
HWY_INLINE void PartialDots(const float* HWY_RESTRICT rows, const float* HWY_RESTRICT factors, size_t tokens,
                            VF* HWY_RESTRICT first, VF* HWY_RESTRICT second) {
  const Eight d;
#pragma GCC unroll 4
  for (size_t i = 0; i < kCount; ++i) first[i] = second[i] = hn::Zero(d);
  for (size_t t = 0; t < tokens; t += kPartialSums) {
    const VF a = hn::Load(d, factors + t), b = hn::Load(d, factors + t + 8);
#pragma GCC unroll 4
    for (size_t i = 0; i < kCount; ++i) {
      const float* HWY_RESTRICT row = rows + i * tokens + t;
      first[i] = hn::Add(first[i], hn::Mul(hn::LoadU(d, row), a));
      second[i] = hn::Add(second[i], hn::Mul(hn::LoadU(d, row + 8), b));
    }
  }
}

// For kChannels rows: sums of row[t] * factors[t], 16 partial sums added in order.
HWY_INLINE void Dots(const float* HWY_RESTRICT rows, const float* HWY_RESTRICT factors, size_t tokens,
                     float* HWY_RESTRICT dots) {
  const Eight d;
  VF first[kChannels], second[kChannels];
  PartialDots<4>(rows, factors, tokens, first, second);
  PartialDots<4>(rows + 4 * tokens, factors, tokens, first + 4, second + 4);
  Transpose(first);
  Transpose(second);
  VF total = hn::Zero(d);
#pragma GCC unroll 8
  for (const VF& sum : first) total = hn::Add(total, sum);
#pragma GCC unroll 8
  for (const VF& sum : second) total = hn::Add(total, sum);
  hn::Store(total, d, dots);
}

// sums[t] += row[t] * factor, for kChannels rows in their order.
HWY_INLINE void AddRows(const float* HWY_RESTRICT rows, const float* HWY_RESTRICT factors, size_t tokens,
                        float* HWY_RESTRICT sums) {
  const Eight d;
  VF factor[kChannels];
#pragma GCC unroll 8
  for (size_t i = 0; i < kChannels; ++i) factor[i] = hn::Set(d, factors[i]);
  for (size_t t = 0; t < tokens; t += 16) {
    VF a = hn::Load(d, sums + t), b = hn::Load(d, sums + t + 8);
#pragma GCC unroll 8
    for (size_t i = 0; i < kChannels; ++i) {
      a = hn::Add(a, hn::Mul(hn::LoadU(d, rows + i * tokens + t), factor[i]));
      b = hn::Add(b, hn::Mul(hn::LoadU(d, rows + i * tokens + t + 8), factor[i]));
    }
    hn::Store(a, d, sums + t);
    hn::Store(b, d, sums + t + 8);
  }
}

// NearestLogScale of `count` values, a multiple of eight.
void NearestLogScales(const float* HWY_RESTRICT values, size_t count, uint8_t* HWY_RESTRICT scales) {
  const Eight d;
  const hn::RebindToSigned<Eight> di;
  for (size_t at = 0; at < count; at += 8) {
    const VF value = hn::Load(d, values + at);
    const auto bits = hn::BitCast(di, value), mantissa = hn::And(bits, hn::Set(di, 0x7fffff));
    auto u = hn::ShiftLeft<3>(hn::Sub(hn::ShiftRight<23>(bits), hn::Set(di, 127 - 16)));
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const auto boundary = hn::Set(di, int32_t(LogBoundary(i) & 0x7fffff));
      u = hn::Sub(u, hn::VecFromMask(di, mantissa > boundary));
    }
    const auto above = hn::RebindMask(di, value > hn::Set(d, LogScale(0)));
    const auto below = hn::RebindMask(di, value < hn::Set(d, LogScale(255)));
    u = hn::IfThenElse(below, hn::Min(u, hn::Set(di, 255)), hn::Set(di, 255));
    const hn::Rebind<uint8_t, Eight> d8;
    hn::StoreU(hn::DemoteTo(d8, hn::IfThenElseZero(above, u)), d8, scales + at);
  }
}

#endif  // HWY_TARGET

void TakeSquares(const TileShape& shape, bool keep_mean, const float* HWY_RESTRICT rotated, float* HWY_RESTRICT squares,
                 Statistics& statistics) {
  for (size_t first = 0; first < shape.head_dim; first += kChannels) {
    HWY_ALIGN float sums[kChannels] = {};
    if (keep_mean) Dots(rotated + first * shape.tokens, statistics.weight, shape.tokens, sums);
    for (size_t d = first; d < first + kChannels; ++d) {
      const float mean = keep_mean ? sums[d - first] / statistics.rows : 0.0f;
      const float* HWY_RESTRICT y = rotated + d * shape.tokens;
      float* HWY_RESTRICT z2 = squares + d * shape.tokens;
      for (size_t t = 0; t < shape.tokens; ++t) z2[t] = (y[t] - mean) * (y[t] - mean);
      statistics.mean[d] = mean;
    }
  }
}

// token_square = mean over channels of squares / channel_square, and its inverse.
void UpdateTokens(const TileShape& shape, const float* HWY_RESTRICT sums, Statistics& statistics) {
  const Floats d;
  const auto head_dim = hn::Set(d, float(shape.head_dim));
  for (size_t t = 0; t < shape.tokens; t += hn::Lanes(d)) {
    const auto square = hn::Div(hn::Load(d, sums + t), head_dim);
    const auto inverse = hn::Div(hn::Load(d, statistics.weight + t), square);
    hn::Store(square, d, statistics.token_square + t);
    hn::Store(hn::IfThenElseZero(square > hn::Zero(d), inverse), d, statistics.inverse + t);
  }
}

// Mean squares of kChannels channels from the tokens before, and what they multiply.
HWY_INLINE void UpdateChannels(const TileShape& shape, const float* HWY_RESTRICT squares, size_t first,
                               Statistics& statistics, float* HWY_RESTRICT factors) {
  const Floats d;
  HWY_ALIGN float sums[kChannels];
  Dots(squares + first * shape.tokens, statistics.inverse, shape.tokens, sums);
  for (size_t i = 0; i < kChannels; i += hn::Lanes(d)) {
    const auto square = hn::Div(hn::Load(d, sums + i), hn::Set(d, statistics.rows));
    const auto factor = hn::Div(hn::Set(d, 1.0f), square);
    hn::Store(square, d, statistics.channel_square + first + i);
    hn::Store(hn::IfThenElseZero(square > hn::Zero(d), factor), d, factors + first + i);
  }
}

// One Sinkhorn pass: channels from the tokens before, tokens from the channels just found. A channel's squares are used twice
// while they are in the first cache, and the next ones' sums are on their way while these are added.
void SinkhornPass(const TileShape& shape, const float* HWY_RESTRICT squares, Statistics& statistics) {
  HWY_ALIGN float sums[kMaxTokens] = {}, factors[kMaxHeadDim];
  UpdateChannels(shape, squares, 0, statistics, factors);
  for (size_t first = 0; first < shape.head_dim; first += kChannels) {
    if (first + kChannels < shape.head_dim) UpdateChannels(shape, squares, first + kChannels, statistics, factors);
    AddRows(squares + first * shape.tokens, factors + first, shape.tokens, sums);
  }
  UpdateTokens(shape, sums, statistics);
}

// Channel scales relative to the largest, as bytes.
void QuantizeChannels(const TileShape& shape, const Statistics& statistics, LadderScales& scales) {
  float token_mean = 0;
  for (size_t t = 0; t < shape.tokens; ++t) token_mean += statistics.token_square[t] * statistics.weight[t];
  token_mean = std::sqrt(token_mean / statistics.rows);
  const float per_mean = token_mean > 0 ? kLeastScaleOfMean / token_mean : kLeastScaleOfMean;
  HWY_ALIGN float scale[kMaxHeadDim];
  float largest = 0;
  for (size_t d = 0; d < shape.head_dim; ++d) {
    scale[d] = std::max(std::sqrt(statistics.channel_square[d]), std::abs(statistics.mean[d]) * per_mean);
    largest = std::max(largest, scale[d]);
  }
  for (size_t d = 0; d < shape.head_dim; ++d) scale[d] = largest > 0 ? scale[d] / largest : 0.0f;
  NearestLogScales(scale, shape.head_dim, scales.channel_scales);
  for (size_t d = 0; d < shape.head_dim; ++d) {
    scales.channel_scales[d] = std::min(scales.channel_scales[d], kMaxChannelScale);
  }
}

void QuantizeTokens(const TileShape& shape, const float* HWY_RESTRICT squares, Statistics& statistics,
                    LadderScales& scales) {
  HWY_ALIGN float sums[kMaxTokens] = {}, factors[kMaxHeadDim];
  for (size_t d = 0; d < shape.head_dim; ++d) {
    const float scale = EffectiveScale(scales.channel_scales[d], shape.head_dim);
    factors[d] = scale > 0 ? 1.0f / (scale * scale) : 0.0f;
  }
  for (size_t first = 0; first < shape.head_dim; first += kChannels) {
    AddRows(squares + first * shape.tokens, factors + first, shape.tokens, sums);
  }
  UpdateTokens(shape, sums, statistics);
  for (size_t t = 0; t < shape.tokens; ++t) sums[t] = std::sqrt(statistics.token_square[t]);
  NearestLogScales(sums, shape.tokens, scales.token_scales);
}

void QuantizeMeans(const TileShape& shape, const Statistics& statistics, LadderScales& scales) {
  HWY_ALIGN float relative[kMaxHeadDim];
  float absmax = 0;
  for (size_t d = 0; d < shape.head_dim; ++d) {
    const float scale = EffectiveScale(scales.channel_scales[d], shape.head_dim);
    relative[d] = scale > 0 ? statistics.mean[d] / scale : 0.0f;
    absmax = std::max(absmax, std::abs(relative[d]));
  }
  scales.mean_scale = CoveringLogScale(absmax);
  const float inverse = 1.0f / LogScale(scales.mean_scale);
  for (size_t d = 0; d < shape.head_dim; ++d) scales.mean_codes[d] = CodeOf(relative[d], inverse);
}

void FitScales(const TileShape& shape, uint32_t sinks, bool keep_mean, const float* HWY_RESTRICT rotated,
               float* HWY_RESTRICT squares, LadderScales& scales) {
  Statistics statistics;
  statistics.rows = float(shape.tokens - sinks);
  for (size_t t = 0; t < shape.tokens; ++t) statistics.weight[t] = statistics.inverse[t] = t < sinks ? 0.0f : 1.0f;
  TakeSquares(shape, keep_mean, rotated, squares, statistics);
  for (int pass = 0; pass < kSinkhornPasses; ++pass) SinkhornPass(shape, squares, statistics);
  QuantizeChannels(shape, statistics, scales);
  QuantizeTokens(shape, squares, statistics, scales);
  if (keep_mean) QuantizeMeans(shape, statistics, scales);
}

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(FitScales);

void FitScales(const TileShape& shape, uint32_t sinks, bool keep_mean, const float* rotated, float* squares,
               LadderScales& scales) {
  HWY_DYNAMIC_DISPATCH(FitScales)(shape, sinks, keep_mean, rotated, squares, scales);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
