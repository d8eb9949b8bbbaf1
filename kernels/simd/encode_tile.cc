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

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

constexpr size_t kMaxHeadDim = 256, kMaxTokens = 256;
constexpr size_t kSums = kPartialSums;

HWY_INLINE float WidenFinite(uint16_t bits, bool f16) {
  const uint32_t wide = uint32_t{bits};
  if (!f16) return std::bit_cast<float>(wide << 16);
  const float magnitude = std::bit_cast<float>((wide & 0x7fff) << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | (wide & 0x8000) << 16);
}

// Nearest integer, ties to even. REQUIRES: |value| < 2^22.
HWY_INLINE float RoundEven(float value) { return (value + 12582912.0f) - 12582912.0f; }

HWY_INLINE float SumOf(const float* sums) {
  float total = 0;
  for (size_t j = 0; j < kSums; ++j) total += sums[j];
  return total;
}

// Some code for NaN too (finite values near the largest overflow when they are rotated): such a tile misses its floor.
HWY_INLINE int8_t CodeOf(float value, float inverse) {
  return int8_t(RoundEven(std::min(127.0f, std::max(-127.0f, value * inverse))));
}

bool AllFinite(const TileShape& shape, const uint16_t* HWY_RESTRICT values) {
  const uint16_t exponent = shape.dtype == Dtype::kBf16 ? 0x7f80 : 0x7c00;
  uint16_t found = 0;
  for (size_t i = 0; i < size_t{shape.tokens} * shape.head_dim; ++i) {
    found |= uint16_t((values[i] & exponent) == exponent);
  }
  return found == 0;
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

void Rotate(const TileShape& shape, const uint16_t* HWY_RESTRICT values, float* HWY_RESTRICT rotated) {
  const bool f16 = shape.dtype == Dtype::kF16;
  const size_t head_dim = shape.head_dim;
  const RotationBlocks split = BlocksOf(shape.head_dim);
  HWY_ALIGN float rows[kMaxHeadDim][kSums];
  for (size_t t = 0; t < shape.tokens; t += kSums) {
    for (size_t j = 0; j < kSums; ++j) {
      const uint16_t* HWY_RESTRICT from = values + (t + j) * head_dim;
      for (size_t d = 0; d < head_dim; ++d) rows[d][j] = WidenFinite(from[d], f16);
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

// sum of a[t] * b[t]
HWY_INLINE float Dot(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, size_t tokens) {
  float sums[kSums] = {};
  for (size_t t = 0; t < tokens; t += kSums) {
    for (size_t j = 0; j < kSums; ++j) sums[j] += a[t + j] * b[t + j];
  }
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
  for (size_t t = 0; t < shape.tokens; ++t) {
    const float square = sums[t] / float(shape.head_dim);
    statistics.token_square[t] = square;
    statistics.inverse[t] = square > 0 ? statistics.weight[t] / square : 0.0f;
  }
}

HWY_INLINE void Accumulate(const float* HWY_RESTRICT row, float factor, size_t tokens, float* HWY_RESTRICT sums) {
  for (size_t t = 0; t < tokens; ++t) sums[t] += row[t] * factor;
}

// One Sinkhorn pass: channels from the tokens before, tokens from the channels just found.
void SinkhornPass(const TileShape& shape, const float* HWY_RESTRICT squares, Statistics& statistics) {
  HWY_ALIGN float sums[kMaxTokens] = {};
  for (size_t d = 0; d < shape.head_dim; ++d) {
    const float* HWY_RESTRICT z2 = squares + d * shape.tokens;
    const float square = Dot(z2, statistics.inverse, shape.tokens) / statistics.rows;
    statistics.channel_square[d] = square;
    Accumulate(z2, square > 0 ? 1.0f / square : 0.0f, shape.tokens, sums);
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
  for (size_t d = 0; d < shape.head_dim; ++d) {
    scales.channel_scales[d] = largest > 0 ? std::min(NearestLogScale(scale[d] / largest), kMaxChannelScale) : 0;
  }
}

// What a channel's multiplier stands for; zero for a channel too small to be kept.
HWY_INLINE float EffectiveScale(const TileShape& shape, uint8_t u) {
  return float(ChannelMultiplier(u, shape.head_dim)) * MultiplierScale(shape.head_dim);
}

void QuantizeTokens(const TileShape& shape, const float* HWY_RESTRICT squares, const LadderScales& of_channels,
                    Statistics& statistics, LadderScales& scales) {
  HWY_ALIGN float sums[kMaxTokens] = {};
  for (size_t d = 0; d < shape.head_dim; ++d) {
    const float scale = EffectiveScale(shape, of_channels.channel_scales[d]);
    Accumulate(squares + d * shape.tokens, scale > 0 ? 1.0f / (scale * scale) : 0.0f, shape.tokens, sums);
  }
  UpdateTokens(shape, sums, statistics);
  for (size_t t = 0; t < shape.tokens; ++t)
    scales.token_scales[t] = NearestLogScale(std::sqrt(statistics.token_square[t]));
}

void QuantizeMeans(const TileShape& shape, const Statistics& statistics, LadderScales& scales) {
  HWY_ALIGN float relative[kMaxHeadDim];
  float absmax = 0;
  for (size_t d = 0; d < shape.head_dim; ++d) {
    const float scale = EffectiveScale(shape, scales.channel_scales[d]);
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

namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::CappedTag<float, kSums>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;

// Where the outermost cell changes its part, in the unit of kBases8.
struct OuterThresholds {
  float at[15] = {};
  constexpr OuterThresholds() {
    for (int i = 0; i < 15; ++i) {
      at[i] = float(kBases8[15]) + float(kSteps8[15]) * float(kOuterParts[i] + kOuterParts[i + 1]) / 512.0f;
    }
  }
};
inline constexpr OuterThresholds kOuterThresholds{};

HWY_INLINE VI CountAbove(VF value, const float* thresholds, size_t count) {
  const DF df;
  const DI di;
  VI above = hn::Zero(di);
  for (size_t i = 0; i < count; ++i) {
    above = hn::Sub(above, hn::BitCast(di, hn::VecFromMask(df, value > hn::Set(df, thresholds[i]))));
  }
  return above;
}

// Where in its cell a magnitude lies, 0 to 15: equal parts, but in the outermost cell.
HWY_INLINE VI PartOf(VF magnitude, VI cell) {
  const DF df;
  const DI di;
  const VF at = hn::Mul(magnitude, hn::Set(df, 1.0f / (64.0f * kLevelUnit8)));
  VF base = hn::Zero(df), inverse = hn::Set(df, 16.0f / float(kSteps8[8]));
  for (size_t i = 0; i < 7; ++i) {
    const auto beyond = magnitude > hn::Set(df, kThresholds[i]);
    base = hn::IfThenElse(beyond, hn::Set(df, float(kBases8[9 + i])), base);
    inverse = hn::IfThenElse(beyond, hn::Set(df, 16.0f / float(kSteps8[9 + i])), inverse);
  }
  const VF inner = hn::Min(hn::Max(hn::Mul(hn::Sub(at, base), inverse), hn::Zero(df)), hn::Set(df, 15.0f));
  const VI outer = CountAbove(at, kOuterThresholds.at, 15);
  return hn::And(hn::IfThenElse(cell == hn::Set(di, 7), outer, hn::ConvertTo(di, inner)), hn::Set(di, 15));
}

// 8-bit codes of normalised values, or 4-bit ones in the upper half: the cell by how many thresholds lie below the
// magnitude, mirrored for negative values.
template <bool k8>
HWY_INLINE VI NearestCodes(VF value) {
  const DF df;
  const DI di;
  const VF magnitude = hn::Abs(value);
  const VI cell = CountAbove(magnitude, kThresholds, 7);
  VI code = hn::Add(hn::ShiftLeft<4>(cell), hn::Set(di, 128));
  if constexpr (k8) code = hn::Add(code, PartOf(magnitude, cell));
  const VI negative = hn::BitCast(di, hn::VecFromMask(df, value < hn::Zero(df)));
  return hn::Xor(code, hn::And(negative, hn::Set(di, k8 ? 0xff : 0xf0)));
}

HWY_INLINE size_t PositionOf(size_t d, size_t head_dim) {
  const size_t first = d / kStrip * kStrip, length = std::min<size_t>(kStrip, head_dim - first), i = d - first;
  return first + (i < length / 2 ? 2 * i : 2 * (i - length / 2) + 1);
}

template <bool k8>
void CodesOf(const TileShape& shape, uint32_t sinks, const LadderScales& scales, const float* HWY_RESTRICT rotated,
             uint8_t* HWY_RESTRICT scratch, uint8_t* HWY_RESTRICT codes) {
  const DF df;
  const hn::Rebind<uint8_t, DF> d8;
  const size_t tokens = shape.tokens, head_dim = shape.head_dim;
  HWY_ALIGN float inverse[kMaxTokens];
  for (size_t t = 0; t < tokens; ++t) inverse[t] = 1.0f / LogScale(scales.token_scales[t]);
  const float mean_unit = LogScale(scales.mean_scale);
  for (size_t d = 0; d < head_dim; ++d) {
    const float scale = EffectiveScale(shape, scales.channel_scales[d]);
    const float factor = scale > 0 ? 1.0f / scale : 0.0f, mean = float(scales.mean_codes[d]) * scale * mean_unit;
    const float* HWY_RESTRICT y = rotated + d * tokens;
    uint8_t* HWY_RESTRICT out = scratch + PositionOf(d, head_dim) * tokens;
    for (size_t t = 0; t < tokens; t += hn::MaxLanes(df)) {
      const VF centred = hn::Sub(hn::LoadU(df, y + t), hn::Set(df, mean));
      const VF value = hn::Mul(hn::Mul(centred, hn::Set(df, factor)), hn::Load(df, inverse + t));
      hn::StoreU(hn::DemoteTo(d8, NearestCodes<k8>(value)), d8, out + t);
    }
  }
  for (size_t t = sinks; t < tokens; ++t) {
    uint8_t* HWY_RESTRICT row = codes + (t - sinks) * head_dim;
    for (size_t position = 0; position < head_dim; ++position) row[position] = scratch[position * tokens + t];
  }
}

void LadderCodes(const TileShape& shape, uint32_t sinks, const LadderScales& scales, int bits,
                 const float* HWY_RESTRICT rotated, uint8_t* HWY_RESTRICT scratch, uint8_t* HWY_RESTRICT codes) {
  if (bits == 8) return CodesOf<true>(shape, sinks, scales, rotated, scratch, codes);
  CodesOf<false>(shape, sinks, scales, rotated, scratch, codes);
}

// Bits of `code` at `shift` (`bits` of them), of positions `run` apart, into `run` bytes.
template <int kBits, int kShift>
HWY_INLINE void PackStrip(const uint8_t* HWY_RESTRICT codes, size_t length, uint8_t* HWY_RESTRICT out) {
  const size_t run = length * kBits / 8;
  for (size_t j = 0; j < run; ++j) {
    uint32_t byte = 0;
    for (size_t q = 0; q < 8 / kBits; ++q) {
      byte |= (uint32_t{codes[q * run + j]} >> kShift & ((1u << kBits) - 1)) << (q * kBits);
    }
    out[j] = uint8_t(byte);
  }
}

void PackPlanes(const TileShape& shape, uint32_t rows, const uint8_t* HWY_RESTRICT codes, uint8_t* const planes[4]) {
  const size_t head_dim = shape.head_dim;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t first = 0; first < head_dim; first += kStrip) {
      const size_t length = std::min<size_t>(kStrip, head_dim - first), at = row * head_dim + first;
      PackStrip<2, 6>(codes + at, length, planes[0] + at / 4);
      if (planes[1] != nullptr) PackStrip<1, 5>(codes + at, length, planes[1] + at / 8);
      if (planes[2] != nullptr) PackStrip<1, 4>(codes + at, length, planes[2] + at / 8);
      if (planes[3] != nullptr) PackStrip<4, 0>(codes + at, length, planes[3] + at / 2);
    }
  }
}

void WideRows(const TileShape& shape, uint32_t count, const float* HWY_RESTRICT rotated, uint8_t* HWY_RESTRICT out) {
  for (size_t t = 0; t < count; ++t) {
    float absmax = 0;
    for (size_t d = 0; d < shape.head_dim; ++d) absmax = std::max(absmax, std::abs(rotated[d * shape.tokens + t]));
    uint8_t* row = out + t * (1 + shape.head_dim);
    row[0] = CoveringLogScale(absmax);
    const float inverse = 1.0f / LogScale(row[0]);
    for (size_t d = 0; d < shape.head_dim; ++d) row[1 + d] = uint8_t(CodeOf(rotated[d * shape.tokens + t], inverse));
  }
}

void I8Rows(const TileShape& shape, const uint16_t* HWY_RESTRICT values, uint8_t* HWY_RESTRICT token_scales,
            uint8_t* HWY_RESTRICT codes) {
  const bool f16 = shape.dtype == Dtype::kF16;
  HWY_ALIGN float row[kMaxHeadDim];
  for (size_t t = 0; t < shape.tokens; ++t) {
    float maxima[kSums] = {};
    for (size_t d = 0; d < shape.head_dim; d += kSums) {
      for (size_t j = 0; j < kSums; ++j) {
        row[d + j] = WidenFinite(values[t * shape.head_dim + d + j], f16);
        const float magnitude = std::abs(row[d + j]);
        maxima[j] = magnitude > maxima[j] ? magnitude : maxima[j];
      }
    }
    token_scales[t] = CoveringLogScale(*std::max_element(maxima, maxima + kSums));
    const float inverse = 1.0f / LogScale(token_scales[t]);
    uint8_t* HWY_RESTRICT out = codes + t * shape.head_dim;
    for (size_t d = 0; d < shape.head_dim; ++d) out[d] = uint8_t(CodeOf(row[d], inverse));
  }
}

TileError Compare(const TileShape& shape, const uint16_t* HWY_RESTRICT values, const uint16_t* HWY_RESTRICT decoded) {
  const bool f16 = shape.dtype == Dtype::kF16;
  TileError error;
  bool different = false;
  for (size_t t = 0; t < shape.tokens; ++t) {
    float signal[kSums] = {}, noise[kSums] = {};
    uint32_t differs = 0;
    for (size_t d = 0; d < shape.head_dim; d += kSums) {
      const size_t at = t * shape.head_dim + d;
      for (size_t j = 0; j < kSums; ++j) {
        const float value = WidenFinite(values[at + j], f16), off = WidenFinite(decoded[at + j], f16) - value;
        signal[j] += value * value;
        noise[j] += off * off;
        differs |= uint32_t(off != 0);
      }
    }
    error.signal += SumOf(signal);
    error.noise += SumOf(noise);
    different |= differs != 0;
  }
  error.identical = !different;
  error.finite = HWY_NAMESPACE::AllFinite(shape, decoded);
  return error;
}

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(AllFinite);
HWY_EXPORT(Rotate);
HWY_EXPORT(FitScales);
HWY_EXPORT(LadderCodes);
HWY_EXPORT(PackPlanes);
HWY_EXPORT(WideRows);
HWY_EXPORT(I8Rows);
HWY_EXPORT(Compare);

bool AllFinite(const TileShape& shape, const uint16_t* values) {
  return HWY_DYNAMIC_DISPATCH(AllFinite)(shape, values);
}

void Rotate(const TileShape& shape, const uint16_t* values, float* rotated) {
  HWY_DYNAMIC_DISPATCH(Rotate)(shape, values, rotated);
}

void FitScales(const TileShape& shape, uint32_t sinks, bool keep_mean, const float* rotated, float* squares,
               LadderScales& scales) {
  HWY_DYNAMIC_DISPATCH(FitScales)(shape, sinks, keep_mean, rotated, squares, scales);
}

void LadderCodes(const TileShape& shape, uint32_t sinks, const LadderScales& scales, int bits, const float* rotated,
                 uint8_t* scratch, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(LadderCodes)(shape, sinks, scales, bits, rotated, scratch, codes);
}

void PackPlanes(const TileShape& shape, uint32_t rows, const uint8_t* codes, uint8_t* const planes[4]) {
  HWY_DYNAMIC_DISPATCH(PackPlanes)(shape, rows, codes, planes);
}

void WideRows(const TileShape& shape, uint32_t count, const float* rotated, uint8_t* out) {
  HWY_DYNAMIC_DISPATCH(WideRows)(shape, count, rotated, out);
}

void I8Rows(const TileShape& shape, const uint16_t* values, uint8_t* token_scales, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(I8Rows)(shape, values, token_scales, codes);
}

TileError Compare(const TileShape& shape, const uint16_t* values, const uint16_t* decoded) {
  return HWY_DYNAMIC_DISPATCH(Compare)(shape, values, decoded);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
