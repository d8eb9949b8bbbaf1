#include "kernels/simd/decode_tile.h"

#include <cstring>
#include <type_traits>

#include "kernels/reference/decode_tile.h"
#include "kernels/tables.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/decode_tile.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

void DecodeTile(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  reference::DecodeTile(parameters, tile, target);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kMaxHeadDim = 256;

template <class D>
inline constexpr size_t kLanesOf = hn::MaxLanes(D());

// The vectors of one WHT block of kBlock channels. A strip's byte positions interleave its two halves (FORMAT.md,
// "Packing"), so widening the even and the odd bytes gives runs of neighbouring channels without a shuffle.
template <size_t kBlock>
struct BlockVectors {
  static constexpr size_t kStripLength = kBlock < kStrip ? kBlock : kStrip;
  using D8 = hn::CappedTag<uint8_t, kStripLength>;
  static constexpr size_t kLanes8 = kLanesOf<D8>;
  static constexpr size_t kLanes = kLanes8 / 2;  // of 16 bits
  static constexpr size_t kCount = kBlock / kLanes;
  static constexpr size_t kParts = kStripLength / kLanes8;  // byte vectors of a strip
  using D16 = hn::Repartition<int16_t, D8>;
  using D32 = hn::Repartition<int32_t, D16>;
  using DU32 = hn::Repartition<uint32_t, D16>;
  using DF = hn::Repartition<float, D16>;
  using V16 = hn::Vec<D16>;
};

// What a tile multiplies and adds, by channel. Floats are stored as the conversion meets them: of each vector of 16-bit
// values first the even channels, then the odd ones.
struct TileConstants {
  HWY_ALIGN int16_t multipliers[kMaxHeadDim];
  HWY_ALIGN float norms[kMaxHeadDim];
  HWY_ALIGN float means[kMaxHeadDim];
  HWY_ALIGN float zeros[kMaxHeadDim];
};

// Where channel `i` of a block stands in such an array.
template <size_t kBlock>
constexpr size_t SplitIndex(size_t i) {
  constexpr size_t kLanes = BlockVectors<kBlock>::kLanes;
  return i / kLanes * kLanes + i % 2 * (kLanes / 2) + i % kLanes / 2;
}

template <size_t kBlock>
void TransformInt32(int32_t* HWY_RESTRICT row) {
  for (size_t half = 1; half < kBlock; half *= 2) {
    for (size_t i = 0; i < kBlock; i += 2 * half) {
      for (size_t j = i; j < i + half; ++j) {
        const int32_t a = row[j], b = row[j + half];
        row[j] = a + b;
        row[j + half] = a - b;
      }
    }
  }
}

template <size_t kBlock, bool kRotate>
void Prepare(const DecodeParameters& parameters, const TileBytes& tile, size_t first, TileConstants& constants) {
  const float norm = RotationBlock{uint32_t(first), kBlock}.Norm();
  int16_t multipliers_of[kMaxChannelScale + 1];
  for (size_t i = 0; i < kBlock; ++i) {
    constants.norms[SplitIndex<kBlock>(i)] = SignOf(first + i) * norm;
    constants.means[i] = constants.zeros[i] = 0;
  }
  if (tile.mode != TileMode::kOwn) return;
  for (size_t u = 0; u <= kMaxChannelScale; ++u) multipliers_of[u] = ChannelMultiplier(uint8_t(u), parameters.head_dim);
  for (size_t i = 0; i < kBlock; ++i) constants.multipliers[i] = multipliers_of[tile.channel_scales[first + i]];
  if (tile.mean_codes == nullptr) return;
  HWY_ALIGN int32_t sums[kBlock];
  for (size_t i = 0; i < kBlock; ++i) sums[i] = int8_t(tile.mean_codes[first + i]) * constants.multipliers[i];
  if (kRotate) TransformInt32<kBlock>(sums);
  const float scale = LogScale(tile.mean_scale) * MultiplierScale(parameters.head_dim);
  for (size_t i = 0; i < kBlock; ++i) {
    const size_t at = SplitIndex<kBlock>(i);
    constants.means[at] = kRotate ? (float(sums[i]) * constants.norms[at]) * scale : float(sums[i]) * scale;
  }
}

// In-register WHT of kCount vectors, channels in memory order before and after. Pairs rotate their index bits through
// the "which vector of the pair" bit, where a butterfly is one add and one subtract.
template <size_t kBlock, typename V16 = typename BlockVectors<kBlock>::V16>
HWY_INLINE void Transform(V16* HWY_RESTRICT v) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D16 d;
  const auto butterfly = [](V16& a, V16& b) HWY_ATTR {
    const V16 sum = hn::Add(a, b);
    b = hn::Sub(a, b);
    a = sum;
  };
#pragma GCC unroll 8
  for (size_t half = 1; half < Block::kCount; half *= 2) {
#pragma GCC unroll 16
    for (size_t i = 0; i < Block::kCount; ++i) {
      if ((i & half) == 0) butterfly(v[i], v[i + half]);
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < Block::kCount; i += 2) {
    V16 a = v[i], b = v[i + 1];
    if constexpr (Block::kLanes == 32) {
#pragma GCC unroll 6
      for (int bit = 0; bit < 6; ++bit) {
        const V16 even = hn::ConcatEven(d, b, a);
        b = hn::ConcatOdd(d, b, a);
        a = even;
        if (bit < 5) butterfly(a, b);
      }
    } else {
#pragma GCC unroll 4
      for (int bit = 0; bit < 4; ++bit) {
        const V16 lower = hn::InterleaveLower(d, a, b);
        b = hn::InterleaveUpper(d, a, b);
        a = lower;
        if (bit < 3) butterfly(a, b);
      }
      if constexpr (Block::kLanes == 16) {
        const V16 lower = hn::ConcatLowerLower(d, b, a);
        b = hn::ConcatUpperUpper(d, b, a);
        a = lower;
        butterfly(a, b);
        const V16 restored = hn::ConcatLowerLower(d, b, a);
        b = hn::ConcatUpperUpper(d, b, a);
        a = restored;
      }
    }
    v[i] = a;
    v[i + 1] = b;
  }
}

// f32 bits to bf16 bits, nearest even, in the upper half of each lane. REQUIRES: no NaN.
template <class DU32, class V = hn::Vec<DU32> >
HWY_INLINE V RoundToUpper(DU32 d, V bits) {
  const V odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1));
  return hn::Add(hn::Add(bits, hn::Set(d, 0x7fff)), odd);
}

// Even and odd channels as f32 to one vector of 16-bit values in memory order.
template <bool kF16, class DF, class V>
HWY_INLINE hn::Vec<hn::Repartition<uint16_t, DF> > Narrow(DF df, V even, V odd) {
  const hn::Repartition<uint32_t, DF> d32;
  const hn::Repartition<uint16_t, DF> d16;
  if constexpr (kF16) {
    const hn::Rebind<hwy::float16_t, DF> dh;
    const hn::Rebind<uint16_t, DF> dhu;
    const auto low = hn::PromoteTo(d32, hn::BitCast(dhu, hn::DemoteTo(dh, even)));
    const auto high = hn::PromoteTo(d32, hn::BitCast(dhu, hn::DemoteTo(dh, odd)));
    return hn::BitCast(d16, hn::Or(low, hn::ShiftLeft<16>(high)));
  } else {
    const auto low = hn::ShiftRight<16>(RoundToUpper(d32, hn::BitCast(d32, even)));
    const auto high = RoundToUpper(d32, hn::BitCast(d32, odd));
    return hn::OddEven(hn::BitCast(d16, high), hn::BitCast(d16, low));
  }
}

template <class D, class V>
HWY_INLINE void Write(D d, V value, uint16_t* HWY_RESTRICT out, bool stream) {
  if (stream) {
    hn::Stream(value, d, out);
  } else {
    hn::StoreU(value, d, out);
  }
}

// Integers to float without a shuffle: the even channels shifted to the top of their 32-bit lanes, the odd ones masked.
// Both are 2^16 times their value, which `scale` takes back exactly.
template <class D16, class V>
HWY_INLINE void SplitToFloat(D16 d16, V v, hn::Vec<hn::Repartition<float, D16> >& even,
                             hn::Vec<hn::Repartition<float, D16> >& odd) {
  const hn::Repartition<int32_t, D16> d32;
  const hn::Repartition<float, D16> df;
  const auto lanes = hn::BitCast(d32, v);
  even = hn::ConvertTo(df, hn::ShiftLeft<16>(lanes));
  odd = hn::ConvertTo(df, hn::And(lanes, hn::Set(d32, int32_t(0xffff0000))));
}

constexpr float kSplitScale = 0x1p-16f;

// y to x: (float(y) * N) * S + M, each operation rounded, then to 16 bits.
template <size_t kBlock, bool kRotate, bool kF16>
HWY_INLINE void FinishRow(typename BlockVectors<kBlock>::V16* HWY_RESTRICT v, const float* HWY_RESTRICT norms,
                          const float* HWY_RESTRICT means, float scale, uint16_t* HWY_RESTRICT out, bool stream) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D16 d16;
  const typename Block::DF df;
  const hn::Repartition<uint16_t, typename Block::D16> du16;
  if constexpr (kRotate) Transform<kBlock>(v);
  const auto factor = hn::Set(df, scale * kSplitScale);
#pragma GCC unroll 16
  for (size_t i = 0; i < Block::kCount; ++i) {
    const size_t at = i * Block::kLanes, odd_at = at + Block::kLanes / 2;
    hn::Vec<typename Block::DF> even, odd;
    SplitToFloat(d16, v[i], even, odd);
    if constexpr (kRotate) {
      even = hn::Mul(even, hn::Load(df, norms + at));
      odd = hn::Mul(odd, hn::Load(df, norms + odd_at));
    }
    even = hn::Add(hn::Mul(even, factor), hn::Load(df, means + at));
    odd = hn::Add(hn::Mul(odd, factor), hn::Load(df, means + odd_at));
    Write(du16, Narrow<kF16>(df, even, odd), out + at, stream);
  }
}

// Copies of `kBytes` packed bytes along a vector.
template <size_t kBytes, class D8>
HWY_INLINE hn::Vec<D8> Repeat(D8 d8, const uint8_t* HWY_RESTRICT bytes) {
  if constexpr (kBytes == 16) {
    return hn::LoadDup128(d8, bytes);
  } else {
    using Word = std::conditional_t<kBytes == 8, uint64_t, std::conditional_t<kBytes == 4, uint32_t, uint16_t> >;
    Word word;
    std::memcpy(&word, bytes, kBytes);
    return hn::BitCast(d8, hn::Set(hn::Repartition<Word, D8>(), word));
  }
}

// For each byte position of a strip: how far its two bits must move (by 32-bit word), and which bit is its own.
template <size_t kLength>
struct Unpacking {
  HWY_ALIGN uint32_t shifts[kLength / 4] = {};
  HWY_ALIGN uint8_t bits[kLength] = {};
  constexpr Unpacking() {
    for (size_t i = 0; i < kLength / 4; ++i) shifts[i] = uint32_t(2 * (4 * i / (kLength / 4)));
    for (size_t i = 0; i < kLength; ++i) bits[i] = uint8_t(1u << (i / (kLength / 8)));
  }
};

// 4-bit codes of one part of a strip at byte positions, from up to three planes.
template <size_t kLength, class D8>
HWY_INLINE hn::Vec<D8> UnpackCodes(D8 d8, const Unpacking<kLength>& unpacking, size_t part, const uint8_t* p0,
                                   const uint8_t* p1, const uint8_t* p2) {
  const hn::Repartition<uint32_t, D8> d32;
  const auto one = hn::Set(d8, 1);
  const auto shifts = hn::Load(d32, unpacking.shifts + part * kLanesOf<decltype(d32)>);
  const auto bits = hn::Load(d8, unpacking.bits + part * kLanesOf<D8>);
  const auto pairs = hn::Shr(hn::BitCast(d32, Repeat<kLength / 4>(d8, p0)), shifts);
  auto code = hn::And(hn::BitCast(d8, pairs), hn::Set(d8, 3));
  code = hn::Add(code, code);
  if (p1 != nullptr) code = hn::Add(code, hn::Min(hn::And(Repeat<kLength / 8>(d8, p1), bits), one));
  code = hn::Add(code, code);
  if (p2 != nullptr) code = hn::Add(code, hn::Min(hn::And(Repeat<kLength / 8>(d8, p2), bits), one));
  return code;
}

// A row of codes to v = (level * A + 64) >> 7: one rounding multiply of the level in the upper byte.
template <size_t kBlock>
HWY_INLINE void LoadCodes(const Unpacking<BlockVectors<kBlock>::kStripLength>& unpacking,
                          const int8_t* HWY_RESTRICT levels, const int16_t* HWY_RESTRICT multipliers, const uint8_t* p0,
                          const uint8_t* p1, const uint8_t* p2, typename BlockVectors<kBlock>::V16* HWY_RESTRICT v) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D8 d8;
  const typename Block::D16 d16;
  const auto table = hn::LoadDup128(d8, reinterpret_cast<const uint8_t*>(levels));
#pragma GCC unroll 4
  for (size_t strip = 0; strip < kBlock / Block::kStripLength; ++strip) {
    const size_t first = strip * Block::kStripLength;
#pragma GCC unroll 2
    for (size_t part = 0; part < Block::kParts; ++part) {
      const auto codes = UnpackCodes<Block::kStripLength>(d8, unpacking, part, p0 + first / 4,
                                                          p1 == nullptr ? nullptr : p1 + first / 8,
                                                          p2 == nullptr ? nullptr : p2 + first / 8);
      const auto level = hn::BitCast(d16, hn::TableLookupBytes(table, codes));
      const size_t low = first + part * Block::kLanes, high = low + Block::kStripLength / 2;
      v[low / Block::kLanes] = hn::MulFixedPoint15(hn::ShiftLeft<8>(level), hn::Load(d16, multipliers + low));
      v[high / Block::kLanes] =
          hn::MulFixedPoint15(hn::And(level, hn::Set(d16, int16_t(0xff00))), hn::Load(d16, multipliers + high));
    }
  }
}

template <size_t kBlock, bool kRotate, bool kF16>
void DecodeWideRows(const DecodeParameters& parameters, const TileBytes& tile, size_t first, size_t count,
                    const TileConstants& constants, const TileTarget& target) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D16 d16;
  const hn::Rebind<int8_t, typename Block::D16> d8;
  for (size_t t = 0; t < count; ++t) {
    const uint8_t* row = tile.wide_rows + t * (1 + parameters.head_dim);
    const int8_t* codes = reinterpret_cast<const int8_t*>(row + 1 + first);
    typename Block::V16 v[Block::kCount];
    for (size_t i = 0; i < Block::kCount; ++i) v[i] = hn::PromoteTo(d16, hn::LoadU(d8, codes + i * Block::kLanes));
    FinishRow<kBlock, kRotate, kF16>(v, constants.norms, constants.zeros, LogScale(row[0]),
                                     target.base + t * target.token_stride + first, parameters.stream);
  }
}

template <size_t kBlock, bool kRotate, bool kF16>
void DecodeOwnRows(const DecodeParameters& parameters, const TileBytes& tile, size_t first,
                   const TileConstants& constants, const TileTarget& target) {
  using Block = BlockVectors<kBlock>;
  static constexpr Unpacking<Block::kStripLength> unpacking;
  const size_t head_dim = parameters.head_dim, rows = parameters.tokens - parameters.sinks;
  const int8_t* levels = LevelsOf(parameters.precision);
  const uint8_t* p0 = tile.planes[0] + first / 4;
  const uint8_t* p1 = parameters.precision >= 3 ? tile.planes[1] + first / 8 : nullptr;
  const uint8_t* p2 = parameters.precision >= 4 ? tile.planes[2] + first / 8 : nullptr;
  const float unit = kLevelUnit * HeadroomScale(parameters.head_dim);
  uint16_t* out = target.base + parameters.sinks * target.token_stride + first;
  for (size_t row = 0; row < rows; ++row) {
    typename Block::V16 v[Block::kCount];
    LoadCodes<kBlock>(unpacking, levels, constants.multipliers, p0, p1, p2, v);
    FinishRow<kBlock, kRotate, kF16>(v, constants.norms, constants.means, LogScale(tile.token_scales[row]) * unit, out,
                                     parameters.stream);
    p0 += head_dim / 4;
    if (p1 != nullptr) p1 += head_dim / 8;
    if (p2 != nullptr) p2 += head_dim / 8;
    out += target.token_stride;
  }
}

template <size_t kBlock, bool kRotate, bool kF16>
void DecodeBlock(const DecodeParameters& parameters, const TileBytes& tile, size_t first, const TileTarget& target) {
  TileConstants constants;
  Prepare<kBlock, kRotate>(parameters, tile, first, constants);
  const bool own = tile.mode == TileMode::kOwn;
  DecodeWideRows<kBlock, kRotate, kF16>(parameters, tile, first, own ? parameters.sinks : parameters.tokens, constants,
                                        target);
  if (own) DecodeOwnRows<kBlock, kRotate, kF16>(parameters, tile, first, constants, target);
}

template <size_t kBlock>
void DecodeBlockAs(const DecodeParameters& parameters, const TileBytes& tile, size_t first, const TileTarget& target) {
  const bool rotate = parameters.basis == Basis::kOriginal, f16 = parameters.dtype == Dtype::kF16;
  const auto decode = rotate ? (f16 ? DecodeBlock<kBlock, true, true> : DecodeBlock<kBlock, true, false>)
                             : (f16 ? DecodeBlock<kBlock, false, true> : DecodeBlock<kBlock, false, false>);
  decode(parameters, tile, first, target);
}

void DecodeLadder(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const RotationBlocks split = BlocksOf(parameters.head_dim);
  for (int b = 0; b < split.count; ++b) {
    const RotationBlock& block = split.blocks[b];
    const auto decode = block.length == 16    ? DecodeBlockAs<16>
                        : block.length == 32  ? DecodeBlockAs<32>
                        : block.length == 64  ? DecodeBlockAs<64>
                        : block.length == 128 ? DecodeBlockAs<128>
                                              : DecodeBlockAs<256>;
    decode(parameters, tile, block.first, target);
  }
}

template <bool kF16, class D16>
HWY_INLINE void DecodeI8Vector(D16 d16, const uint8_t* codes, float scale, uint16_t* out, bool stream) {
  const hn::Rebind<int8_t, D16> d8;
  const hn::Repartition<float, D16> df;
  const hn::Repartition<uint16_t, D16> du16;
  const auto factor = hn::Set(df, scale * kSplitScale);
  hn::Vec<decltype(df)> even, odd;
  SplitToFloat(d16, hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const int8_t*>(codes))), even, odd);
  Write(du16, Narrow<kF16>(df, hn::Mul(even, factor), hn::Mul(odd, factor)), out, stream);
}

template <bool kF16>
void DecodeI8(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const hn::ScalableTag<int16_t> d16;
  const hn::CappedTag<int16_t, 16> d16_tail;
  constexpr size_t kLanes = kLanesOf<decltype(d16)>;
  for (size_t t = 0; t < parameters.tokens; ++t) {
    const float scale = LogScale(tile.token_scales[t]);
    const uint8_t* codes = tile.planes[0] + t * parameters.head_dim;
    uint16_t* out = target.base + t * target.token_stride;
    size_t d = 0;
    for (; d + kLanes <= parameters.head_dim; d += kLanes) {
      DecodeI8Vector<kF16>(d16, codes + d, scale, out + d, parameters.stream);
    }
    if (d < parameters.head_dim) DecodeI8Vector<kF16>(d16_tail, codes + d, scale, out + d, parameters.stream);
  }
}

void CopyValues(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const size_t row = parameters.head_dim;
  const bool dense = target.token_stride == row;
  const size_t rows = dense ? 1 : parameters.tokens, run_bytes = 2 * row * (dense ? parameters.tokens : 1);
  for (size_t t = 0; t < rows; ++t) {
    std::memcpy(target.base + t * target.token_stride, tile.values + t * 2 * row, run_bytes);
  }
}

void DecodeTile(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  if (tile.mode == TileMode::kRaw16) {
    CopyValues(parameters, tile, target);
  } else if (parameters.codec == Codec::kLadder) {
    DecodeLadder(parameters, tile, target);
  } else if (parameters.dtype == Dtype::kF16) {
    DecodeI8<true>(parameters, tile, target);
  } else {
    DecodeI8<false>(parameters, tile, target);
  }
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(DecodeTile);

void DecodeTile(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  HWY_DYNAMIC_DISPATCH(DecodeTile)(parameters, tile, target);
}

void FinishStreaming() { hwy::FlushStream(); }

}  // namespace kvist::simd
#endif  // HWY_ONCE
