// LadderCodes and PackPlanes of encode_tile.h: from rotated values to the planes' bytes.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/encode_scales.h"
#include "kernels/simd/encode_tile.h"
#include "kernels/tables.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/encode_codes.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

#include "kernels/simd/encode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kMaxTokens = 256;

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

HWY_INLINE size_t PositionOf(size_t d, size_t head_dim) {
  const size_t first = d / kStrip * kStrip, length = std::min<size_t>(kStrip, head_dim - first), i = d - first;
  return first + (i < length / 2 ? 2 * i : 2 * (i - length / 2) + 1);
}

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

size_t CountAbove(float value, const float* thresholds, size_t count) {
  size_t above = 0;
  for (size_t i = 0; i < count; ++i) above += value > thresholds[i];
  return above;
}

// 8-bit code of a normalised value, or a 4-bit one in the upper half: the cell by how many thresholds lie below the magnitude,
// mirrored for negative values; then where in its cell it lies: equal parts, but in the outermost cell.
template <bool k8>
uint8_t NearestCode(float value) {
  const float magnitude = std::abs(value), at = magnitude * (1.0f / (64.0f * kLevelUnit8));
  const size_t cell = CountAbove(magnitude, kThresholds, 7);
  uint32_t code = uint32_t(128 + 16 * cell);
  if (k8 && cell == 7) {
    code += uint32_t(CountAbove(at, kOuterThresholds.at, 15));
  } else if (k8) {
    const float inner = (at - float(kBases8[8 + cell])) * (16.0f / float(kSteps8[8 + cell]));
    code += uint32_t(std::min(std::max(inner, 0.0f), 15.0f));
  }
  return uint8_t(code ^ (value < 0 ? (k8 ? 0xff : 0xf0) : 0));
}

template <bool k8>
void CodesOf(const TileShape& shape, uint32_t sinks, const LadderScales& scales, const float* HWY_RESTRICT rotated,
             uint8_t* HWY_RESTRICT scratch, uint8_t* HWY_RESTRICT codes) {
  const size_t tokens = shape.tokens, head_dim = shape.head_dim;
  const float mean_unit = LogScale(scales.mean_scale);
  for (size_t d = 0; d < head_dim; ++d) {
    const float scale = EffectiveScale(scales.channel_scales[d], shape.head_dim);
    const float factor = scale > 0 ? 1.0f / scale : 0.0f, mean = float(scales.mean_codes[d]) * scale * mean_unit;
    for (size_t t = sinks; t < tokens; ++t) {
      const float inverse = 1.0f / LogScale(scales.token_scales[t]);
      const float value = (rotated[d * tokens + t] - mean) * factor * inverse;
      codes[(t - sinks) * head_dim + PositionOf(d, head_dim)] = NearestCode<k8>(value);
    }
  }
}

#else

using D8 = hn::FixedTag<uint8_t, 16>;
using EightInts = hn::RebindToSigned<Eight>;
using VI = hn::Vec<EightInts>;

// Cells by bins of equal width, eight units of kBases8, whose middles are its multiples: each but the first has one threshold, so
// one comparison finds the cell. The bins' bounds are a unit or more from all thresholds, so that how a value beside one is
// rounded does not matter.
struct CellTables {
  HWY_ALIGN float thresholds[8] = {-1,
                                   kThresholds[0],
                                   kThresholds[1],
                                   kThresholds[2],
                                   kThresholds[3],
                                   kThresholds[4],
                                   kThresholds[5],
                                   kThresholds[6]};
  HWY_ALIGN float bases[8] = {};  // by cell
  HWY_ALIGN float inverses[8] = {};
  constexpr CellTables() {
    for (size_t i = 0; i < 8; ++i) {
      bases[i] = float(kBases8[8 + i]);
      inverses[i] = 16.0f / float(kSteps8[8 + i]);
    }
  }
};
inline constexpr CellTables kCellTables{};
constexpr float kBin = 8 * 64.0f * kLevelUnit8;

// Added to a small integer, or to a number that is rounded to one, this leaves it in the lower bits.
constexpr float kIntegers = 12582912.0f;
constexpr int32_t kIntegerBits = std::bit_cast<int32_t>(kIntegers);

template <class V>
HWY_INLINE V LookUp(V table, VI index) {
  return hn::TableLookupLanes(table, hn::IndicesFromVec(hn::DFromV<V>(), index));
}

// 8-bit codes of normalised values, or 4-bit ones in the upper half: the cell by how many thresholds lie below the magnitude,
// mirrored for negative values; then where in its cell it lies.
template <bool k8>
class NearestCodes {
 public:
  HWY_INLINE NearestCodes() {}  // spelled out: an implicit one is compiled for the baseline target

  HWY_INLINE VI operator()(VF value) const {
    const Eight d;
    const EightInts di;
    const VF magnitude = hn::Abs(value);
    const VF nearest =
        hn::MulAdd(hn::Min(magnitude, hn::Set(d, 7 * kBin)), hn::Set(d, 1 / kBin), hn::Set(d, kIntegers));
    const VI bin = hn::Sub(hn::BitCast(di, nearest), hn::Set(di, kIntegerBits));
    const VI above = hn::BitCast(di, hn::VecFromMask(d, magnitude > LookUp(thresholds_, bin)));
    const VI next = hn::Sub(bin, above);  // the cell and one
    VI code = hn::Add(hn::ShiftLeft<4>(next), hn::Set(di, k8 ? 112 - kIntegerBits : 112));
    if constexpr (k8) code = hn::Add(code, PartOf(magnitude, hn::Sub(next, hn::Set(di, 1))));
    const VI negative = hn::BitCast(di, hn::VecFromMask(d, value < hn::Zero(d)));
    return hn::Xor(code, hn::And(negative, hn::Set(di, k8 ? 0xff : 0xf0)));
  }

 private:
  // 0 to 15 and kIntegerBits: equal parts, but in the outermost cell, where few values are.
  HWY_INLINE VI PartOf(VF magnitude, VI cell) const {
    const Eight d;
    const EightInts di;
    const VF at = hn::Mul(magnitude, hn::Set(d, 1.0f / (64.0f * kLevelUnit8)));
    const VF scaled = hn::Mul(hn::Sub(at, LookUp(bases_, cell)), LookUp(inverses_, cell));
    const VF part = hn::Trunc(hn::Min(hn::Max(scaled, hn::Zero(d)), hn::Set(d, 15.0f)));
    const VI inner = hn::BitCast(di, hn::Add(part, hn::Set(d, kIntegers)));
    const auto outermost = hn::Eq(cell, hn::Set(di, 7));
    if (HWY_LIKELY(hn::AllFalse(di, outermost))) return inner;
    VI outer = hn::Set(di, kIntegerBits);
    for (float threshold : kOuterThresholds.at) {
      outer = hn::Sub(outer, hn::BitCast(di, hn::VecFromMask(d, at > hn::Set(d, threshold))));
    }
    return hn::IfThenElse(outermost, outer, inner);
  }

  const VF thresholds_ = hn::Load(Eight(), kCellTables.thresholds);
  const VF bases_ = hn::Load(Eight(), kCellTables.bases);
  const VF inverses_ = hn::Load(Eight(), kCellTables.inverses);
};

// Sixteen by sixteen bytes: each round puts one bit of the row's number behind the bits of the column's.
HWY_INLINE void TransposeBytes(hn::Vec<D8> (&v)[16]) {
  const D8 d8;
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    hn::Vec<D8> next[16];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
      next[2 * i] = hn::InterleaveLower(d8, v[i], v[i + 8]);
      next[2 * i + 1] = hn::InterleaveUpper(d8, v[i], v[i + 8]);
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; ++i) v[i] = next[i];
  }
}

// Of sixteen tokens that were worked on together, the one whose codes are byte `i`: their two halves take turns.
constexpr size_t TokenOf(size_t i) { return i / 2 + i % 2 * 8; }

// codes [tokens from sinks on][head_dim] of scratch [head_dim][tokens].
void RowsOfCodes(size_t tokens, size_t head_dim, uint32_t sinks, const uint8_t* HWY_RESTRICT scratch,
                 uint8_t* HWY_RESTRICT codes) {
  const D8 d8;
  for (size_t t = 0; t < tokens; t += 16) {
    for (size_t position = 0; position < head_dim; position += 16) {
      hn::Vec<D8> v[16];
      for (size_t i = 0; i < 16; ++i) v[i] = hn::LoadU(d8, scratch + (position + i) * tokens + t);
      TransposeBytes(v);
      for (size_t i = 0; i < 16; ++i) {
        const size_t token = t + TokenOf(i);
        if (token >= sinks) hn::StoreU(v[i], d8, codes + (token - sinks) * head_dim + position);
      }
    }
  }
}

template <bool k8>
void CodesOf(const TileShape& shape, uint32_t sinks, const LadderScales& scales, const float* HWY_RESTRICT rotated,
             uint8_t* HWY_RESTRICT scratch, uint8_t* HWY_RESTRICT codes) {
  const Eight df;
  const hn::RebindToSigned<Sixteen> d16;
  const hn::Rebind<uint8_t, Sixteen> d8;
  const size_t tokens = shape.tokens, head_dim = shape.head_dim;
  HWY_ALIGN float inverse[kMaxTokens];
  for (size_t t = 0; t < tokens; ++t) inverse[t] = 1.0f / kLogScales[scales.token_scales[t]];
  const float mean_unit = LogScale(scales.mean_scale);
  const NearestCodes<k8> nearest;
  for (size_t d = 0; d < head_dim; ++d) {
    const float scale = EffectiveScale(scales.channel_scales[d], shape.head_dim);
    const VF factor = hn::Set(df, scale > 0 ? 1.0f / scale : 0.0f);
    const VF mean = hn::Set(df, float(scales.mean_codes[d]) * scale * mean_unit);
    const float* HWY_RESTRICT y = rotated + d * tokens;
    uint8_t* HWY_RESTRICT out = scratch + PositionOf(d, head_dim) * tokens;
    const auto codes_at = [&](size_t t) HWY_ATTR {
      const VF centred = hn::Sub(hn::LoadU(df, y + t), mean);
      return nearest(hn::Mul(hn::Mul(centred, factor), hn::Load(df, inverse + t)));
    };
    for (size_t t = 0; t < tokens; t += 16) {
      const VI pairs = hn::Or(codes_at(t), hn::ShiftLeft<16>(codes_at(t + 8)));
      hn::StoreU(hn::DemoteTo(d8, hn::BitCast(d16, pairs)), d8, out + t);
    }
  }
  RowsOfCodes(tokens, head_dim, sinks, scratch, codes);
}

#endif  // HWY_TARGET

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

#if HWY_TARGET != HWY_SCALAR

// Bit `kShift` of 64 codes, eight bytes: sixteen codes at a time, two bits of each byte.
template <int kShift>
HWY_INLINE void PackBits64(const uint8_t* HWY_RESTRICT codes, uint8_t* HWY_RESTRICT out) {
  const D8 d8;
  const hn::Repartition<uint16_t, D8> d16;
  const auto one = hn::Set(d8, uint8_t{1});
  const auto bit_of = [&](size_t quarter) HWY_ATTR {
    const auto wide = hn::BitCast(d16, hn::LoadU(d8, codes + 16 * quarter));
    return hn::And(hn::BitCast(d8, hn::ShiftRight<kShift>(wide)), one);
  };
  const auto shifted = [&](auto bits, auto shift) HWY_ATTR {
    return hn::BitCast(d8, hn::ShiftLeft<decltype(shift)::value>(hn::BitCast(d16, bits)));
  };
  const auto low = hn::Or(bit_of(0), shifted(bit_of(1), std::integral_constant<int, 2>()));
  const auto high = hn::Or(shifted(bit_of(2), std::integral_constant<int, 4>()),
                           shifted(bit_of(3), std::integral_constant<int, 6>()));
  HWY_ALIGN uint64_t halves[2];
  hn::Store(hn::Or(low, high), d8, reinterpret_cast<uint8_t*>(halves));
  const uint64_t packed = halves[0] | halves[1] << 1;
  std::memcpy(out, &packed, sizeof(packed));
}

// Bits 7 and 6 of 64 codes, sixteen bytes.
HWY_INLINE void PackPairs64(const uint8_t* HWY_RESTRICT codes, uint8_t* HWY_RESTRICT out) {
  const D8 d8;
  const hn::Repartition<uint16_t, D8> d16;
  const auto part = [&](size_t quarter) HWY_ATTR { return hn::BitCast(d16, hn::LoadU(d8, codes + 16 * quarter)); };
  const auto kept = [&](auto wide, uint8_t mask) HWY_ATTR { return hn::And(hn::BitCast(d8, wide), hn::Set(d8, mask)); };
  const auto low = hn::Or(kept(hn::ShiftRight<6>(part(0)), 0x03), kept(hn::ShiftRight<4>(part(1)), 0x0c));
  const auto high = hn::Or(kept(hn::ShiftRight<2>(part(2)), 0x30), kept(part(3), 0xc0));
  hn::StoreU(hn::Or(low, high), d8, out);
}

// Bits 3 to 0 of 64 codes, 32 bytes.
HWY_INLINE void PackNibbles64(const uint8_t* HWY_RESTRICT codes, uint8_t* HWY_RESTRICT out) {
  const D8 d8;
  const hn::Repartition<uint16_t, D8> d16;
  for (size_t at = 0; at < 32; at += 16) {
    const auto low = hn::And(hn::LoadU(d8, codes + at), hn::Set(d8, uint8_t{0x0f}));
    const auto high = hn::BitCast(d8, hn::ShiftLeft<4>(hn::BitCast(d16, hn::LoadU(d8, codes + 32 + at))));
    hn::StoreU(hn::Or(low, hn::And(high, hn::Set(d8, uint8_t{0xf0}))), d8, out + at);
  }
}

void PackStrip64(const uint8_t* HWY_RESTRICT codes, size_t at, uint8_t* const planes[4]) {
  PackPairs64(codes + at, planes[0] + at / 4);
  if (planes[1] != nullptr) PackBits64<5>(codes + at, planes[1] + at / 8);
  if (planes[2] != nullptr) PackBits64<4>(codes + at, planes[2] + at / 8);
  if (planes[3] != nullptr) PackNibbles64(codes + at, planes[3] + at / 2);
}

#endif  // HWY_TARGET

void PackPlanes(const TileShape& shape, uint32_t rows, const uint8_t* HWY_RESTRICT codes, uint8_t* const planes[4]) {
  const size_t head_dim = shape.head_dim;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t first = 0; first < head_dim; first += kStrip) {
      const size_t length = std::min<size_t>(kStrip, head_dim - first), at = row * head_dim + first;
#if HWY_TARGET != HWY_SCALAR
      if (length == kStrip) {
        PackStrip64(codes, at, planes);
        continue;
      }
#endif
      PackStrip<2, 6>(codes + at, length, planes[0] + at / 4);
      if (planes[1] != nullptr) PackStrip<1, 5>(codes + at, length, planes[1] + at / 8);
      if (planes[2] != nullptr) PackStrip<1, 4>(codes + at, length, planes[2] + at / 8);
      if (planes[3] != nullptr) PackStrip<4, 0>(codes + at, length, planes[3] + at / 2);
    }
  }
}

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(LadderCodes);
HWY_EXPORT(PackPlanes);

void LadderCodes(const TileShape& shape, uint32_t sinks, const LadderScales& scales, int bits, const float* rotated,
                 uint8_t* scratch, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(LadderCodes)(shape, sinks, scales, bits, rotated, scratch, codes);
}

void PackPlanes(const TileShape& shape, uint32_t rows, const uint8_t* codes, uint8_t* const planes[4]) {
  HWY_DYNAMIC_DISPATCH(PackPlanes)(shape, rows, codes, planes);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
