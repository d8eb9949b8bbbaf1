#include "kernels/simd/decode_tile.h"

#include <bit>
#include <cstring>

#include "kernels/reference/decode_tile.h"
#include "kernels/simd/decode_ladder8.h"
#include "kernels/simd/decode_trellis.h"
#include "kernels/simd/x16.h"
#include "kernels/tables.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/decode_tile.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

void DecodeTile(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  reference::DecodeTile(parameters, tile, target);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// A row of codes to v = (level * A + 64) >> 7: one rounding multiply of the level in the upper byte.
template <size_t kBlock>
HWY_INLINE void LoadCodes(const Unpacking<typename BlockVectors<kBlock>::D8>& unpacking,
                          const int16_t* HWY_RESTRICT multipliers, const CodeRows& rows,
                          typename BlockVectors<kBlock>::V16* HWY_RESTRICT v) {
  using Block = BlockVectors<kBlock>;
  const typename Block::D8 d8;
  const typename Block::D16 d16;
#pragma GCC unroll 4
  for (size_t strip = 0; strip < kBlock / Block::kStripLength; ++strip) {
    const size_t first = strip * Block::kStripLength;
#pragma GCC unroll 2
    for (size_t part = 0; part < Block::kParts; ++part) {
      const auto codes = UnpackCodes<Block::kStripLength>(d8, unpacking, part, rows.p0 + first / 4, rows.p1 + first / 8,
                                                          rows.p2 + first / 8);
      const auto level = hn::BitCast(d16, hn::TableLookupBytes(unpacking.table, codes));
      const size_t low = first + part * Block::kLanes, high = low + Block::kStripLength / 2;
      v[low / Block::kLanes] = hn::MulFixedPoint15(hn::ShiftLeft<8>(level), hn::Load(d16, multipliers + low));
      v[high / Block::kLanes] =
          hn::MulFixedPoint15(hn::And(level, unpacking.upper_byte), hn::Load(d16, multipliers + high));
    }
  }
}

template <size_t kBlock, bool kRotate, bool kF16>
void DecodeOwnRows(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  using Block = BlockVectors<kBlock>;
  constexpr size_t kFirst = BlockConstants<kBlock>::kFirst, kRows = kRowsAtOnce<kBlock>;
  TileConstants constants;
  Prepare<kBlock, kRotate>(tile, constants);
  const float* means = tile.mean_codes != nullptr ? constants.means : kBlockConstants<kBlock>.zeros;
  const Unpacking<typename Block::D8> unpacking(LevelsOf(parameters.precision));
  const Rounding<typename Block::D16> rounding;
  const size_t rows = parameters.tokens - parameters.sinks, stride = target.token_stride;
  const float unit = kLevelUnit * HeadroomScale(kBlock);
  const bool stream = parameters.stream;
  const uint8_t* token_scales = tile.token_scales;
  CodeRows codes(parameters, tile, kFirst);
  uint16_t* out = target.base + parameters.sinks * stride + kFirst;
  // Rows are a multiple of four: tokens of sixteen, sinks of four.
  for (size_t row = 0; row < rows; row += kRows) {
    typename Block::V16 v[kRows * Block::kCount];
    float scales[kRows];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      LoadCodes<kBlock>(unpacking, constants.multipliers, codes, v + r * Block::kCount);
      scales[r] = kLogScales[token_scales[row + r]] * unit;
      codes.Next();
    }
    FinishRows<kBlock, kRotate, kF16, kRows>(rounding, v, means, scales, out, stride, stream);
    out += kRows * stride;
  }
}

template <size_t kBlock, bool kRotate, bool kF16>
void DecodeBlock(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const bool own = tile.mode == TileMode::kOwn;
  DecodeWideRows<kBlock, kRotate, kF16>(parameters, tile, own ? parameters.sinks : parameters.tokens, target);
  if (own) DecodeOwnRows<kBlock, kRotate, kF16>(parameters, tile, target);
}

template <size_t kBlock>
void DecodeBlockAs(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const bool rotate = parameters.basis == Basis::kOriginal, f16 = parameters.dtype == Dtype::kF16;
  const auto decode = rotate ? (f16 ? DecodeBlock<kBlock, true, true> : DecodeBlock<kBlock, true, false>)
                             : (f16 ? DecodeBlock<kBlock, false, true> : DecodeBlock<kBlock, false, false>);
  decode(parameters, tile, target);
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
    decode(parameters, tile, target);
  }
}

// No product of a code and a scale lies between two neighbouring bf16 whose lower one is even, so that halves may be rounded
// up. Scales differ by powers of two from these eight, and a product's sign changes nothing.
constexpr bool HalvesRoundUp() {
  for (int u = 128; u < 136; ++u) {
    for (int code = 0; code <= 128; ++code) {
      const uint32_t bits = std::bit_cast<uint32_t>(float(code) * LogScale(uint8_t(u)));
      if ((bits & 0x1ffff) == 0x8000) return false;
    }
  }
  return true;
}
static_assert(HalvesRoundUp());

template <bool kF16, class D16>
HWY_INLINE void DecodeI8Vector(D16 d16, const Rounding<D16>& rounding, const uint8_t* codes, float scale, uint16_t* out,
                               bool stream) {
  const hn::Rebind<int8_t, D16> d8;
  const hn::Repartition<float, D16> df;
  const hn::Repartition<uint32_t, D16> du32;
  const hn::Repartition<uint16_t, D16> du16;
  const auto factor = hn::Set(df, scale * kSplitScale);
  hn::Vec<decltype(df)> even, odd;
  SplitToFloat(d16, rounding, hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const int8_t*>(codes))), even, odd);
  even = hn::Mul(even, factor);
  odd = hn::Mul(odd, factor);
  if constexpr (kF16) {
    Write(du16, Narrow<true>(df, rounding, even, odd), out, stream);
  } else {
    const auto half = hn::Set(du32, 0x8000u);
    const auto low = hn::ShiftRight<16>(hn::Add(hn::BitCast(du32, even), half)),
               high = hn::Add(hn::BitCast(du32, odd), half);
    Write(du16, hn::OddEven(hn::BitCast(du16, high), hn::BitCast(du16, low)), out, stream);
  }
}

template <bool kF16>
void DecodeI8(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const hn::ScalableTag<int16_t> d16;
  const hn::CappedTag<int16_t, 16> d16_tail;
  constexpr size_t kLanes = kLanesOf<decltype(d16)>;
  const Rounding<hn::ScalableTag<int16_t> > rounding;
  const Rounding<hn::CappedTag<int16_t, 16> > tail_rounding;
  for (size_t t = 0; t < parameters.tokens; ++t) {
    const float scale = kLogScales[tile.token_scales[t]];
    const uint8_t* codes = tile.planes[0] + t * parameters.head_dim;
    uint16_t* out = target.base + t * target.token_stride;
    size_t d = 0;
    for (; d + kLanes <= parameters.head_dim; d += kLanes) {
      DecodeI8Vector<kF16>(d16, rounding, codes + d, scale, out + d, parameters.stream);
    }
    if (d < parameters.head_dim)
      DecodeI8Vector<kF16>(d16_tail, tail_rounding, codes + d, scale, out + d, parameters.stream);
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
  } else if (IsRotated(parameters.codec)) {
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
  if (parameters.codec == Codec::kLadder && parameters.precision == 8 && tile.mode == TileMode::kOwn) {
    return DecodeLadder8(parameters, tile, target);
  }
  if (parameters.codec == Codec::kX16 && tile.mode == TileMode::kOwn) return DecodeX16(parameters, tile, target);
  if (parameters.codec == Codec::kTrellis && tile.mode == TileMode::kOwn)
    return DecodeTrellis(parameters, tile, target);
  HWY_DYNAMIC_DISPATCH(DecodeTile)(parameters, tile, target);
}

void FinishStreaming() { hwy::FlushStream(); }

}  // namespace kvist::simd
#endif  // HWY_ONCE
