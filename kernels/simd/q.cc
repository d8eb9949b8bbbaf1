#include "kernels/simd/q.h"

#include <cmath>

#include "kernels/reference/q.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/q.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

void AddProduct(absl::Span<const float> factors, const float* matrix, absl::Span<float> sums) {
  reference::AddProduct(factors, matrix, sums);
}

#else

// Columns [first, first + kVectors * lanes) through all rows: their sums stay in registers. Eight chains hide the latency of
// a fused multiply-add.
template <size_t kVectors>
HWY_INLINE void AddColumns(absl::Span<const float> factors, const float* HWY_RESTRICT matrix, size_t stride,
                           float* HWY_RESTRICT sums) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<decltype(d)> totals[kVectors];
  for (size_t v = 0; v < kVectors; ++v) totals[v] = hn::LoadU(d, sums + v * lanes);
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] == 0) continue;
    const auto factor = hn::Set(d, factors[i]);
    const float* HWY_RESTRICT row = matrix + i * stride;
    for (size_t v = 0; v < kVectors; ++v) totals[v] = hn::MulAdd(factor, hn::LoadU(d, row + v * lanes), totals[v]);
  }
  for (size_t v = 0; v < kVectors; ++v) hn::StoreU(totals[v], d, sums + v * lanes);
}

// Rows of coded coefficients may end anywhere; those of channels do not.
HWY_INLINE void AddLastColumns(absl::Span<const float> factors, const float* HWY_RESTRICT matrix, size_t stride,
                               size_t count, float* HWY_RESTRICT sums) {
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] == 0) continue;
    for (size_t j = 0; j < count; ++j) sums[j] = std::fma(factors[i], matrix[i * stride + j], sums[j]);
  }
}

void AddProduct(absl::Span<const float> factors, const float* matrix, absl::Span<float> sums) {
  constexpr size_t kMost = 8;
  const size_t lanes = hn::Lanes(hn::ScalableTag<float>()), width = sums.size();
  size_t j = 0;
  for (; j + kMost * lanes <= width; j += kMost * lanes) AddColumns<kMost>(factors, matrix + j, width, &sums[j]);
  for (; j + 4 * lanes <= width; j += 4 * lanes) AddColumns<4>(factors, matrix + j, width, &sums[j]);
  for (; j + lanes <= width; j += lanes) AddColumns<1>(factors, matrix + j, width, &sums[j]);
  if (j < width) AddLastColumns(factors, matrix + j, width, width - j, &sums[j]);
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(AddProduct);

void AddProduct(absl::Span<const float> factors, const float* matrix, absl::Span<float> sums) {
  HWY_DYNAMIC_DISPATCH(AddProduct)(factors, matrix, sums);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
