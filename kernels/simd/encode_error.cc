// AllFinite and Compare of encode_tile.h.
#include "kernels/half.h"
#include "kernels/simd/encode_tile.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/encode_error.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

#include "kernels/simd/encode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

bool AllFinite(const TileShape& shape, const uint16_t* HWY_RESTRICT values) {
  const uint16_t exponent = shape.dtype == Dtype::kBf16 ? 0x7f80 : 0x7c00;
  uint16_t found = 0;
  for (size_t i = 0; i < size_t{shape.tokens} * shape.head_dim; ++i) {
    found |= uint16_t((values[i] & exponent) == exponent);
  }
  return found == 0;
}

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

TileError CompareRows(const TileShape& shape, const uint16_t* values, const uint16_t* decoded) {
  TileError error;
  error.identical = true;
  for (size_t t = 0; t < shape.tokens; ++t, values += shape.head_dim, decoded += shape.head_dim) {
    RowSums signal, noise;
    for (size_t d = 0; d < shape.head_dim; ++d) {
      const float value = Widen(values[d], shape.dtype), off = Widen(decoded[d], shape.dtype) - value;
      signal.of[d % kPartialSums] += value * value;
      noise.of[d % kPartialSums] += off * off;
      error.identical &= off == 0;
    }
    error.signal += signal.Total();
    error.noise += noise.Total();
  }
  return error;
}

#else

template <bool kF16>
TileError CompareRowsOf(const TileShape& shape, const uint16_t* HWY_RESTRICT values,
                        const uint16_t* HWY_RESTRICT decoded) {
  TileErrors errors;
  for (size_t t = 0; t < shape.tokens; ++t) {
    errors.Begin();
    for (size_t at = t * shape.head_dim; at < (t + 1) * shape.head_dim; at += kPartialSums) {
      errors.Add(Load<kF16>(values + at), Load<kF16>(decoded + at));
    }
    errors.End(t);
  }
  return errors.Total();
}

TileError CompareRows(const TileShape& shape, const uint16_t* values, const uint16_t* decoded) {
  return shape.dtype == Dtype::kF16 ? CompareRowsOf<true>(shape, values, decoded)
                                    : CompareRowsOf<false>(shape, values, decoded);
}

#endif  // HWY_TARGET

TileError Compare(const TileShape& shape, const uint16_t* values, const uint16_t* decoded) {
  TileError error = CompareRows(shape, values, decoded);
  error.finite = HWY_NAMESPACE::AllFinite(shape, decoded);
  return error;
}

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(AllFinite);
HWY_EXPORT(Compare);

bool AllFinite(const TileShape& shape, const uint16_t* values) {
  return HWY_DYNAMIC_DISPATCH(AllFinite)(shape, values);
}

TileError Compare(const TileShape& shape, const uint16_t* values, const uint16_t* decoded) {
  return HWY_DYNAMIC_DISPATCH(Compare)(shape, values, decoded);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
