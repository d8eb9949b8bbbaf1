// Tiles of eight by eight floats with rows and columns exchanged, in registers.
//
// Threads pure functions; included once a target (hwy/foreach_target.h).
#if defined(KVIST_KERNELS_SIMD_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVIST_KERNELS_SIMD_TRANSPOSE_INL_H_
#undef KVIST_KERNELS_SIMD_TRANSPOSE_INL_H_
#else
#define KVIST_KERNELS_SIMD_TRANSPOSE_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

#if HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR

namespace hn = hwy::HWY_NAMESPACE;

using Eight = hn::CappedTag<float, 8>;
static_assert(hn::MaxLanes(Eight()) == 8);

HWY_INLINE void Transpose(hn::Vec<Eight> (&v)[8]) {
  const Eight d;
  const hn::Repartition<double, Eight> d64;
  hn::Vec<Eight> pairs[8], fours[8];
#pragma GCC unroll 4
  for (size_t i = 0; i < 8; i += 2) {
    pairs[i] = hn::InterleaveLower(d, v[i], v[i + 1]);
    pairs[i + 1] = hn::InterleaveUpper(d, v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    const size_t a = i / 2 * 4 + i % 2, b = a + 2;
    const auto low = hn::BitCast(d64, pairs[a]), high = hn::BitCast(d64, pairs[b]);
    fours[i / 2 * 4 + i % 2 * 2] = hn::BitCast(d, hn::InterleaveLower(d64, low, high));
    fours[i / 2 * 4 + i % 2 * 2 + 1] = hn::BitCast(d, hn::InterleaveUpper(d64, low, high));
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    v[i] = hn::ConcatLowerLower(d, fours[i + 4], fours[i]);
    v[i + 4] = hn::ConcatUpperUpper(d, fours[i + 4], fours[i]);
  }
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KVIST_KERNELS_SIMD_TRANSPOSE_INL_H_
