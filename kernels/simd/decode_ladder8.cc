#include "kernels/simd/decode_ladder8.h"

#include "kernels/reference/decode_tile.h"
#include "kernels/tables.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/decode_ladder8.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

#include "kernels/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

void DecodeLadder8(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  reference::DecodeTile(parameters, tile, target);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// How many values of v a sum of 16 bits can hold: |v| <= 7568 < 2^15 / 4.
constexpr size_t kNarrowSum = 4;

// Level8's tables by code and part.
struct Level8Tables {
  HWY_ALIGN uint8_t bases[16] = {};
  HWY_ALIGN uint8_t steps[16] = {};
  HWY_ALIGN uint8_t upper[16] = {};
  HWY_ALIGN uint8_t lower[16] = {};
  constexpr Level8Tables() {
    for (size_t i = 0; i < 16; ++i) {
      bases[i] = uint8_t(kBases8[i]);
      steps[i] = uint8_t(kSteps8[i]);
      upper[i] = kOuterParts[i];
      lower[i] = uint8_t(256 - kOuterParts[15 - i]);
    }
  }
};
inline constexpr Level8Tables kLevel8Tables{};

template <class D8>
struct Levels8 {
  HWY_INLINE Levels8() {}
  hn::Vec<D8> bases = Kept(hn::LoadDup128(D8(), kLevel8Tables.bases));
  hn::Vec<D8> steps = Kept(hn::LoadDup128(D8(), kLevel8Tables.steps));
  hn::Vec<D8> upper = Kept(hn::LoadDup128(D8(), kLevel8Tables.upper));
  hn::Vec<D8> lower = Kept(hn::LoadDup128(D8(), kLevel8Tables.lower));
};

// The low 4 bits of codes of one part of a strip, at byte positions.
template <size_t kLength, class D8>
HWY_INLINE hn::Vec<D8> UnpackParts(D8 d8, size_t part, const uint8_t* HWY_RESTRICT p3) {
  constexpr size_t kLanes = kLanesOf<D8>, kBytes = kLength / 2;
  const hn::Repartition<uint32_t, D8> d32;
  const auto shifts = hn::Load(d32, kStripPositions<kLength>.nibble_shifts + part * kLanesOf<decltype(d32)>);
  hn::Vec<D8> bytes;
  if constexpr (kLanes <= kBytes) {
    bytes = hn::LoadU(d8, p3 + part * kLanes % kBytes);
  } else if constexpr (kBytes == 32) {
    const hn::Half<D8> half;
    bytes = hn::Combine(d8, hn::LoadU(half, p3), hn::LoadU(half, p3));
  } else {
    bytes = Repeat<kBytes>(d8, p3);
  }
  return hn::And(hn::BitCast(d8, hn::Shr(hn::BitCast(d32, bytes), shifts)), hn::Set(d8, uint8_t{15}));
}

// One part of a strip to two vectors of v = (level * H + 2^14) >> 15.
template <class D8, typename V16>
HWY_INLINE void LevelsToValues(D8 d8, const Levels8<D8>& levels, hn::Vec<D8> cells, hn::Vec<D8> low, V16 low_multiplier,
                               V16 high_multiplier, V16& low_values, V16& high_values) {
  const hn::Repartition<uint16_t, D8> du16;
  const hn::Repartition<int16_t, D8> d16;
  const auto inner = hn::Or(hn::BitCast(d8, hn::ShiftLeft<4>(hn::BitCast(du16, low))), hn::Set(d8, uint8_t{8}));
  const auto top = hn::TableLookupBytes(levels.upper, low), bottom = hn::TableLookupBytes(levels.lower, low);
  const auto part =
      hn::IfThenElse(cells == hn::Set(d8, uint8_t{15}), top, hn::IfThenElse(cells == hn::Zero(d8), bottom, inner));
  const auto parts = hn::BitCast(du16, part);
  const auto steps = hn::BitCast(du16, hn::TableLookupBytes(levels.steps, cells));
  const auto bases = hn::BitCast(du16, hn::TableLookupBytes(levels.bases, cells));
  const auto lower_byte = hn::Set(du16, uint16_t{0xff});
  const auto low_level =
      hn::Add(hn::Mul(hn::And(parts, lower_byte), hn::And(steps, lower_byte)), hn::ShiftLeft<8>(bases));
  const auto high_level = hn::Add(hn::Mul(hn::ShiftRight<8>(parts), hn::ShiftRight<8>(steps)),
                                  hn::And(bases, hn::Set(du16, uint16_t{0xff00})));
  low_values = hn::MulFixedPoint15(hn::BitCast(d16, low_level), low_multiplier);
  high_values = hn::MulFixedPoint15(hn::BitCast(d16, high_level), high_multiplier);
}

// Sum and difference of neighbouring channels as 32 bits: the last stage of the transform, which splits even from odd.
template <class D16, class V32 = hn::Vec<hn::Repartition<int32_t, D16> > >
HWY_INLINE void PairButterfly(D16 d16, hn::Vec<D16> v, V32& sum, V32& difference) {
  const hn::Repartition<int32_t, D16> d32;
#if HWY_ARCH_X86
  V32 unused = hn::Zero(d32);
  const auto ones = hn::Set(d16, int16_t{1}), signs = hn::BitCast(d16, hn::Set(d32, int32_t(0xffff0001)));
  sum = hn::ReorderWidenMulAccumulate(d32, v, ones, hn::Zero(d32), unused);
  difference = hn::ReorderWidenMulAccumulate(d32, v, signs, hn::Zero(d32), unused);
#else
  const auto lanes = hn::BitCast(d32, v);
  const auto even = hn::ShiftRight<16>(hn::ShiftLeft<16>(lanes)), odd = hn::ShiftRight<16>(lanes);
  sum = hn::Add(even, odd);
  difference = hn::Sub(even, odd);
#endif
}

// +1 and -1 for the two halves of a butterfly between lanes `distance` apart.
struct LaneSigns {
  HWY_ALIGN float of[4][16] = {};
  constexpr LaneSigns() {
    for (size_t bit = 0; bit < 4; ++bit) {
      for (size_t lane = 0; lane < 16; ++lane) of[bit][lane] = (lane >> bit & 1) != 0 ? -1.0f : 1.0f;
    }
  }
};
inline constexpr LaneSigns kLaneSigns{};

// A butterfly between lanes of one vector. Exact: every value is an integer below 2^24, so a fused operation rounds nothing.
template <int kBit, class DF>
HWY_INLINE hn::Vec<DF> LaneButterfly(DF df, hn::Vec<DF> v) {
  hn::Vec<DF> other;
  if constexpr (kBit == 0) other = hn::Shuffle2301(v);
  if constexpr (kBit == 1) other = hn::Shuffle1032(v);
  if constexpr (kBit == 2) other = hn::SwapAdjacentBlocks(v);
  if constexpr (kBit == 3) other = hn::ConcatLowerUpper(df, v, v);
  return hn::MulAdd(v, hn::Load(df, kLaneSigns.of[kBit]), other);
}

template <class DF>
HWY_INLINE hn::Vec<DF> TransformLanes(DF df, hn::Vec<DF> v) {
  constexpr size_t kLanes = kLanesOf<DF>;
  v = LaneButterfly<0>(df, v);
  v = LaneButterfly<1>(df, v);
  if constexpr (kLanes >= 8) v = LaneButterfly<2>(df, v);
  if constexpr (kLanes >= 16) v = LaneButterfly<3>(df, v);
  return v;
}

// The transform of one row to floats, even channels and odd ones apart: first between vectors in 16 bits, as long as
// they hold it, then between neighbours, then in floats, which are exact up to 2^24.
template <size_t kBlock, typename V16, typename VF>
HWY_INLINE void TransformRow(V16* HWY_RESTRICT v, VF* HWY_RESTRICT even, VF* HWY_RESTRICT odd) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D16 d16;
  const typename Block::DF df;
#pragma GCC unroll 2
  for (size_t half = 1; half < Block::kCount && half < kNarrowSum; half *= 2) {
#pragma GCC unroll 16
    for (size_t i = 0; i < Block::kCount; ++i) {
      if ((i & half) == 0) Butterfly(v[i], v[i + half]);
    }
  }
#pragma GCC unroll 16
  for (size_t i = 0; i < Block::kCount; ++i) {
    hn::Vec<typename Block::D32> sum, difference;
    PairButterfly(d16, v[i], sum, difference);
    even[i] = TransformLanes(df, hn::ConvertTo(df, sum));
    odd[i] = TransformLanes(df, hn::ConvertTo(df, difference));
  }
  for (size_t half = kNarrowSum; half < Block::kCount; half *= 2) {
    for (size_t first = 0; first < Block::kCount; first += 2 * half) {
      for (size_t i = first; i < first + half; ++i) {
        Butterfly(even[i], even[i + half]);
        Butterfly(odd[i], odd[i + half]);
      }
    }
  }
}

template <size_t kBlock, bool kRotate, bool kF16, typename V16 = typename BlockVectors<kBlock>::V16>
HWY_INLINE void FinishRow8(const Rounding<typename BlockVectors<kBlock>::D16>& rounding, V16* HWY_RESTRICT v,
                           const float* HWY_RESTRICT means, float scale, uint16_t* HWY_RESTRICT out, bool stream) {
  using Block = BlockVectors<kBlock>;
  if constexpr (!kRotate) {
    FinishRows<kBlock, false, kF16, 1>(rounding, v, means, &scale, out, 0, stream);
  } else {
    const typename Block::DF df;
    hn::Vec<typename Block::DF> even[Block::kCount], odd[Block::kCount];
    TransformRow<kBlock>(v, even, odd);
    const auto factor = hn::Set(df, scale * kRowNorm<kBlock>);
#pragma GCC unroll 16
    for (size_t i = 0; i < Block::kCount; ++i) {
      FinishVector<kBlock, true, kF16>(rounding, even[i], odd[i], factor, means, i * Block::kLanes, out, stream);
    }
  }
}

template <size_t kBlock>
HWY_INLINE void LoadCodes8(const Unpacking<typename BlockVectors<kBlock>::D8>& unpacking,
                           const Levels8<typename BlockVectors<kBlock>::D8>& levels,
                           const int16_t* HWY_RESTRICT multipliers, const CodeRows& rows,
                           const uint8_t* HWY_RESTRICT p3, typename BlockVectors<kBlock>::V16* HWY_RESTRICT v) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D8 d8;
  const typename Block::D16 d16;
#pragma GCC unroll 4
  for (size_t strip = 0; strip < kBlock / Block::kStripLength; ++strip) {
    const size_t first = strip * Block::kStripLength;
#pragma GCC unroll 2
    for (size_t part = 0; part < Block::kParts; ++part) {
      const auto cells = UnpackCodes<Block::kStripLength>(d8, unpacking, part, rows.p0 + first / 4, rows.p1 + first / 8,
                                                          rows.p2 + first / 8);
      const auto low_bits = UnpackParts<Block::kStripLength>(d8, part, p3 + first / 2);
      const size_t low = first + part * Block::kLanes, high = low + Block::kStripLength / 2;
      LevelsToValues(d8, levels, cells, low_bits, hn::Load(d16, multipliers + low), hn::Load(d16, multipliers + high),
                     v[low / Block::kLanes], v[high / Block::kLanes]);
    }
  }
}

// The rows of a tile, unpacked some at a time.
template <size_t kBlock>
class Rows8 {
  using Block = BlockVectors<kBlock>;

 public:
  HWY_INLINE Rows8(const DecodeParameters& parameters, const TileBytes& tile)
      : codes_(parameters, tile, BlockConstants<kBlock>::kFirst),
        p3_(tile.planes[3] + BlockConstants<kBlock>::kFirst / 2),
        step3_(parameters.head_dim / 2) {
    for (size_t i = 0; i < kBlock; ++i) {
      multipliers_[i] = ChannelMultiplier8(tile.channel_scales[BlockConstants<kBlock>::kFirst + i], kBlock);
    }
  }

  HWY_INLINE void Unpack(size_t rows, int16_t* HWY_RESTRICT values) {
    const typename Block::D16 d16;
    for (size_t row = 0; row < rows; ++row) {
      typename Block::V16 v[Block::kCount];
      LoadCodes8<kBlock>(unpacking_, levels_, multipliers_, codes_, p3_, v);
#pragma GCC unroll 16
      for (size_t i = 0; i < Block::kCount; ++i) hn::Store(v[i], d16, values + row * kBlock + i * Block::kLanes);
      codes_.Next();
      p3_ += step3_;
    }
  }

 private:
  const Unpacking<typename Block::D8> unpacking_ = Unpacking<typename Block::D8>(kLevels4);
  const Levels8<typename Block::D8> levels_;
  HWY_ALIGN int16_t multipliers_[kBlock];
  CodeRows codes_;
  const uint8_t* p3_;
  const size_t step3_;
};

template <size_t kBlock, bool kRotate, bool kF16>
void DecodeRows8(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  using Block = BlockVectors<kBlock>;
  // Two short loops, whose rows overlap in the CPU, instead of one whose chain of operations is longer than what it looks
  // ahead. Rows are a multiple of four: tokens of sixteen, sinks of four.
  constexpr size_t kRows = 4;
  const typename Block::D16 d16;
  DecodeWideRows<kBlock, kRotate, kF16>(parameters, tile, parameters.sinks, target);
  TileConstants constants;
  Prepare<kBlock, kRotate>(tile, constants);
  const float* means = tile.mean_codes != nullptr ? constants.means : kBlockConstants<kBlock>.zeros;
  const Rounding<typename Block::D16> rounding;
  Rows8<kBlock> unpacked(parameters, tile);
  uint16_t* out = target.base + parameters.sinks * target.token_stride + BlockConstants<kBlock>::kFirst;
  for (size_t row = 0; row < parameters.tokens - parameters.sinks; row += kRows) {
    HWY_ALIGN int16_t values[kRows * kBlock];
    unpacked.Unpack(kRows, values);
    for (size_t r = 0; r < kRows; ++r) {
      typename Block::V16 v[Block::kCount];
#pragma GCC unroll 16
      for (size_t i = 0; i < Block::kCount; ++i) v[i] = hn::Load(d16, values + r * kBlock + i * Block::kLanes);
      const float scale = kLogScales[tile.token_scales[row + r]] * kLevelUnit8;
      FinishRow8<kBlock, kRotate, kF16>(rounding, v, means, scale, out, parameters.stream);
      out += target.token_stride;
    }
  }
}

template <size_t kBlock>
void DecodeRows8As(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const bool rotate = parameters.basis == Basis::kOriginal, f16 = parameters.dtype == Dtype::kF16;
  const auto decode = rotate ? (f16 ? DecodeRows8<kBlock, true, true> : DecodeRows8<kBlock, true, false>)
                             : (f16 ? DecodeRows8<kBlock, false, true> : DecodeRows8<kBlock, false, false>);
  decode(parameters, tile, target);
}

void DecodeLadder8(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const RotationBlocks split = BlocksOf(parameters.head_dim);
  for (int b = 0; b < split.count; ++b) {
    const uint32_t length = split.blocks[b].length;
    const auto decode = length == 16    ? DecodeRows8As<16>
                        : length == 32  ? DecodeRows8As<32>
                        : length == 64  ? DecodeRows8As<64>
                        : length == 128 ? DecodeRows8As<128>
                                        : DecodeRows8As<256>;
    decode(parameters, tile, target);
  }
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(DecodeLadder8);

void DecodeLadder8(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  HWY_DYNAMIC_DISPATCH(DecodeLadder8)(parameters, tile, target);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
