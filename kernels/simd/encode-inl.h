// What the encoder's loops share on a vector target: 16 channels as floats, sums in their order, errors of rows.
//
// Accuracy sums have the order that encode_tile.h promises: of a row, channel i is in partial sum i mod 16, and the partial
//          sums are added in order.
// Threads  pure functions; included once a target (hwy/foreach_target.h).
#if defined(KVIST_KERNELS_SIMD_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVIST_KERNELS_SIMD_ENCODE_INL_H_
#undef KVIST_KERNELS_SIMD_ENCODE_INL_H_
#else
#define KVIST_KERNELS_SIMD_ENCODE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "kernels/encode_scales.h"
#include "kernels/simd/encode_tile.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

constexpr float kRoundEven = 12582912.0f;  // added and taken away: the nearest integer, ties to even, below 2^22

// From -127 to 127. Some code for NaN too (finite values near the largest overflow when they are rotated): such a tile
// misses its floor.
HWY_INLINE int8_t CodeOf(float value, float inverse) {
  return int8_t((std::min(127.0f, std::max(-127.0f, value * inverse)) + kRoundEven) - kRoundEven);
}

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

// Partial sums of a row's squares.
struct RowSums {
  float of[kPartialSums] = {};
  float Total() const {
    float total = 0;
    for (float sum : of) total += sum;
    return total;
  }
};

#else

namespace hn = hwy::HWY_NAMESPACE;

// Sixteen channels at once, on wider vectors too: that is how many partial sums there are.
using Sixteen = hn::CappedTag<uint16_t, kPartialSums>;
using EightBits = hn::RebindToUnsigned<Eight>;
using VF = hn::Vec<Eight>;
using VU = hn::Vec<EightBits>;

// Of sixteen neighbouring channels the even and the odd ones: in this form nothing needs a shuffle.
struct EvenOdd {
  VF even, odd;
};

// The 16 bits in the lower half of each lane. REQUIRES: finite values.
HWY_INLINE VF WidenF16(VU bits) {
  const Eight d;
  const EightBits du;
  const VF magnitude = hn::BitCast(d, hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7fffu))));
  const VF sign = hn::BitCast(d, hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000u))));
  return hn::Or(hn::Mul(magnitude, hn::Set(d, 0x1p112f)), sign);
}

template <bool kF16>
HWY_INLINE EvenOdd Widen(hn::Vec<Sixteen> values) {
  const Eight d;
  const EightBits du;
  const VU bits = hn::BitCast(du, values);
  if constexpr (kF16) return {WidenF16(hn::And(bits, hn::Set(du, 0xffffu))), WidenF16(hn::ShiftRight<16>(bits))};
  return {hn::BitCast(d, hn::ShiftLeft<16>(bits)), hn::BitCast(d, hn::And(bits, hn::Set(du, 0xffff0000u)))};
}
template <bool kF16>
HWY_INLINE EvenOdd Load(const uint16_t* values) {
  return Widen<kF16>(hn::LoadU(Sixteen(), values));
}

// The float that a reader's 16 bits stand for. REQUIRES: not NaN.
template <bool kF16>
HWY_INLINE VF Rounded(VF value) {
  const Eight d;
  if constexpr (kF16) {
    return hn::PromoteTo(d, hn::DemoteTo(hn::Rebind<hwy::float16_t, Eight>(), value));
  } else {
    const EightBits du;
    const VU bits = hn::BitCast(du, value), odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
    const VU rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd);
    return hn::BitCast(d, hn::And(rounded, hn::Set(du, 0xffff0000u)));
  }
}

// Each row's sum of its partial sums, in order, for eight rows whose vectors are `even` and `odd`.
HWY_INLINE VF SumsOfRows(VF (&even)[8], VF (&odd)[8]) {
  Transpose(even);
  Transpose(odd);
  VF total = hn::Add(even[0], odd[0]);
#pragma GCC unroll 8
  for (size_t i = 1; i < 8; ++i) total = hn::Add(hn::Add(total, even[i]), odd[i]);
  return total;
}

// The errors of a tile, row by row.
class TileErrors {
 public:
  HWY_INLINE TileErrors() {}  // spelled out: an implicit one is compiled for the baseline target

  // Begins row `row`, which comes after row - 1.
  HWY_INLINE void Begin() { signal_ = noise_ = {hn::Zero(Eight()), hn::Zero(Eight())}; }
  HWY_INLINE void Add(EvenOdd value, EvenOdd decoded) {
    const VF even = hn::Sub(decoded.even, value.even), odd = hn::Sub(decoded.odd, value.odd);
    signal_.even = hn::Add(signal_.even, hn::Mul(value.even, value.even));
    signal_.odd = hn::Add(signal_.odd, hn::Mul(value.odd, value.odd));
    noise_.even = hn::Add(noise_.even, hn::Mul(even, even));
    noise_.odd = hn::Add(noise_.odd, hn::Mul(odd, odd));
    differs_ = hn::Or(differs_, hn::Or(even, odd));
  }
  // REQUIRES: rows are ended in order, and are a multiple of eight.
  HWY_INLINE void End(size_t row) {
    signals_[0][row % 8] = signal_.even;
    signals_[1][row % 8] = signal_.odd;
    noises_[0][row % 8] = noise_.even;
    noises_[1][row % 8] = noise_.odd;
    if (row % 8 == 7) Fold();
  }
  HWY_INLINE TileError Total() const {
    const EightBits du;
    TileError error;
    error.signal = signal_total_;
    error.noise = noise_total_;
    // Either zero is equal to the other.
    error.identical =
        hn::AllTrue(du, hn::Eq(hn::Add(hn::BitCast(du, differs_), hn::BitCast(du, differs_)), hn::Zero(du)));
    return error;
  }

 private:
  HWY_INLINE void Fold() {
    HWY_ALIGN float signals[8], noises[8];
    hn::Store(SumsOfRows(signals_[0], signals_[1]), Eight(), signals);
    hn::Store(SumsOfRows(noises_[0], noises_[1]), Eight(), noises);
    for (size_t i = 0; i < 8; ++i) {
      signal_total_ += signals[i];
      noise_total_ += noises[i];
    }
  }

  EvenOdd signal_, noise_;
  VF differs_ = hn::Zero(Eight());
  VF signals_[2][8], noises_[2][8];
  double signal_total_ = 0, noise_total_ = 0;
};

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KVIST_KERNELS_SIMD_ENCODE_INL_H_
