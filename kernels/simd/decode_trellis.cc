#include "kernels/simd/decode_trellis.h"

#include "kernels/reference/decode_tile.h"
#include "kernels/tables.h"
#include "kernels/trellis.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/decode_trellis.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

#include "kernels/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

void DecodeTrellis(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  reference::DecodeTile(parameters, tile, target);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// The levels by state, 16 to a table.
template <class D8>
struct StateLevels {
  HWY_INLINE explicit StateLevels(const int8_t* levels) {
    for (int i = 0; i < 4; ++i) tables[i] = hn::LoadDup128(D8(), reinterpret_cast<const uint8_t*>(levels) + 16 * i);
  }
  hn::Vec<D8> tables[4];
};

template <class D8>
HWY_INLINE hn::Vec<D8> LevelOf(D8 d8, const StateLevels<D8>& levels, hn::Vec<D8> state) {
  const hn::Repartition<int8_t, D8> di8;
  const hn::Repartition<uint16_t, D8> d16;
#if HWY_ARCH_X86
  const auto low = state;  // the instruction looks at the lower four bits, and bit 7 is zero
#else
  const auto low = hn::And(state, hn::Set(d8, uint8_t{15}));
#endif
  // Bits 4 and 5 where a sign is: states are below 64, so no bit crosses into the next byte.
  const auto bit4 = hn::BitCast(di8, hn::ShiftLeft<3>(hn::BitCast(d16, state)));
  const auto bit5 = hn::BitCast(di8, hn::ShiftLeft<2>(hn::BitCast(d16, state)));
  const auto from = [&](int table)
                        HWY_ATTR { return hn::BitCast(di8, hn::TableLookupBytes(levels.tables[table], low)); };
  const auto lower = hn::IfNegativeThenElse(bit4, from(1), from(0));
  const auto upper = hn::IfNegativeThenElse(bit4, from(3), from(2));
  return hn::BitCast(d8, hn::IfNegativeThenElse(bit5, upper, lower));
}

// Codes of one part of a strip at byte positions.
template <size_t kLength, int kBits, class D8>
HWY_INLINE hn::Vec<D8> UnpackCodes(D8 d8, const Unpacking<D8>& unpacking, size_t part, const uint8_t* p0,
                                   const uint8_t* p1) {
  const hn::Repartition<uint32_t, D8> d32;
  const auto shifts = hn::Load(d32, kStripPositions<kLength>.shifts + part * kLanesOf<decltype(d32)>);
  const auto pairs = hn::BitCast(d8, hn::Shr(hn::BitCast(d32, Repeat<kLength / 4>(d8, p0)), shifts));
  const auto code2 = hn::And(pairs, unpacking.three);
  if constexpr (kBits == 2) {
    return code2;
  } else {
    const auto bits = hn::Load(d8, kStripPositions<kLength>.bits + part * kLanesOf<D8>);
    return hn::Add(hn::Add(code2, code2), hn::Min(hn::And(Repeat<kLength / 8>(d8, p1), bits), unpacking.one));
  }
}

// One WHT block of a tile: where its codes are, and the state of each of its channels.
template <size_t kBlock, int kBits>
class TrellisRows {
  using Block = BlockVectors<kBlock>;
  using D8 = typename Block::D8;
  using D16 = typename Block::D16;
  static constexpr size_t kVectors = kBlock / Block::kLanes8;

 public:
  // Stands before row `row`: the states come from the rows before it, and before row 0 from the tile's last ones.
  HWY_INLINE TrellisRows(const TileBytes& tile, uint32_t head_dim, size_t rows, size_t row)
      : unpacking_(TrellisLevels(kBits)),
        levels_(TrellisLevels(kBits)),
        planes_{tile.planes[0], tile.planes[1]},
        head_dim_(head_dim) {
    for (auto& state : states_) state = hn::Zero(D8());
    for (size_t back = 6 / kBits - 1; back > 0; --back) Step((row + rows - back) % rows);
  }

  // v = (level * A + 64) >> 7 of the next row.
  HWY_INLINE void Next(size_t row, const int16_t* HWY_RESTRICT multipliers, typename Block::V16* HWY_RESTRICT v) {
    const D8 d8;
    const D16 d16;
    Step(row);
#pragma GCC unroll 8
    for (size_t i = 0; i < kVectors; ++i) {
      const size_t strip = i / Block::kParts, part = i % Block::kParts;
      const size_t low = strip * Block::kStripLength + part * Block::kLanes, high = low + Block::kStripLength / 2;
      const auto level = hn::BitCast(d16, LevelOf(d8, levels_, states_[i]));
      v[low / Block::kLanes] = hn::MulFixedPoint15(hn::ShiftLeft<8>(level), hn::Load(d16, multipliers + low));
      v[high / Block::kLanes] =
          hn::MulFixedPoint15(hn::And(level, unpacking_.upper_byte), hn::Load(d16, multipliers + high));
    }
  }

 private:
  HWY_INLINE void Step(size_t row) {
    const D8 d8;
    const hn::Repartition<uint16_t, D8> d16;
    const uint8_t* p0 = planes_[0] + row * (head_dim_ / 4) + BlockConstants<kBlock>::kFirst / 4;
    const uint8_t* p1 = kBits == 3 ? planes_[1] + row * (head_dim_ / 8) + BlockConstants<kBlock>::kFirst / 8 : nullptr;
    const auto mask = hn::Set(d8, uint8_t((kTrellisStates - 1) >> kBits << kBits));
#pragma GCC unroll 8
    for (size_t i = 0; i < kVectors; ++i) {
      const size_t first = i / Block::kParts * Block::kStripLength;
      const auto codes = UnpackCodes<Block::kStripLength, kBits>(d8, unpacking_, i % Block::kParts, p0 + first / 4,
                                                                 kBits == 3 ? p1 + first / 8 : nullptr);
      const auto shifted = hn::BitCast(d8, hn::ShiftLeft<kBits>(hn::BitCast(d16, states_[i])));
      states_[i] = hn::Or(hn::And(shifted, mask), codes);
    }
  }

  const Unpacking<D8> unpacking_;
  const StateLevels<D8> levels_;
  const uint8_t* const planes_[2];
  const size_t head_dim_;
  hn::Vec<D8> states_[kVectors];
};

template <size_t kBlock, int kBits, bool kRotate, bool kF16>
void DecodeRows(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  using Block = BlockVectors<kBlock>;
  constexpr size_t kFirst = BlockConstants<kBlock>::kFirst, kRows = kRowsAtOnce<kBlock>;
  DecodeWideRows<kBlock, kRotate, kF16>(parameters, tile, parameters.sinks, target);
  TileConstants constants;
  Prepare<kBlock, kRotate>(tile, constants);
  const bool is_key = tile.mean_codes != nullptr;
  const float* means = is_key ? constants.means : kBlockConstants<kBlock>.zeros;
  const float unit = TrellisUnitOf(kBits, is_key) * HeadroomScale(kBlock);
  const Rounding<typename Block::D16> rounding;
  const size_t rows = parameters.tokens - parameters.sinks, stride = target.token_stride;
  TrellisRows<kBlock, kBits> codes(tile, parameters.head_dim, rows, 0);
  uint16_t* out = target.base + parameters.sinks * stride + kFirst;
  // Rows are a multiple of four: tokens of sixteen, sinks of four.
  for (size_t row = 0; row < rows; row += kRows) {
    typename Block::V16 v[kRows * Block::kCount];
    float scales[kRows];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      codes.Next(row + r, constants.multipliers, v + r * Block::kCount);
      scales[r] = kLogScales[tile.token_scales[row + r]] * unit;
    }
    FinishRows<kBlock, kRotate, kF16, kRows>(rounding, v, means, scales, out, stride, parameters.stream);
    out += kRows * stride;
  }
}

template <size_t kBlock, int kBits>
void DecodeRowsAs(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const bool rotate = parameters.basis == Basis::kOriginal, f16 = parameters.dtype == Dtype::kF16;
  const auto decode = rotate ? (f16 ? DecodeRows<kBlock, kBits, true, true> : DecodeRows<kBlock, kBits, true, false>)
                             : (f16 ? DecodeRows<kBlock, kBits, false, true> : DecodeRows<kBlock, kBits, false, false>);
  decode(parameters, tile, target);
}

template <int kBits>
void DecodeBlocks(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const RotationBlocks split = BlocksOf(parameters.head_dim);
  for (int b = 0; b < split.count; ++b) {
    const uint32_t length = split.blocks[b].length;
    const auto decode = length == 16    ? DecodeRowsAs<16, kBits>
                        : length == 32  ? DecodeRowsAs<32, kBits>
                        : length == 64  ? DecodeRowsAs<64, kBits>
                        : length == 128 ? DecodeRowsAs<128, kBits>
                                        : DecodeRowsAs<256, kBits>;
    decode(parameters, tile, target);
  }
}

void DecodeTrellis(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const auto decode = parameters.precision == 3 ? DecodeBlocks<3> : DecodeBlocks<2>;
  decode(parameters, tile, target);
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(DecodeTrellis);

void DecodeTrellis(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  HWY_DYNAMIC_DISPATCH(DecodeTrellis)(parameters, tile, target);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
