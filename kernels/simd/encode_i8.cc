// I8Rows and WideRows of encode_tile.h: rows of 8 bits with a scale each.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/encode_scales.h"
#include "kernels/half.h"
#include "kernels/simd/encode_tile.h"
#include "kernels/tables.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/encode_i8.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

#include "kernels/simd/encode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

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

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

bool I8Rows(const TileShape& shape, const uint16_t* values, uint8_t* token_scales, uint8_t* codes, TileError& error) {
  error = {};
  error.identical = true;
  for (size_t t = 0; t < shape.tokens; ++t, values += shape.head_dim, codes += shape.head_dim) {
    float absmax = 0;
    for (size_t d = 0; d < shape.head_dim; ++d) {
      if (!IsFinite(values[d], shape.dtype)) return false;
      absmax = std::max(absmax, std::abs(Widen(values[d], shape.dtype)));
    }
    token_scales[t] = CoveringLogScale(absmax);
    const float scale = LogScale(token_scales[t]), inverse = 1.0f / scale;
    RowSums signal, noise;
    for (size_t d = 0; d < shape.head_dim; ++d) {
      const float value = Widen(values[d], shape.dtype);
      const int8_t code = CodeOf(value, inverse);
      codes[d] = uint8_t(code);
      const float off = Widen(Narrow(float(code) * scale, shape.dtype), shape.dtype) - value;
      signal.of[d % kPartialSums] += value * value;
      noise.of[d % kPartialSums] += off * off;
      error.identical &= off == 0;
    }
    error.signal += signal.Total();
    error.noise += noise.Total();
  }
  return true;
}

#else

constexpr size_t kRows = 8;  // at once
constexpr uint16_t kMagnitude = 0x7fff;

// The largest magnitudes of eight rows, as bits of 16.
HWY_INLINE VU MaximaOf(const uint16_t* HWY_RESTRICT values, size_t head_dim) {
  const Eight d;
  const EightBits du;
  const Sixteen d16;
  VF rows[kRows];
#pragma GCC unroll 8
  for (size_t row = 0; row < kRows; ++row) {
    auto largest = hn::Zero(d16);
    for (size_t i = 0; i < head_dim; i += kPartialSums) {
      const auto magnitude = hn::And(hn::LoadU(d16, values + row * head_dim + i), hn::Set(d16, kMagnitude));
      largest = hn::Max(largest, magnitude);
    }
    const auto upper = hn::BitCast(d16, hn::ShiftRight<16>(hn::BitCast(du, largest)));
    rows[row] = hn::BitCast(d, hn::Max(largest, upper));
  }
  Transpose(rows);
  auto all = hn::BitCast(d16, rows[0]);
#pragma GCC unroll 8
  for (size_t i = 1; i < kRows; ++i) all = hn::Max(all, hn::BitCast(d16, rows[i]));
  return hn::And(hn::BitCast(du, all), hn::Set(du, 0xffffu));
}

// CoveringLogScale of eight.
HWY_INLINE VU CoveringLogScales(VF absmax) {
  const Eight d;
  const hn::RebindToSigned<Eight> di;
  const auto bits = hn::BitCast(di, absmax), mantissa = hn::And(bits, hn::Set(di, 0x7fffff));
  auto u = hn::Sub(hn::ShiftLeft<3>(hn::ShiftRight<23>(bits)), hn::Set(di, (127 + 7 - 16) * 8 - 1));
#pragma GCC unroll 8
  for (int i = 1; i <= 8; ++i) {
    const int32_t bound = std::bit_cast<int32_t>(127.0f * LogScale(uint8_t(128 + i))) & 0x7fffff;
    u = hn::Sub(u, hn::VecFromMask(di, mantissa > hn::Set(di, bound)));
  }
  const auto covers = hn::RebindMask(di, absmax > hn::Set(d, 127.0f * LogScale(0)));
  return hn::BitCast(EightBits(), hn::IfThenElseZero(covers, hn::Min(u, hn::Set(di, 255))));
}

// Codes of sixteen channels from -127 to 127, as 16 bits in their order, and as what they stand for.
template <bool kF16>
HWY_INLINE hn::Vec<hn::RebindToSigned<Sixteen> > CodesOf(EvenOdd value, VF inverse, VF scale, EvenOdd& decoded) {
  const Eight d;
  const EightBits du;
  const hn::RebindToSigned<Sixteen> d16;
  const VF most = hn::Set(d, 127.0f), least = hn::Set(d, -127.0f), round = hn::Set(d, kRoundEven);
  const auto rounded = [&](VF v)
                           HWY_ATTR { return hn::Add(hn::Min(hn::Max(hn::Mul(v, inverse), least), most), round); };
  const VF even = rounded(value.even), odd = rounded(value.odd);
  decoded.even = Rounded<kF16>(hn::Mul(hn::Sub(even, round), scale));
  decoded.odd = Rounded<kF16>(hn::Mul(hn::Sub(odd, round), scale));
  // The integer stands in the lower bits of the sum.
  return hn::OddEven(hn::BitCast(d16, hn::ShiftLeft<16>(hn::BitCast(du, odd))), hn::BitCast(d16, even));
}

template <bool kF16>
bool I8RowsOf(const TileShape& shape, const uint16_t* HWY_RESTRICT values, uint8_t* HWY_RESTRICT token_scales,
              uint8_t* HWY_RESTRICT codes, TileError& error) {
  const Eight d;
  const EightBits du;
  const hn::Rebind<int8_t, Sixteen> d8;
  const size_t head_dim = shape.head_dim;
  const VU infinity = hn::Set(du, kF16 ? 0x7c00u : 0x7f80u);
  TileErrors errors;
  for (size_t first = 0; first < shape.tokens; first += kRows) {
    const VU maxima = MaximaOf(values + first * head_dim, head_dim);
    if (!hn::AllTrue(du, maxima < infinity)) return false;
    const VF absmax = kF16 ? WidenF16(maxima) : hn::BitCast(d, hn::ShiftLeft<16>(maxima));
    HWY_ALIGN uint32_t u[kRows];
    HWY_ALIGN float scales[kRows], inverses[kRows];
    hn::Store(CoveringLogScales(absmax), du, u);
    for (size_t i = 0; i < kRows; ++i) {
      token_scales[first + i] = uint8_t(u[i]);
      scales[i] = kLogScales[u[i]];
    }
    hn::Store(hn::Div(hn::Set(d, 1.0f), hn::Load(d, scales)), d, inverses);
    for (size_t i = 0; i < kRows; ++i) {
      const VF scale = hn::Set(d, scales[i]), inverse = hn::Set(d, inverses[i]);
      errors.Begin();
      for (size_t at = (first + i) * head_dim; at < (first + i + 1) * head_dim; at += kPartialSums) {
        const EvenOdd value = Load<kF16>(values + at);
        EvenOdd decoded;
        const auto code = CodesOf<kF16>(value, inverse, scale, decoded);
        hn::StoreU(hn::DemoteTo(d8, code), d8, reinterpret_cast<int8_t*>(codes) + at);
        errors.Add(value, decoded);
      }
      errors.End(first + i);
    }
  }
  error = errors.Total();
  return true;
}

bool I8Rows(const TileShape& shape, const uint16_t* values, uint8_t* token_scales, uint8_t* codes, TileError& error) {
  if (shape.dtype == Dtype::kF16) return I8RowsOf<true>(shape, values, token_scales, codes, error);
  return I8RowsOf<false>(shape, values, token_scales, codes, error);
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(WideRows);
HWY_EXPORT(I8Rows);

void WideRows(const TileShape& shape, uint32_t count, const float* rotated, uint8_t* out) {
  HWY_DYNAMIC_DISPATCH(WideRows)(shape, count, rotated, out);
}

bool I8Rows(const TileShape& shape, const uint16_t* values, uint8_t* token_scales, uint8_t* codes, TileError& error) {
  return HWY_DYNAMIC_DISPATCH(I8Rows)(shape, values, token_scales, codes, error);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
