// What decoders of rotated codecs share on a vector target: strips, the transform in registers, rounding, wide rows.
//
// Threads pure functions; included once a target (hwy/foreach_target.h).
#if defined(KVIST_KERNELS_SIMD_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVIST_KERNELS_SIMD_ROWS_INL_H_
#undef KVIST_KERNELS_SIMD_ROWS_INL_H_
#else
#define KVIST_KERNELS_SIMD_ROWS_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstring>
#include <type_traits>

#include "kernels/tables.h"
#include "kernels/tile.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

#if HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR

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

// Channels in the order in which the conversion to float meets them: of each vector of 16-bit values first the even
// channels, then the odd ones. Where channel `i` of a block stands:
template <size_t kBlock>
constexpr size_t SplitIndex(size_t i) {
  constexpr size_t kLanes = BlockVectors<kBlock>::kLanes;
  return i / kLanes * kLanes + i % 2 * (kLanes / 2) + i % kLanes / 2;
}

// Where 1/sqrt(n) is a power of two it is a factor of the row, exactly, and of N[d] the sign is left: a bit to flip.
template <size_t kBlock>
inline constexpr bool kExactNorm = kBlock != 32 && kBlock != 128;
template <size_t kBlock>
inline constexpr float kRowNorm = kExactNorm<kBlock> ? RotationBlock{0, kBlock}.Norm() : 1.0f;

// What is the same for all tiles: N[d], or its sign bit, in split order; and no mean.
template <size_t kBlock>
struct BlockConstants {
  static constexpr size_t kFirst = kBlock < kStrip ? kStrip : 0;  // the blocks of 16 and 32 follow one of 64
  HWY_ALIGN float norms[kBlock] = {};
  HWY_ALIGN float zeros[kBlock] = {};
  constexpr BlockConstants() {
    const float norm = RotationBlock{kFirst, kBlock}.Norm();
    for (size_t i = 0; i < kBlock; ++i) {
      const float sign = SignOf(kFirst + i);
      norms[SplitIndex<kBlock>(i)] = kExactNorm<kBlock> ? sign * 0.0f : sign * norm;
    }
  }
};
template <size_t kBlock>
inline constexpr BlockConstants<kBlock> kBlockConstants{};

// A by scale byte.
template <size_t kBlock>
struct Multipliers {
  int16_t of[kMaxChannelScale + 1] = {};
  constexpr Multipliers() {
    for (size_t u = 0; u <= kMaxChannelScale; ++u) of[u] = ChannelMultiplier(uint8_t(u), kBlock);
  }
};
template <size_t kBlock>
inline constexpr Multipliers<kBlock> kMultipliers{};

// What one tile multiplies and adds: A[d] in memory order, M[d] in split order.
struct TileConstants {
  HWY_ALIGN int16_t multipliers[kMaxHeadDim];
  HWY_ALIGN float means[kMaxHeadDim];
};

// Rows that are worked on together: as many as keep the units busy while one row's chain of butterflies waits.
template <size_t kBlock>
inline constexpr size_t kRowsAtOnce = BlockVectors<kBlock>::kCount < 8 ? 8 / BlockVectors<kBlock>::kCount : 1;

template <class V>
HWY_INLINE void Butterfly(V& a, V& b) {
  const V sum = hn::Add(a, b);
  b = hn::Sub(a, b);
  a = sum;
}

// In-register WHT of kRows rows, channels in memory order before and after. Pairs of vectors rotate their index bits
// through the "which vector of the pair" bit, where a butterfly is one add and one subtract.
template <size_t kBlock, size_t kRows, typename V16 = typename BlockVectors<kBlock>::V16>
HWY_INLINE void Transform(V16* HWY_RESTRICT v) {
  using Block = BlockVectors<kBlock>;
  constexpr size_t kVectors = kRows * Block::kCount;
  const typename Block::D16 d;
#pragma GCC unroll 8
  for (size_t half = 1; half < Block::kCount; half *= 2) {
#pragma GCC unroll 16
    for (size_t i = 0; i < kVectors; ++i) {
      if ((i & half) == 0) Butterfly(v[i], v[i + half]);
    }
  }
  // A rotation of the index bits by one: 32 lanes have five bits and their pair's; 8 lanes (or 128-bit halves) three.
  constexpr int kRotations = Block::kLanes == 32 ? 6 : 4;
#pragma GCC unroll 6
  for (int bit = 0; bit < kRotations; ++bit) {
#pragma GCC unroll 8
    for (size_t i = 0; i < kVectors; i += 2) {
      const V16 a = v[i], b = v[i + 1];
      if constexpr (Block::kLanes == 32) {
        v[i] = hn::ConcatEven(d, b, a);
        v[i + 1] = hn::ConcatOdd(d, b, a);
      } else {
        v[i] = hn::InterleaveLower(d, a, b);
        v[i + 1] = hn::InterleaveUpper(d, a, b);
      }
      if (bit + 1 < kRotations) Butterfly(v[i], v[i + 1]);
    }
  }
  if constexpr (Block::kLanes == 16) {
#pragma GCC unroll 2
    for (int swap = 0; swap < 2; ++swap) {
#pragma GCC unroll 8
      for (size_t i = 0; i < kVectors; i += 2) {
        const V16 a = v[i], b = v[i + 1];
        v[i] = hn::ConcatLowerLower(d, b, a);
        v[i + 1] = hn::ConcatUpperUpper(d, b, a);
        if (swap == 0) Butterfly(v[i], v[i + 1]);
      }
    }
  }
}

// The same for one row of 32-bit sums in memory: the mean of a K tile.
template <size_t kBlock>
void TransformSums(int32_t* HWY_RESTRICT sums) {
  const typename BlockVectors<kBlock>::D32 d;
  constexpr size_t kLanes = kLanesOf<decltype(d)>, kCount = kBlock / kLanes;
  hn::Vec<decltype(d)> v[kCount];
  for (size_t i = 0; i < kCount; ++i) v[i] = hn::Load(d, sums + i * kLanes);
  for (size_t half = 1; half < kCount; half *= 2) {
    for (size_t i = 0; i < kCount; ++i) {
      if ((i & half) == 0) Butterfly(v[i], v[i + half]);
    }
  }
  for (size_t done = 1; done <= kLanes; done *= 2) {
    for (size_t i = 0; i < kCount; i += 2) {
      const auto a = v[i], b = v[i + 1];
      v[i] = hn::ConcatEven(d, b, a);
      v[i + 1] = hn::ConcatOdd(d, b, a);
      if (done < kLanes) Butterfly(v[i], v[i + 1]);
    }
  }
  for (size_t i = 0; i < kCount; ++i) hn::Store(v[i], d, sums + i * kLanes);
}

// M[d] in split order from the codes of the mean.
template <size_t kBlock, bool kRotate>
void PrepareMeans(const TileBytes& tile, TileConstants& constants) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D32 d32;
  const typename Block::DF df;
  const uint8_t* codes = tile.mean_codes + BlockConstants<kBlock>::kFirst;
  HWY_ALIGN int32_t sums[kBlock];
  for (size_t i = 0; i < kBlock; ++i) sums[i] = int8_t(codes[i]) * constants.multipliers[i];
  if constexpr (kRotate) TransformSums<kBlock>(sums);
  const auto scale = hn::Set(df, LogScale(tile.mean_scale) * MultiplierScale(kBlock));
  const auto mean_of = [&](auto sum, size_t at) HWY_ATTR {
    auto mean = hn::ConvertTo(df, sum);
    if constexpr (kRotate && kExactNorm<kBlock>) {
      mean = hn::Mul(hn::Xor(mean, hn::Load(df, kBlockConstants<kBlock>.norms + at)), hn::Set(df, kRowNorm<kBlock>));
    } else if constexpr (kRotate) {
      mean = hn::Mul(mean, hn::Load(df, kBlockConstants<kBlock>.norms + at));
    }
    hn::Store(hn::Mul(mean, scale), df, constants.means + at);
  };
  for (size_t at = 0; at < kBlock; at += Block::kLanes) {
    const size_t odd_at = at + Block::kLanes / 2;
    const auto low = hn::Load(d32, sums + at), high = hn::Load(d32, sums + odd_at);
    mean_of(hn::ConcatEven(d32, high, low), at);
    mean_of(hn::ConcatOdd(d32, high, low), odd_at);
  }
}

template <size_t kBlock, bool kRotate>
void Prepare(const TileBytes& tile, TileConstants& constants) {
  const uint8_t* scales = tile.channel_scales + BlockConstants<kBlock>::kFirst;
  for (size_t i = 0; i < kBlock; ++i) constants.multipliers[i] = kMultipliers<kBlock>.of[scales[i]];
  if (tile.mean_codes != nullptr) PrepareMeans<kBlock, kRotate>(tile, constants);
}

// Keeps a constant in its register: the compiler would rather rebuild it in the loop, at a shuffle each time.
template <class V>
HWY_INLINE V Kept(V v) {
#if HWY_ARCH_X86
  asm("" : "+x"(v.raw));
#endif
  return v;
}

// What the conversion to 16 bits needs in registers.
template <class D16>
struct Rounding {
  using DU16 = hn::Repartition<uint16_t, D16>;
  using DU32 = hn::Repartition<uint32_t, D16>;
  HWY_INLINE Rounding() {}  // spelled out: an implicit one is compiled for the baseline target
  hn::Vec<DU32> upper_half = Kept(hn::Set(DU32(), 0xffff0000u));
  hn::Vec<DU16> one = Kept(hn::Set(DU16(), uint16_t{1}));
  hn::Vec<DU16> almost_half = Kept(hn::Set(DU16(), uint16_t{0x7ffe}));
};

// Even and odd channels as f32 to one vector of 16-bit values in memory order.
template <bool kF16, class DF, class V>
HWY_INLINE hn::Vec<hn::Repartition<uint16_t, DF> > Narrow(DF df,
                                                          const Rounding<hn::Repartition<int16_t, DF> >& rounding,
                                                          V even, V odd) {
  const hn::Repartition<uint32_t, DF> d32;
  const hn::Repartition<uint16_t, DF> d16;
  if constexpr (kF16) {
    const hn::Rebind<hwy::float16_t, DF> dh;
    const hn::Rebind<uint16_t, DF> dhu;
    const auto low = hn::PromoteTo(d32, hn::BitCast(dhu, hn::DemoteTo(dh, even)));
    const auto high = hn::PromoteTo(d32, hn::BitCast(dhu, hn::DemoteTo(dh, odd)));
    return hn::BitCast(d16, hn::Or(low, hn::ShiftLeft<16>(high)));
  } else {
    // Nearest even on all lanes at once: the carry out of (lower half + 0x7fff + lowest bit of the upper half) is the
    // top bit of a rounding average, and is added to the upper half. No NaN comes here.
    const auto even_bits = hn::BitCast(d32, even), odd_bits = hn::BitCast(d32, odd);
    const auto upper = hn::OddEven(hn::BitCast(d16, odd_bits), hn::BitCast(d16, hn::ShiftRight<16>(even_bits)));
    const auto lower = hn::OddEven(hn::BitCast(d16, hn::ShiftLeft<16>(odd_bits)), hn::BitCast(d16, even_bits));
    const auto half = hn::OrAnd(rounding.almost_half, upper, rounding.one);
    return hn::Add(upper, hn::ShiftRight<15>(hn::AverageRound(lower, half)));
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
HWY_INLINE void SplitToFloat(D16 d16, const Rounding<D16>& rounding, V v, hn::Vec<hn::Repartition<float, D16> >& even,
                             hn::Vec<hn::Repartition<float, D16> >& odd) {
  const hn::Repartition<int32_t, D16> d32;
  const hn::Repartition<float, D16> df;
  const auto lanes = hn::BitCast(d32, v);
  even = hn::ConvertTo(df, hn::ShiftLeft<16>(lanes));
  odd = hn::ConvertTo(df, hn::And(lanes, hn::BitCast(d32, rounding.upper_half)));
}

constexpr float kSplitScale = 0x1p-16f;

// (y * N) * factor + M, each operation rounded, then to 16 bits: the vector whose first channel is `at`.
template <size_t kBlock, bool kRotate, bool kF16, typename VF = hn::Vec<typename BlockVectors<kBlock>::DF> >
HWY_INLINE void FinishVector(const Rounding<typename BlockVectors<kBlock>::D16>& rounding, VF even, VF odd, VF factor,
                             const float* HWY_RESTRICT means, size_t at, uint16_t* HWY_RESTRICT out, bool stream) {
  using Block = BlockVectors<kBlock>;
  const typename Block::DF df;
  const hn::Repartition<uint16_t, typename Block::D16> du16;
  const float* HWY_RESTRICT norms = kBlockConstants<kBlock>.norms;
  const size_t odd_at = at + Block::kLanes / 2;
  if constexpr (kRotate) {
    if constexpr (kExactNorm<kBlock>) {
      even = hn::Xor(even, hn::Load(df, norms + at));
      odd = hn::Xor(odd, hn::Load(df, norms + odd_at));
    } else {
      even = hn::Mul(even, hn::Load(df, norms + at));
      odd = hn::Mul(odd, hn::Load(df, norms + odd_at));
    }
  }
  even = hn::Add(hn::Mul(even, factor), hn::Load(df, means + at));
  odd = hn::Add(hn::Mul(odd, factor), hn::Load(df, means + odd_at));
  Write(du16, Narrow<kF16>(df, rounding, even, odd), out + at, stream);
}

// y to x for kRows rows, `stride` apart in `out`: (float(y) * N) * S + M, each operation rounded, then to 16 bits.
template <size_t kBlock, bool kRotate, bool kF16, size_t kRows>
HWY_INLINE void FinishRows(const Rounding<typename BlockVectors<kBlock>::D16>& rounding,
                           typename BlockVectors<kBlock>::V16* HWY_RESTRICT v, const float* HWY_RESTRICT means,
                           const float* HWY_RESTRICT scales, uint16_t* HWY_RESTRICT out, size_t stride, bool stream) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D16 d16;
  const typename Block::DF df;
  if constexpr (kRotate) Transform<kBlock, kRows>(v);
#pragma GCC unroll 16
  for (size_t i = 0; i < Block::kCount; ++i) {
    const size_t at = i * Block::kLanes;
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
      const auto factor = hn::Set(df, scales[row] * (kRotate ? kSplitScale * kRowNorm<kBlock> : kSplitScale));
      hn::Vec<typename Block::DF> even, odd;
      SplitToFloat(d16, rounding, v[row * Block::kCount + i], even, odd);
      FinishVector<kBlock, kRotate, kF16>(rounding, even, odd, factor, means, at, out + row * stride, stream);
    }
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
struct StripPositions {
  HWY_ALIGN uint32_t shifts[kLength / 4] = {};
  HWY_ALIGN uint8_t bits[kLength] = {};
  HWY_ALIGN uint32_t nibble_shifts[kLength / 4] = {};  // the same for P3
  constexpr StripPositions() {
    for (size_t i = 0; i < kLength / 4; ++i) nibble_shifts[i] = 4 * i < kLength / 2 ? 0 : 4;
    for (size_t i = 0; i < kLength / 4; ++i) shifts[i] = uint32_t(2 * (4 * i / (kLength / 4)));
    for (size_t i = 0; i < kLength; ++i) bits[i] = uint8_t(1u << (i / (kLength / 8)));
  }
};
template <size_t kLength>
inline constexpr StripPositions<kLength> kStripPositions{};

// What unpacking needs in registers.
template <class D8>
struct Unpacking {
  HWY_INLINE explicit Unpacking(const int8_t* levels)
      : table(hn::LoadDup128(D8(), reinterpret_cast<const uint8_t*>(levels))) {}
  hn::Vec<D8> table;
  hn::Vec<D8> three = Kept(hn::Set(D8(), uint8_t{3}));
  hn::Vec<D8> one = Kept(hn::Set(D8(), uint8_t{1}));
  hn::Vec<hn::Repartition<int16_t, D8> > upper_byte = Kept(hn::Set(hn::Repartition<int16_t, D8>(), int16_t(0xff00)));
};

// Where the codes of a row are. A plane that the precision leaves out is a row of zeros that is never left.
struct CodeRows {
  CodeRows(const DecodeParameters& parameters, const TileBytes& tile, size_t first)
      : p0(tile.planes[0] + first / 4), step0(parameters.head_dim / 4) {
    if (parameters.precision >= 3) p1 = tile.planes[1] + first / 8, step1 = parameters.head_dim / 8;
    if (parameters.precision >= 4) p2 = tile.planes[2] + first / 8, step2 = parameters.head_dim / 8;
  }
  HWY_INLINE void Next() {
    p0 += step0;
    p1 += step1;
    p2 += step2;
  }
  static constexpr uint8_t kZeros[kMaxHeadDim / 8] = {};
  const uint8_t* p0;
  const uint8_t* p1 = kZeros;
  const uint8_t* p2 = kZeros;
  size_t step0, step1 = 0, step2 = 0;
};

// 4-bit codes of one part of a strip at byte positions.
template <size_t kLength, class D8>
HWY_INLINE hn::Vec<D8> UnpackCodes(D8 d8, const Unpacking<D8>& unpacking, size_t part, const uint8_t* p0,
                                   const uint8_t* p1, const uint8_t* p2) {
  const hn::Repartition<uint32_t, D8> d32;
  const auto shifts = hn::Load(d32, kStripPositions<kLength>.shifts + part * kLanesOf<decltype(d32)>);
  const auto bits = hn::Load(d8, kStripPositions<kLength>.bits + part * kLanesOf<D8>);
  const auto pairs = hn::BitCast(d8, hn::Shr(hn::BitCast(d32, Repeat<kLength / 4>(d8, p0)), shifts));
  const auto bit1 = hn::Min(hn::And(Repeat<kLength / 8>(d8, p1), bits), unpacking.one);
  const auto bit0 = hn::Min(hn::And(Repeat<kLength / 8>(d8, p2), bits), unpacking.one);
  const auto code2 = hn::And(pairs, unpacking.three);
  const auto code3 = hn::Add(hn::Add(code2, code2), bit1);
  return hn::Add(hn::Add(code3, code3), bit0);
}

template <size_t kBlock, bool kRotate, bool kF16>
void DecodeWideRows(const DecodeParameters& parameters, const TileBytes& tile, size_t count, const TileTarget& target) {
  using Block = BlockVectors<kBlock>;
  constexpr size_t kFirst = BlockConstants<kBlock>::kFirst;
  const typename Block::D16 d16;
  const hn::Rebind<int8_t, typename Block::D16> d8;
  const Rounding<typename Block::D16> rounding;
  for (size_t t = 0; t < count; ++t) {
    const uint8_t* row = tile.wide_rows + t * (1 + parameters.head_dim);
    const int8_t* codes = reinterpret_cast<const int8_t*>(row + 1 + kFirst);
    const float scale = kLogScales[row[0]];
    typename Block::V16 v[Block::kCount];
    for (size_t i = 0; i < Block::kCount; ++i) v[i] = hn::PromoteTo(d16, hn::LoadU(d8, codes + i * Block::kLanes));
    FinishRows<kBlock, kRotate, kF16, 1>(rounding, v, kBlockConstants<kBlock>.zeros, &scale,
                                         target.base + t * target.token_stride + kFirst, 0, parameters.stream);
  }
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KVIST_KERNELS_SIMD_ROWS_INL_H_
