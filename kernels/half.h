// bf16 and f16 bits from and to f32: IEEE 754 round to nearest even, subnormals and infinities included. Scalar.
#ifndef KVIST_KERNELS_HALF_H_
#define KVIST_KERNELS_HALF_H_

#include <bit>
#include <cstdint>

#include "kernels/kinds.h"

namespace kvist {

// REQUIRES: `value` is not NaN (no codec's arithmetic makes one).
constexpr uint16_t Bf16FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

constexpr uint16_t F16FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return uint16_t(sign | 0x7c00);  // 65536 and more
  if (magnitude < 0x38800000) {                                 // below 2^-14: a multiple of 2^-24
    // Adding 0.5 leaves the multiple in the low mantissa bits, rounded to nearest even by the adder.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return uint16_t(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return uint16_t(sign | ((rounded - (112u << 23)) >> 13));
}

constexpr uint16_t Narrow(float value, Dtype dtype) {
  return dtype == Dtype::kBf16 ? Bf16FromFloat(value) : F16FromFloat(value);
}

constexpr float Widen(uint16_t bits, Dtype dtype) {
  if (dtype == Dtype::kBf16) return std::bit_cast<float>(uint32_t{bits} << 16);
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x400) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  const float value = float(magnitude) * 0x1p-24f;
  return sign != 0 ? -value : value;
}

constexpr bool IsFinite(uint16_t bits, Dtype dtype) {
  const uint16_t exponent = dtype == Dtype::kBf16 ? 0x7f80 : 0x7c00;
  return (bits & exponent) != exponent;
}

}  // namespace kvist

#endif  // KVIST_KERNELS_HALF_H_
