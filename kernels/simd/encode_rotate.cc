// Rotate of encode_tile.h: the transform of a tile, tokens turned into columns on the way.
#include <cstring>

#include "kernels/half.h"
#include "kernels/simd/encode_tile.h"
#include "kernels/tables.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/encode_rotate.cc"
#include <hwy/foreach_target.h>
// Highway asks for this order.
#include <hwy/highway.h>

#include "kernels/simd/encode-inl.h"
#include "kernels/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

void Rotate(const TileShape& shape, const uint16_t* values, float* rotated) {
  const RotationBlocks split = BlocksOf(shape.head_dim);
  for (size_t t = 0; t < shape.tokens; ++t) {
    float row[256];
    for (int b = 0; b < split.count; ++b) {
      const RotationBlock& block = split.blocks[b];
      for (size_t d = block.first; d < block.first + block.length; ++d) {
        row[d] = Widen(values[t * shape.head_dim + d], shape.dtype) * (SignOf(d) * block.Norm());
      }
      for (size_t half = 1; half < block.length; half *= 2) {
        for (size_t i = 0; i < block.length; ++i) {
          if ((i & half) != 0) continue;
          float &a = row[block.first + i], &b = row[block.first + i + half];
          const float sum = a + b;
          b = a - b;
          a = sum;
        }
      }
    }
    for (size_t d = 0; d < shape.head_dim; ++d) rotated[d * shape.tokens + t] = row[d];
  }
}

#else

constexpr size_t kRun = 16;      // channels whose butterflies are done while they are turned into columns
constexpr size_t kColumns = 16;  // tokens at once: a line of the result

template <size_t kCount>
HWY_INLINE void Butterflies(VF (&v)[kCount]) {
#pragma GCC unroll 4
  for (size_t half = 1; half < kCount; half *= 2) {
#pragma GCC unroll 16
    for (size_t i = 0; i < kCount; ++i) {
      if ((i & half) == 0) Butterfly(v[i], v[i + half]);
    }
  }
}

// Sixteen channels of eight tokens, `head_dim` apart, times `factors`, their butterflies done, as rows of columns.
template <bool kF16>
HWY_INLINE void TransformRun(const uint16_t* HWY_RESTRICT values, size_t head_dim, const float* HWY_RESTRICT factors,
                             float* HWY_RESTRICT columns) {
  const Eight d;
  VF even[8], odd[8], v[kRun];
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; ++i) {
    const EvenOdd loaded = Load<kF16>(values + i * head_dim);
    even[i] = loaded.even;
    odd[i] = loaded.odd;
  }
  Transpose(even);
  Transpose(odd);
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; ++i) {
    v[2 * i] = hn::Mul(even[i], hn::Set(d, factors[2 * i]));
    v[2 * i + 1] = hn::Mul(odd[i], hn::Set(d, factors[2 * i + 1]));
  }
  Butterflies(v);
#pragma GCC unroll 16
  for (size_t i = 0; i < kRun; ++i) hn::Store(v[i], d, columns + i * kColumns);
}

// The butterflies between runs of a block; the channels go to rows of `tokens`.
template <size_t kRuns>
HWY_INLINE void TransformColumns(const float* HWY_RESTRICT columns, size_t tokens, float* HWY_RESTRICT rotated) {
  const Eight d;
  for (size_t i = 0; i < kRun; ++i) {
    for (size_t j = 0; j < kColumns; j += 8) {
      VF v[kRuns];
#pragma GCC unroll 16
      for (size_t run = 0; run < kRuns; ++run) v[run] = hn::Load(d, columns + (run * kRun + i) * kColumns + j);
      Butterflies(v);
#pragma GCC unroll 16
      for (size_t run = 0; run < kRuns; ++run) hn::StoreU(v[run], d, rotated + (run * kRun + i) * tokens + j);
    }
  }
}

template <bool kF16>
void RotateOf(const TileShape& shape, const uint16_t* HWY_RESTRICT values, float* HWY_RESTRICT rotated) {
  const RotationBlocks split = BlocksOf(shape.head_dim);
  HWY_ALIGN float factors[256], columns[256 * kColumns];
  for (int b = 0; b < split.count; ++b) {
    const RotationBlock& block = split.blocks[b];
    for (size_t d = block.first; d < block.first + block.length; ++d) factors[d] = SignOf(d) * block.Norm();
  }
  for (size_t t = 0; t < shape.tokens; t += kColumns) {
    for (size_t j = 0; j < kColumns; j += 8) {
      for (size_t d = 0; d < shape.head_dim; d += kRun) {
        TransformRun<kF16>(values + (t + j) * shape.head_dim + d, shape.head_dim, factors + d,
                           columns + d * kColumns + j);
      }
    }
    for (int b = 0; b < split.count; ++b) {
      const RotationBlock& block = split.blocks[b];
      const auto transform = block.length == 16    ? TransformColumns<1>
                             : block.length == 32  ? TransformColumns<2>
                             : block.length == 64  ? TransformColumns<4>
                             : block.length == 128 ? TransformColumns<8>
                                                   : TransformColumns<16>;
      transform(columns + block.first * kColumns, shape.tokens, rotated + block.first * shape.tokens + t);
    }
  }
}

void Rotate(const TileShape& shape, const uint16_t* values, float* rotated) {
  if (shape.dtype == Dtype::kF16) return RotateOf<true>(shape, values, rotated);
  RotateOf<false>(shape, values, rotated);
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(Rotate);

void Rotate(const TileShape& shape, const uint16_t* values, float* rotated) {
  HWY_DYNAMIC_DISPATCH(Rotate)(shape, values, rotated);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
