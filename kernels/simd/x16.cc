#include "kernels/simd/x16.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>

#include "kernels/header.h"
#include "kernels/reference/x16.h"
#include "kernels/tables.h"
#include "kernels/x16.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/x16.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kChunkRows = 16, kMaxHeadDim = 256, kMaxTokens = 256;  // tokens come in sixteens

// Which exponents get codes, most common first.
struct X16Table {
  uint8_t exponents[kX16Exponents];
  size_t escapes = 0;
};

using Counts = std::array<uint32_t, 256>;

X16Table CommonestOf(const Counts& counts, size_t count) {
  std::array<uint32_t, 256> order;  // a number that is larger for more, or for as many of a smaller exponent
  for (uint32_t e = 0; e < 256; ++e) order[e] = counts[e] << 8 | (255 - e);
  std::partial_sort(order.begin(), order.begin() + kX16Exponents, order.end(), std::greater<uint32_t>());
  X16Table table;
  table.escapes = count;
  for (size_t k = 0; k < kX16Exponents; ++k) {
    table.exponents[k] = uint8_t(255 - (order[k] & 255));
    table.escapes -= order[k] >> 8;
  }
  return table;
}

Counts CountOneByOne(const uint8_t* HWY_RESTRICT exponents, size_t count) {
  uint32_t counts[4][256] = {};  // equal neighbours would wait for each other's store
  for (size_t i = 0; i < count; i += 4) {
    for (size_t j = 0; j < 4; ++j) ++counts[j][exponents[i + j]];
  }
  Counts total;
  for (size_t e = 0; e < 256; ++e) total[e] = counts[0][e] + counts[1][e] + counts[2][e] + counts[3][e];
  return total;
}

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

Counts CountExponents(const uint8_t* exponents, size_t count, uint8_t) { return CountOneByOne(exponents, count); }

// Codes of exponents, one a byte.
struct ExponentCodes {
  ExponentCodes(const X16Table& table, const Counts&, uint8_t) {
    of.fill(kX16Escape);
    for (size_t k = 0; k < kX16Exponents; ++k) of[table.exponents[k]] = uint8_t(k);
  }
  void Take(const uint8_t* exponents, size_t count, uint8_t* codes) const {
    for (size_t i = 0; i < count; ++i) codes[i] = of[exponents[i]];
  }
  std::array<uint8_t, 256> of;
};

#else

using Bytes = hn::ScalableTag<uint8_t>;
constexpr size_t kWindow = 16;  // exponents from the largest down: nearly all values' are among them

// counts of the exponents top, top - 1, ... top - 7, as far as there are such.
void CountEight(const uint8_t* HWY_RESTRICT exponents, size_t count, int top, Counts& counts) {
  const Bytes d;
  const hn::Repartition<uint64_t, Bytes> d64;
  hn::Vec<decltype(d64)> totals[8];
  for (auto& total : totals) total = hn::Zero(d64);
  for (size_t i = 0; i < count;) {
    hn::Vec<Bytes> found[8];
#pragma GCC unroll 8
    for (auto& lane : found) lane = hn::Zero(d);
    for (size_t end = std::min(count, i + 128 * hn::Lanes(d)); i < end; i += hn::Lanes(d)) {
      const auto exponent = hn::Load(d, exponents + i);
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        found[k] = hn::Sub(found[k], hn::VecFromMask(d, exponent == hn::Set(d, uint8_t(top - k))));
      }
    }
    for (size_t k = 0; k < 8; ++k) totals[k] = hn::Add(totals[k], hn::SumsOf8(found[k]));
  }
  for (int k = 0; k < 8 && k <= top; ++k) counts[top - k] = uint32_t(hn::GetLane(hn::SumOfLanes(d64, totals[k])));
}

// How often each exponent stands among `count`, a multiple of 256; none is above `top`.
Counts CountExponents(const uint8_t* HWY_RESTRICT exponents, size_t count, uint8_t top) {
  const Bytes d;
  Counts counts = {};
  CountEight(exponents, count, top, counts);
  if (top >= 8) CountEight(exponents, count, top - 8, counts);
  size_t others = count;
  for (uint32_t n : counts) others -= n;
  if (others == 0) return counts;
  if (others > count / kX16MostEscapes) return CountOneByOne(exponents, count);
  const auto least = hn::Set(d, uint8_t(top - (kWindow - 1)));  // there are others, so they are below it
  for (size_t first = 0; first < count; first += hn::Lanes(d)) {
    const auto exponent = hn::Load(d, exponents + first);
    if (HWY_LIKELY(hn::AllTrue(d, hn::Max(exponent, least) == exponent))) continue;
    for (size_t i = first; i < first + hn::Lanes(d); ++i) {
      if (exponents[i] + int(kWindow) <= int(top)) ++counts[exponents[i]];
    }
  }
  return counts;
}

// Codes of exponents, one a byte: one look-up by their distance from the largest, and a comparison for each that is further
// away and has a code.
class ExponentCodes {
 public:
  ExponentCodes(const X16Table& table, const Counts& counts, uint8_t top) : top_(top) {
    for (size_t k = 0; k < kX16Exponents; ++k) {
      const uint8_t exponent = table.exponents[k];
      if (exponent <= top && exponent + int(kWindow) > int(top)) {
        near_[top - exponent] = uint8_t(k ^ kX16Escape);
      } else if (counts[exponent] > 0) {
        far_[far_count_] = exponent;
        far_codes_[far_count_++] = uint8_t(k);
      }
    }
  }

  // `count` is a multiple of 256.
  void Take(const uint8_t* HWY_RESTRICT exponents, size_t count, uint8_t* HWY_RESTRICT codes) const {
    const Bytes d;
    const auto near = hn::LoadDup128(d, near_), top = hn::Set(d, top_), escape = hn::Set(d, kX16Escape);
    const auto beyond = hn::Set(d, uint8_t(128 - kWindow));  // to the upper bit, which makes a look-up give zero
    for (size_t i = 0; i < count; i += hn::Lanes(d)) {
      const auto exponent = hn::Load(d, exponents + i);
      const auto distance = hn::SaturatedAdd(hn::Sub(top, exponent), beyond);
      auto code = hn::Xor(hn::TableLookupBytesOr0(near, distance), escape);
      for (size_t k = 0; k < far_count_; ++k) {
        code = hn::IfThenElse(exponent == hn::Set(d, far_[k]), hn::Set(d, far_codes_[k]), code);
      }
      hn::Store(code, d, codes + i);
    }
  }

 private:
  const uint8_t top_;
  HWY_ALIGN uint8_t near_[kWindow] = {};  // by distance: the code's bits, inverted
  uint8_t far_[kX16Exponents], far_codes_[kX16Exponents];
  size_t far_count_ = 0;
};

#endif  // HWY_TARGET

size_t CountEscapes(const uint8_t* HWY_RESTRICT codes, size_t size_bytes) {
  const hn::ScalableTag<uint8_t> d;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  const auto first = hn::Set(d, uint8_t{0x0f}), second = hn::Set(d, uint8_t{0xf0});
  auto total = hn::Zero(d64);
  for (size_t i = 0; i < size_bytes;) {
    auto counts = hn::Zero(d);  // a lane takes two of each vector
    for (size_t end = std::min(size_bytes, i + 64 * hn::Lanes(d)); i < end; i += hn::Lanes(d)) {
      const auto pair = hn::LoadU(d, codes + i);
      counts = hn::Sub(counts, hn::VecFromMask(d, hn::And(pair, first) == first));
      counts = hn::Sub(counts, hn::VecFromMask(d, hn::And(pair, second) == second));
    }
    total = hn::Add(total, hn::SumsOf8(counts));
  }
  return size_t(hn::GetLane(hn::SumOfLanes(d64, total)));
}

// The exponents of the escape codes among `count`, which is a multiple of 256.
uint8_t* AppendEscaped(const uint8_t* HWY_RESTRICT codes, const uint8_t* HWY_RESTRICT exponents, size_t count,
                       uint8_t* HWY_RESTRICT escaped) {
  const hn::ScalableTag<uint8_t> d;
  const auto escape = hn::Set(d, kX16Escape);
  for (size_t first = 0; first < count; first += hn::Lanes(d)) {
    if (HWY_LIKELY(hn::AllFalse(d, hn::LoadU(d, codes + first) == escape))) continue;
    for (size_t i = first; i < first + hn::Lanes(d); ++i) {
      if (codes[i] == kX16Escape) *escaped++ = exponents[i];
    }
  }
  return escaped;
}

// Two codes a byte, by strips.
HWY_INLINE void PackRow(const uint8_t* HWY_RESTRICT codes, size_t head_dim, uint8_t* HWY_RESTRICT packed) {
  for (size_t first = 0; first < head_dim; first += kStrip) {
    const size_t half = std::min<size_t>(kStrip, head_dim - first) / 2;
    for (size_t i = 0; i < half; ++i) {
      packed[first / 2 + i] = uint8_t(codes[first + i] | codes[first + half + i] << 4);
    }
  }
}

// Both bytes of `count` values; returns the largest exponent.
uint8_t Split(const uint16_t* HWY_RESTRICT values, size_t count, uint8_t* HWY_RESTRICT exponents,
              uint8_t* HWY_RESTRICT low) {
  uint8_t top = 0;
  for (size_t i = 0; i < count; ++i) exponents[i] = X16Exponent(values[i]);
  for (size_t i = 0; i < count; ++i) low[i] = X16Low(values[i]);
  for (size_t i = 0; i < count; ++i) top = std::max(top, exponents[i]);
  return top;
}

bool EncodeX16(const TileShape& shape, const uint16_t* HWY_RESTRICT values, std::vector<uint8_t>& record,
               uint8_t* HWY_RESTRICT low, uint8_t* HWY_RESTRICT codes) {
  const size_t head_dim = shape.head_dim, elements = shape.tokens * head_dim, chunk = kChunkRows * head_dim;
  HWY_ALIGN uint8_t exponents[kMaxTokens * kMaxHeadDim];
  HWY_ALIGN uint8_t unpacked[kChunkRows * kMaxHeadDim];
  uint8_t top = 0;
  for (size_t first = 0; first < elements; first += chunk) {
    top = std::max(top, Split(values + first, chunk, exponents + first, low + first));
  }
  const Counts counts = CountExponents(exponents, elements, top);
  const X16Table table = CommonestOf(counts, elements);
  if (table.escapes > elements / kX16MostEscapes) return false;
  record.resize(kX16RecordBytes + table.escapes);
  std::memcpy(record.data(), table.exponents, kX16Exponents);
  StoreLe(table.escapes, 2, record.data() + kX16Exponents);
  uint8_t* escaped = record.data() + kX16RecordBytes;
  const ExponentCodes code_of(table, counts, top);
  for (size_t first = 0; first < elements; first += chunk) {
    code_of.Take(exponents + first, chunk, unpacked);
    for (size_t row = 0; row < chunk; row += head_dim) {
      PackRow(unpacked + row, head_dim, codes + (first + row) / 2);
    }
    if (table.escapes > 0) escaped = AppendEscaped(unpacked, exponents + first, chunk, escaped);
  }
  return true;
}

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

void DecodeX16(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  reference::DecodeX16(parameters, tile, target);
}

#else

// A strip with escapes, into a buffer: what is written may have to go around the caches, in whole lines. Returns the
// exponents that are left.
HWY_NOINLINE const uint8_t* StripWithEscapes(const uint8_t* exponents, const uint8_t* escaped, const uint8_t* low,
                                             const uint8_t* codes, size_t half, uint16_t* values) {
  for (size_t i = 0; i < 2 * half; ++i) {
    const uint8_t code = i < half ? codes[i] & 15 : codes[i - half] >> 4;
    values[i] = X16Value(code == kX16Escape ? *escaped++ : exponents[code], low[i]);
  }
  return escaped;
}

template <class D, class V>
HWY_INLINE void Write(D d, V value, uint16_t* HWY_RESTRICT out, bool stream) {
  if (stream) {
    hn::Stream(value, d, out);
  } else {
    hn::StoreU(value, d, out);
  }
}

template <size_t kHalf>
HWY_INLINE bool HasEscapes(const uint8_t* HWY_RESTRICT codes) {
  const hn::CappedTag<uint8_t, kHalf> d;
  const auto first = hn::Set(d, uint8_t{0x0f}), second = hn::Set(d, uint8_t{0xf0});
  auto found = hn::Zero(d);
  for (size_t i = 0; i < kHalf; i += hn::Lanes(d)) {
    const auto pair = hn::LoadU(d, codes + i);
    found = hn::Or(found, hn::VecFromMask(d, hn::Or(hn::And(pair, first) == first, hn::And(pair, second) == second)));
  }
  return !hn::AllFalse(d, hn::MaskFromVec(found));
}

// Exponents of codes that stand at bits 8 to 11 of their lanes, put above the low bytes; then a rotation to the right.
template <class D16, class V8, class V16>
HWY_INLINE V16 Join(D16 d16, V8 table, V16 code, const uint8_t* HWY_RESTRICT low) {
  const hn::Repartition<uint8_t, D16> d8;
  const hn::Rebind<uint8_t, D16> d_low;
  const auto looked_up = hn::BitCast(d16, hn::TableLookupBytes(table, hn::BitCast(d8, code)));
  const auto upper = hn::And(looked_up, hn::Set(d16, uint16_t{0xff00}));
  const auto joined = hn::Or(upper, hn::PromoteTo(d16, hn::LoadU(d_low, low)));
  return hn::Or(hn::ShiftRight<1>(joined), hn::ShiftLeft<15>(joined));
}

template <size_t kHalf>
HWY_INLINE void DecodeStrip(const uint8_t* HWY_RESTRICT exponents, const uint8_t*& escaped,
                            const uint8_t* HWY_RESTRICT low, const uint8_t* HWY_RESTRICT codes,
                            uint16_t* HWY_RESTRICT out, bool stream) {
  const hn::CappedTag<uint16_t, kHalf> d16;
  const hn::Repartition<uint8_t, decltype(d16)> d8;
  const hn::Rebind<uint8_t, decltype(d16)> d_codes;
  if (HWY_UNLIKELY(HasEscapes<kHalf>(codes))) {
    HWY_ALIGN uint16_t values[2 * kHalf];
    escaped = StripWithEscapes(exponents, escaped, low, codes, kHalf, values);
    for (size_t i = 0; i < 2 * kHalf; i += hn::Lanes(d16)) Write(d16, hn::Load(d16, values + i), out + i, stream);
    return;
  }
  const auto table = hn::LoadDup128(d8, exponents);  // the sixteenth byte is never looked at
  const auto code_bits = hn::Set(d16, uint16_t{0x0f00});
  for (size_t i = 0; i < kHalf; i += hn::Lanes(d16)) {
    const auto pair = hn::PromoteTo(d16, hn::LoadU(d_codes, codes + i));
    const auto first = hn::And(hn::ShiftLeft<8>(pair), code_bits), second = hn::And(hn::ShiftLeft<4>(pair), code_bits);
    Write(d16, Join(d16, table, first, low + i), out + i, stream);
    Write(d16, Join(d16, table, second, low + kHalf + i), out + kHalf + i, stream);
  }
}

void DecodeX16(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const size_t head_dim = parameters.head_dim;
  const bool stream = parameters.stream;
  const uint8_t *low = tile.planes[0], *codes = tile.planes[1], *escaped = tile.exponents + kX16RecordBytes;
  HWY_ALIGN uint8_t exponents[16] = {};
  std::memcpy(exponents, tile.exponents, kX16Exponents);
  for (size_t t = 0; t < parameters.tokens; ++t, low += head_dim, codes += head_dim / 2) {
    uint16_t* out = target.base + t * target.token_stride;
    size_t d = 0;
    for (; d + kStrip <= head_dim; d += kStrip) {
      DecodeStrip<kStrip / 2>(exponents, escaped, low + d, codes + d / 2, out + d, stream);
    }
    if (head_dim - d == 16) DecodeStrip<8>(exponents, escaped, low + d, codes + d / 2, out + d, stream);
    if (head_dim - d == 32) DecodeStrip<16>(exponents, escaped, low + d, codes + d / 2, out + d, stream);
  }
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(DecodeX16);
HWY_EXPORT(CountEscapes);
HWY_EXPORT(EncodeX16);

void DecodeX16(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  HWY_DYNAMIC_DISPATCH(DecodeX16)(parameters, tile, target);
}

size_t CountEscapes(const uint8_t* codes, size_t size_bytes) {
  return HWY_DYNAMIC_DISPATCH(CountEscapes)(codes, size_bytes);
}

bool EncodeX16(const TileShape& shape, const uint16_t* values, std::vector<uint8_t>& record, uint8_t* low,
               uint8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodeX16)(shape, values, record, low, codes);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
