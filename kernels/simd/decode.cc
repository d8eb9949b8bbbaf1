#include "kernels/simd/decode.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "hwy/cache_control.h"
#include "kernels/reference/decode.h"
#include "kernels/tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/decode.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

// Vectors are 32 bytes on every target: rows are multiples of 16 values, so that no target has a tail, and CPUs with 64-byte
// vectors keep the gain of AVX-512's instructions without its wider registers. A row costs about 3 instructions a value with
// the inverse rotation and 2 without: with 16-bit butterflies in registers, and one pass over L1 for the levels between.
HWY_BEFORE_NAMESPACE();
namespace kvist::simd {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL

namespace hn = hwy::HWY_NAMESPACE;

using U8 = hn::CappedTag<uint8_t, 32>;
using U16 = hn::CappedTag<uint16_t, 16>;
using I16 = hn::CappedTag<int16_t, 16>;
using I32 = hn::CappedTag<int32_t, 8>;
using U32 = hn::CappedTag<uint32_t, 8>;
using F32 = hn::CappedTag<float, 8>;
using I8x16 = hn::CappedTag<int8_t, 16>;
using I8x8 = hn::CappedTag<int8_t, 8>;
using Row16 = hn::Vec<I16>;
using Floats = hn::Vec<F32>;

constexpr size_t kLanes = 16;             // 16-bit values in a vector
constexpr size_t kMaxElements = 256 * 256;

// Rounds 16 floats (two vectors) to 16-bit values, to nearest, ties to even.
struct ToBf16 {
  static HWY_INLINE hn::Vec<U16> Round(Floats low, Floats high) {
    const U32 u32;
    const hn::Half<U16> half;
    const auto round = [&](Floats value) HWY_ATTR {
      const auto bits = hn::BitCast(u32, value);
      const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u32, 1));
      const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(u32, 0x7fff)), odd));
      return hn::DemoteTo(half, hn::BitCast(I32(), rounded));
    };
    return hn::Combine(U16(), round(high), round(low));
  }
};
struct ToF16 {
  static HWY_INLINE hn::Vec<U16> Round(Floats low, Floats high) {
    const hn::Rebind<hwy::float16_t, F32> f16;
    const hn::Half<U16> half;
    const auto to_bits = [&](Floats value) HWY_ATTR { return hn::BitCast(half, hn::DemoteTo(f16, value)); };
    return hn::Combine(U16(), to_bits(high), to_bits(low));
  }
};

template <bool kStream>
HWY_INLINE void Store(hn::Vec<U16> values, uint16_t* to) {
  if constexpr (kStream) {
    hn::Stream(values, U16(), to);
  } else {
    hn::StoreU(values, U16(), to);
  }
}

// One butterfly stage at distance kDistance (1, 2, 4 or 8) inside a vector.
template <int kDistance>
HWY_INLINE Row16 InVector(Row16 x) {
  const I16 d;
  const hn::Repartition<uint8_t, I16> bytes;
  alignas(16) static constexpr uint8_t kSwaps[3][16] = {{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13},
                                                        {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11},
                                                        {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}};
  Row16 swapped;
  if constexpr (kDistance == 8) {
    swapped = hn::SwapAdjacentBlocks(x);
  } else {
    constexpr int kIndex = kDistance == 1 ? 0 : kDistance == 2 ? 1 : 2;
    swapped = hn::BitCast(d, hn::TableLookupBytes(hn::BitCast(bytes, x), hn::LoadDup128(bytes, kSwaps[kIndex])));
  }
  // Lanes whose bit is set take swapped - x, the others swapped + x.
  alignas(32) static constexpr int16_t kOnes[16] = {0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1};
  alignas(32) static constexpr int16_t kTwos[16] = {0, 0, -1, -1, 0, 0, -1, -1, 0, 0, -1, -1, 0, 0, -1, -1};
  alignas(32) static constexpr int16_t kFours[16] = {0, 0, 0, 0, -1, -1, -1, -1, 0, 0, 0, 0, -1, -1, -1, -1};
  alignas(32) static constexpr int16_t kEights[16] = {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1};
  const int16_t* negative = kDistance == 1 ? kOnes : kDistance == 2 ? kTwos : kDistance == 4 ? kFours : kEights;
  const Row16 mask = hn::Load(d, negative);
  return hn::Add(swapped, hn::Sub(hn::Xor(x, mask), mask));
}

// Walsh-Hadamard over kVectors * 16 values, in natural order. 16-bit additions are exact modulo 2^16, and the result fits.
template <size_t kVectors>
HWY_INLINE void Transform(Row16* HWY_RESTRICT v) {
  for (size_t h = 1; h < kVectors; h *= 2) {
    for (size_t i = 0; i < kVectors; i += 2 * h) {
      for (size_t j = i; j < i + h; ++j) {
        const Row16 a = v[j], b = v[j + h];
        v[j] = hn::Add(a, b);
        v[j + h] = hn::Sub(a, b);
      }
    }
  }
  for (size_t i = 0; i < kVectors; ++i) v[i] = InVector<8>(InVector<4>(InVector<2>(InVector<1>(v[i]))));
}

template <size_t kFirst, size_t kSecond>
struct Blocks {
  static constexpr size_t kVectors = kFirst + kSecond;
  static HWY_INLINE void TransformRow(Row16* v) {
    Transform<kFirst>(v);
    if constexpr (kSecond > 0) Transform<kSecond>(v + kFirst);
  }
};

// x = (float(Y) * N) * S + M, each rounded by itself; then to 16 bits.
template <class Rounder, bool kStream>
HWY_INLINE void WriteVector(Row16 y, Floats factor, const float* HWY_RESTRICT norm, const float* HWY_RESTRICT mean, uint16_t* out) {
  const I32 i32;
  const F32 f32;
  const auto half = [&](hn::Vec<I32> wide, size_t at) HWY_ATTR {
    const Floats scaled = hn::Mul(hn::Mul(hn::ConvertTo(f32, wide), hn::Load(f32, norm + at)), factor);
    return hn::Add(scaled, hn::Load(f32, mean + at));
  };
  const hn::Half<I16> half_tag;
  const Floats low = half(hn::PromoteTo(i32, hn::LowerHalf(half_tag, y)), 0);
  const Floats high = half(hn::PromoteTo(i32, hn::UpperHalf(half_tag, y)), 8);
  Store<kStream>(Rounder::Round(low, high), out);
}

// The levels of a whole tile, from its planes. `table` maps the four leading bits of a code, absent planes read as zero.
HWY_INLINE void UnpackLevels(const TileView& tile, int bits, int8_t* HWY_RESTRICT levels) {
  const U8 u8;
  const hn::Repartition<uint16_t, U8> u16;
  alignas(16) int8_t table16[16];
  for (int code = 0; code < 16; ++code) table16[code] = Levels(bits)[code >> (4 - bits)];
  const auto table = hn::LoadDup128(u8, reinterpret_cast<const uint8_t*>(table16));
  const auto shift = [&]<int kRight>(hn::Vec<U8> v) HWY_ATTR {
    if constexpr (kRight >= 0) return hn::BitCast(u8, hn::ShiftRight<kRight>(hn::BitCast(u16, v)));
    else return hn::BitCast(u8, hn::ShiftLeft<-kRight>(hn::BitCast(u16, v)));
  };
  const auto two_mask = hn::Set(u8, 12), one_mask = hn::Set(u8, 2), last_mask = hn::Set(u8, 1);
  const size_t strips = size_t{tile.tokens} * tile.head_dim / kStrip;
  for (size_t strip = 0; strip < strips; ++strip) {
    const auto two_low = hn::LoadU(u8, tile.codes[0] + strip * 64), two_high = hn::LoadU(u8, tile.codes[0] + strip * 64 + 32);
    const auto one = bits >= 3 ? hn::LoadU(u8, tile.codes[1] + strip * 32) : hn::Zero(u8);
    const auto last = bits >= 4 ? hn::LoadU(u8, tile.codes[2] + strip * 32) : hn::Zero(u8);
    int8_t* HWY_RESTRICT to = levels + strip * kStrip;
    const auto group = [&]<int kGroup>() HWY_ATTR {
      const auto two = hn::And(shift.template operator()<2 * (kGroup / 2) - 2>(kGroup % 2 ? two_high : two_low), two_mask);
      const auto second = hn::And(shift.template operator()<kGroup - 1>(one), one_mask);
      const auto third = hn::And(shift.template operator()<kGroup>(last), last_mask);
      const auto level = hn::TableLookupBytes(table, hn::Or(two, hn::Or(second, third)));
      hn::StoreU(level, u8, reinterpret_cast<uint8_t*>(to) + 32 * kGroup);
    };
    group.template operator()<0>();
    group.template operator()<1>();
    group.template operator()<2>();
    group.template operator()<3>();
    group.template operator()<4>();
    group.template operator()<5>();
    group.template operator()<6>();
    group.template operator()<7>();
  }
}

alignas(64) constexpr float kNoMean[256] = {};

// A row of 8-bit codes of the rotated vector: a sink, or a token of a raised tile.
template <class Shape, class Rounder, bool kStream, bool kInverse>
HWY_INLINE void WriteRotated8(const uint8_t* codes, float factor, const float* norm, uint16_t* out) {
  Row16 v[Shape::kVectors];
  for (size_t i = 0; i < Shape::kVectors; ++i) {
    v[i] = hn::PromoteTo(I16(), hn::LoadU(I8x16(), reinterpret_cast<const int8_t*>(codes) + kLanes * i));
  }
  if constexpr (kInverse) Shape::TransformRow(v);
  const Floats factors = hn::Set(F32(), factor);
  for (size_t i = 0; i < Shape::kVectors; ++i) {
    WriteVector<Rounder, kStream>(v[i], factors, norm + kLanes * i, kNoMean, out + kLanes * i);
  }
}

template <class Shape, int kShift, class Rounder, bool kStream, bool kInverse>
HWY_NOINLINE void DecodeLadder(const TileView& tile, int bits, const TileRows& out) {
  static thread_local int8_t levels[kMaxElements];
  UnpackLevels(tile, bits, levels);
  LadderChannels channels;
  PrepareChannels(tile, kInverse ? Basis::kOriginal : Basis::kKeptRotated, &channels);
  const LadderSide side = SplitLadderSide(tile);
  for (uint32_t t = 0; t < tile.sinks; ++t) {
    const uint8_t* sink = side.sinks + t * (1 + tile.head_dim);
    WriteRotated8<Shape, Rounder, kStream, kInverse>(sink + 1, LogScale(sink[0]), channels.norm.data(), out.Row(t));
  }
  for (uint32_t t = tile.sinks; t < tile.tokens; ++t) {
    const int8_t* HWY_RESTRICT row = levels + size_t{t} * tile.head_dim;
    Row16 v[Shape::kVectors];
    for (size_t i = 0; i < Shape::kVectors; ++i) {
      const Row16 level = hn::ShiftLeft<kShift>(hn::PromoteTo(I16(), hn::LoadU(I8x16(), row + kLanes * i)));
      v[i] = hn::MulFixedPoint15(level, hn::Load(I16(), channels.multiplier.data() + kLanes * i));
    }
    if constexpr (kInverse) Shape::TransformRow(v);
    const Floats factor = hn::Set(F32(), TokenFactor(tile, side.token_scales[t]));
    uint16_t* to = out.Row(t);
    for (size_t i = 0; i < Shape::kVectors; ++i) {
      WriteVector<Rounder, kStream>(v[i], factor, channels.norm.data() + kLanes * i, channels.mean.data() + kLanes * i, to + kLanes * i);
    }
  }
}

template <class Shape, class Rounder, bool kStream, bool kInverse>
HWY_NOINLINE void DecodeRaised8(const TileView& tile, const TileRows& out) {
  alignas(64) float norm[256];
  for (uint32_t d = 0; d < tile.head_dim; ++d) norm[d] = kInverse ? RotationNorms(tile.head_dim)[d] : 1.0f;
  for (uint32_t t = 0; t < tile.tokens; ++t) {
    WriteRotated8<Shape, Rounder, kStream, kInverse>(tile.side + tile.tokens + size_t{t} * tile.head_dim, LogScale(tile.side[t]), norm,
                                                     out.Row(t));
  }
}

template <class Rounder, bool kStream>
HWY_NOINLINE void DecodeI8(const TileView& tile, const TileRows& out) {
  const I32 i32;
  const F32 f32;
  for (uint32_t t = 0; t < tile.tokens; ++t) {
    const Floats scale = hn::Set(f32, LogScale(tile.side[t]));
    const int8_t* HWY_RESTRICT codes = reinterpret_cast<const int8_t*>(tile.codes[0]) + size_t{t} * tile.head_dim;
    uint16_t* to = out.Row(t);
    const auto half = [&](size_t at) HWY_ATTR {
      return hn::Mul(hn::ConvertTo(f32, hn::PromoteTo(i32, hn::LoadU(I8x8(), codes + at))), scale);
    };
    for (size_t d = 0; d < tile.head_dim; d += kLanes) Store<kStream>(Rounder::Round(half(d), half(d + 8)), to + d);
  }
}

template <class Shape, int kShift, class Rounder, bool kStream>
HWY_INLINE void DecodeRotated(const TileView& tile, int bits, Basis basis, const TileRows& out) {
  const bool inverse = basis == Basis::kOriginal;
  if (tile.mode == TileMode::kRaised8) {
    inverse ? DecodeRaised8<Shape, Rounder, kStream, true>(tile, out) : DecodeRaised8<Shape, Rounder, kStream, false>(tile, out);
  } else {
    inverse ? DecodeLadder<Shape, kShift, Rounder, kStream, true>(tile, bits, out)
            : DecodeLadder<Shape, kShift, Rounder, kStream, false>(tile, bits, out);
  }
}

template <class Rounder, bool kStream>
void DecodeWith(const TileView& tile, int bits, Basis basis, const TileRows& out) {
  if (tile.codec == Codec::kI8) return DecodeI8<Rounder, kStream>(tile, out);
  switch (tile.head_dim) {
    case 64:
      return DecodeRotated<Blocks<4, 0>, 2, Rounder, kStream>(tile, bits, basis, out);
    case 80:
      return DecodeRotated<Blocks<4, 1>, 2, Rounder, kStream>(tile, bits, basis, out);
    case 96:
      return DecodeRotated<Blocks<4, 2>, 2, Rounder, kStream>(tile, bits, basis, out);
    case 128:
      return DecodeRotated<Blocks<8, 0>, 1, Rounder, kStream>(tile, bits, basis, out);
    default:
      return DecodeRotated<Blocks<16, 0>, 0, Rounder, kStream>(tile, bits, basis, out);
  }
}

void DecodeTile(const TileView& tile, int bits, Basis basis, const TileRows& out) {
  if (tile.mode == TileMode::kRaw) return reference::DecodeTile(tile, bits, basis, out);  // copies
  // Pages are far larger than caches: store past them where the rows' alignment allows.
  const bool stream = reinterpret_cast<uintptr_t>(out.base) % 32 == 0 && out.token_stride % 16 == 0;
  if (tile.dtype == Dtype::kBf16) {
    stream ? DecodeWith<ToBf16, true>(tile, bits, basis, out) : DecodeWith<ToBf16, false>(tile, bits, basis, out);
  } else {
    stream ? DecodeWith<ToF16, true>(tile, bits, basis, out) : DecodeWith<ToF16, false>(tile, bits, basis, out);
  }
  if (stream) hwy::FlushStream();
}

#else  // CPUs below AVX2, and those that nobody has measured yet, use the scalar oracle.

void DecodeTile(const TileView& tile, int bits, Basis basis, const TileRows& out) { reference::DecodeTile(tile, bits, basis, out); }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace kvist::simd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(DecodeTile);

void DecodeTile(const TileView& tile, int bits, Basis basis, const TileRows& out) {
  HWY_DYNAMIC_DISPATCH(DecodeTile)(tile, bits, basis, out);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
