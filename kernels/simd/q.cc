#include "kernels/simd/q.h"

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

void AddScaledRow(float factor, const float* row, size_t count, float* sums) {
  reference::AddScaled(factor, row, count, sums);
}

#else

void AddScaledRow(float factor, const float* HWY_RESTRICT row, size_t count, float* HWY_RESTRICT sums) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const auto factors = hn::Set(d, factor);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::MulAdd(factors, hn::LoadU(d, row + i), hn::LoadU(d, sums + i)), d, sums + i);
  }
  if (i < count) reference::AddScaled(factor, row + i, count - i, sums + i);  // rows of coded coefficients alone
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(AddScaledRow);

namespace {

void Dispatched(float factor, const float* row, size_t count, float* sums) {
  HWY_DYNAMIC_DISPATCH(AddScaledRow)(factor, row, count, sums);
}

}  // namespace

AddScaledFunction AddScaled() { return &Dispatched; }

}  // namespace kvist::simd
#endif  // HWY_ONCE
