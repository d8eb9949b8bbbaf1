#include "kernels/simd/encode_tile.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/encode_scales.h"
#include "kernels/tables.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/encode_tile.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

constexpr size_t kMaxHeadDim = 256, kMaxTokens = 256;
constexpr size_t kSums = kPartialSums;

namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::CappedTag<float, kSums>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;

HWY_INLINE float WidenFinite(uint16_t bits, bool f16) {
  const uint32_t wide = uint32_t{bits};
  if (!f16) return std::bit_cast<float>(wide << 16);
  const float magnitude = std::bit_cast<float>((wide & 0x7fff) << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | (wide & 0x8000) << 16);
}

template <bool kF16, class D>
HWY_INLINE hn::Vec<D> LoadFinite(D d, const uint16_t* HWY_RESTRICT values) {
  const hn::RebindToUnsigned<D> du;
  const auto wide = hn::PromoteTo(du, hn::LoadU(hn::Rebind<uint16_t, D>(), values));
  if constexpr (!kF16) return hn::BitCast(d, hn::ShiftLeft<16>(wide));
  const auto magnitude = hn::BitCast(d, hn::ShiftLeft<13>(hn::And(wide, hn::Set(du, 0x7fffu))));
  const auto sign = hn::BitCast(d, hn::ShiftLeft<16>(hn::And(wide, hn::Set(du, 0x8000u))));
  return hn::Or(hn::Mul(magnitude, hn::Set(d, 0x1p112f)), sign);
}

// Nearest integer, ties to even. REQUIRES: |value| < 2^22.
HWY_INLINE float RoundEven(float value) { return (value + 12582912.0f) - 12582912.0f; }

HWY_INLINE float SumOf(const float* sums) {
  float total = 0;
  for (size_t j = 0; j < kSums; ++j) total += sums[j];
  return total;
}

// SumOf of several: so many chains of additions go side by side.
constexpr size_t kChains = 8;
HWY_INLINE void SumsOf(const float (&sums)[kChains][kSums], float (&totals)[kChains]) {
  for (size_t i = 0; i < kChains; ++i) totals[i] = 0;
  for (size_t j = 0; j < kSums; ++j) {
    for (size_t i = 0; i < kChains; ++i) totals[i] += sums[i][j];
  }
}

// Some code for NaN too (finite values near the largest overflow when they are rotated): such a tile misses its floor.
HWY_INLINE int8_t CodeOf(float value, float inverse) {
  return int8_t(RoundEven(std::min(127.0f, std::max(-127.0f, value * inverse))));
}

// One butterfly stage of a WHT over rows, 16 tokens at a time.
template <size_t kLength>
HWY_INLINE void TransformColumns(float (*HWY_RESTRICT rows)[kSums]) {
  for (size_t half = 1; half < kLength; half *= 2) {
    for (size_t i = 0; i < kLength; i += 2 * half) {
      for (size_t r = i; r < i + half; ++r) {
        for (size_t j = 0; j < kSums; ++j) {
          const float a = rows[r][j], b = rows[r + half][j];
          rows[r][j] = a + b;
          rows[r + half][j] = a - b;
        }
      }
    }
  }
}

// Sixteen tokens as columns.
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
template <bool kF16>
void LoadColumns(const uint16_t* HWY_RESTRICT values, size_t head_dim, float (*HWY_RESTRICT rows)[kSums]) {
  for (size_t j = 0; j < kSums; ++j) {
    for (size_t d = 0; d < head_dim; ++d) rows[d][j] = WidenFinite(values[j * head_dim + d], kF16);
  }
}
#else
template <bool kF16>
void LoadColumns(const uint16_t* HWY_RESTRICT values, size_t head_dim, float (*HWY_RESTRICT rows)[kSums]) {
  const Eight df;
  for (size_t j = 0; j < kSums; j += 8) {
    for (size_t d = 0; d < head_dim; d += 8) {
      hn::Vec<Eight> v[8];
#pragma GCC unroll 8
      for (size_t i = 0; i < 8; ++i) v[i] = LoadFinite<kF16>(df, values + (j + i) * head_dim + d);
      Transpose(v);
#pragma GCC unroll 8
      for (size_t i = 0; i < 8; ++i) hn::StoreU(v[i], df, rows[d + i] + j);
    }
  }
}
#endif

void Rotate(const TileShape& shape, const uint16_t* HWY_RESTRICT values, float* HWY_RESTRICT rotated) {
  const bool f16 = shape.dtype == Dtype::kF16;
  const size_t head_dim = shape.head_dim;
  const RotationBlocks split = BlocksOf(shape.head_dim);
  HWY_ALIGN float rows[kMaxHeadDim][kSums];
  for (size_t t = 0; t < shape.tokens; t += kSums) {
    if (f16) {
      LoadColumns<true>(values + t * head_dim, head_dim, rows);
    } else {
      LoadColumns<false>(values + t * head_dim, head_dim, rows);
    }
    for (int b = 0; b < split.count; ++b) {
      const RotationBlock& block = split.blocks[b];
      const float norm = block.Norm();
      for (size_t d = block.first; d < block.first + block.length; ++d) {
        const float factor = SignOf(d) * norm;
        for (size_t j = 0; j < kSums; ++j) rows[d][j] *= factor;
      }
      switch (block.length) {
        case 16:
          TransformColumns<16>(rows + block.first);
          break;
        case 32:
          TransformColumns<32>(rows + block.first);
          break;
        case 64:
          TransformColumns<64>(rows + block.first);
          break;
        case 128:
          TransformColumns<128>(rows + block.first);
          break;
        default:
          TransformColumns<256>(rows + block.first);
          break;
      }
    }
    for (size_t d = 0; d < head_dim; ++d) std::memcpy(rotated + d * shape.tokens + t, rows[d], sizeof(rows[d]));
  }
}

// Sums of a[t] * b[t] over every sixteenth t.
HWY_INLINE void PartialDots(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, size_t tokens,
                            float* HWY_RESTRICT sums) {
  const DF df;
  constexpr size_t kLanes = hn::MaxLanes(df), kVectors = kSums / kLanes;
  VF totals[kVectors];
  for (size_t v = 0; v < kVectors; ++v) totals[v] = hn::Zero(df);
  for (size_t t = 0; t < tokens; t += kSums) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t at = t + v * kLanes;
      totals[v] = hn::Add(totals[v], hn::Mul(hn::LoadU(df, a + at), hn::LoadU(df, b + at)));
    }
  }
  for (size_t v = 0; v < kVectors; ++v) hn::StoreU(totals[v], df, sums + v * kLanes);
}

// sum of a[t] * b[t]
HWY_INLINE float Dot(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, size_t tokens) {
  HWY_ALIGN float sums[kSums];
  PartialDots(a, b, tokens, sums);
  return SumOf(sums);
}

// Statistics of the tokens that count: weight 1, or 0 for a sink.
struct Statistics {
  HWY_ALIGN float weight[kMaxTokens];
  HWY_ALIGN float inverse[kMaxTokens];  // weight over the token's mean square
  HWY_ALIGN float token_square[kMaxTokens];
  HWY_ALIGN float channel_square[kMaxHeadDim];
  HWY_ALIGN float mean[kMaxHeadDim];
  float rows;
};

void TakeSquares(const TileShape& shape, bool keep_mean, const float* HWY_RESTRICT rotated, float* HWY_RESTRICT squares,
                 Statistics& statistics) {
  for (size_t d = 0; d < shape.head_dim; ++d) {
    const float* HWY_RESTRICT y = rotated + d * shape.tokens;
    float* HWY_RESTRICT z2 = squares + d * shape.tokens;
    const float mean = keep_mean ? Dot(y, statistics.weight, shape.tokens) / statistics.rows : 0.0f;
    for (size_t t = 0; t < shape.tokens; ++t) z2[t] = (y[t] - mean) * (y[t] - mean);
    statistics.mean[d] = mean;
  }
}

// token_square = mean over channels of squares / channel_square, and its inverse.
void UpdateTokens(const TileShape& shape, const float* HWY_RESTRICT sums, Statistics& statistics) {
  const DF df;
  const VF head_dim = hn::Set(df, float(shape.head_dim));
  for (size_t t = 0; t < shape.tokens; t += hn::Lanes(df)) {
    const VF square = hn::Div(hn::LoadU(df, sums + t), head_dim);
    const VF inverse = hn::Div(hn::Load(df, statistics.weight + t), square);
    hn::Store(square, df, statistics.token_square + t);
    hn::Store(hn::IfThenElseZero(hn::Gt(square, hn::Zero(df)), inverse), df, statistics.inverse + t);
  }
}

// sums[t] = the sum over channels, in their order, of square * factor. So many vectors of tokens stay in registers.
template <size_t kVectors>
HWY_INLINE void SumChannels(const float* HWY_RESTRICT squares, const float* HWY_RESTRICT factors, size_t tokens,
                            size_t head_dim, float* HWY_RESTRICT sums) {
  const DF df;
  const size_t lanes = hn::Lanes(df);
  VF totals[kVectors];
  for (size_t v = 0; v < kVectors; ++v) totals[v] = hn::Zero(df);
  for (size_t d = 0; d < head_dim; ++d) {
    const VF factor = hn::Set(df, factors[d]);
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      totals[v] = hn::Add(totals[v], hn::Mul(hn::LoadU(df, squares + d * tokens + v * lanes), factor));
    }
  }
  for (size_t v = 0; v < kVectors; ++v) hn::StoreU(totals[v], df, sums + v * lanes);
}

void SumAllChannels(const TileShape& shape, const float* HWY_RESTRICT squares, const float* HWY_RESTRICT factors,
                    float* HWY_RESTRICT sums) {
  constexpr size_t kMost = 8;
  const size_t lanes = hn::Lanes(DF());
  size_t t = 0;
  for (; t + kMost * lanes <= shape.tokens; t += kMost * lanes) {
    SumChannels<kMost>(squares + t, factors, shape.tokens, shape.head_dim, sums + t);
  }
  for (; t < shape.tokens; t += lanes) SumChannels<1>(squares + t, factors, shape.tokens, shape.head_dim, sums + t);
}

// One Sinkhorn pass: channels from the tokens before, tokens from the channels just found.
void SinkhornPass(const TileShape& shape, const float* HWY_RESTRICT squares, Statistics& statistics) {
  HWY_ALIGN float sums[kMaxTokens], factors[kMaxHeadDim];
  for (size_t first = 0; first < shape.head_dim; first += kChains) {
    HWY_ALIGN float partial[kChains][kSums];
    for (size_t i = 0; i < kChains; ++i) {
      PartialDots(squares + (first + i) * shape.tokens, statistics.inverse, shape.tokens, partial[i]);
    }
    float totals[kChains];
    SumsOf(partial, totals);
    for (size_t i = 0; i < kChains; ++i) {
      const float square = totals[i] / statistics.rows;
      statistics.channel_square[first + i] = square;
      factors[first + i] = square > 0 ? 1.0f / square : 0.0f;
    }
  }
  SumAllChannels(shape, squares, factors, sums);
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
  for (size_t d = 0; d < shape.head_dim; ++d) {
    scales.channel_scales[d] = largest > 0 ? std::min(NearestLogScale(scale[d] / largest), kMaxChannelScale) : 0;
  }
}

void QuantizeTokens(const TileShape& shape, const float* HWY_RESTRICT squares, const LadderScales& of_channels,
                    Statistics& statistics, LadderScales& scales) {
  HWY_ALIGN float sums[kMaxTokens], factors[kMaxHeadDim];
  for (size_t d = 0; d < shape.head_dim; ++d) {
    const float scale = EffectiveScale(of_channels.channel_scales[d], shape.head_dim);
    factors[d] = scale > 0 ? 1.0f / (scale * scale) : 0.0f;
  }
  SumAllChannels(shape, squares, factors, sums);
  UpdateTokens(shape, sums, statistics);
  for (size_t t = 0; t < shape.tokens; ++t)
    scales.token_scales[t] = NearestLogScale(std::sqrt(statistics.token_square[t]));
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
  QuantizeTokens(shape, squares, scales, statistics, scales);
  if (keep_mean) QuantizeMeans(shape, statistics, scales);
}

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(Rotate);
HWY_EXPORT(FitScales);

void Rotate(const TileShape& shape, const uint16_t* values, float* rotated) {
  HWY_DYNAMIC_DISPATCH(Rotate)(shape, values, rotated);
}

void FitScales(const TileShape& shape, uint32_t sinks, bool keep_mean, const float* rotated, float* squares,
               LadderScales& scales) {
  HWY_DYNAMIC_DISPATCH(FitScales)(shape, sinks, keep_mean, rotated, squares, scales);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
