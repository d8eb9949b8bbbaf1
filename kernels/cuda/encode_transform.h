// What the ladder's encoder keeps in shared memory and in its slot, its walks over a tile, and its transforms.
//
// Shapes  rotated and integers are [head_dim][tokens].
// Threads phases with a barrier between two of them, each called by all threads of a grid block.
// Accuracy a butterfly is one addition and one subtraction whose operands do not depend on who does it: cutting a transform
//         into runs of 16 neighbours and every 16th channel gives the bits of simd/encode_rotate.cc, in float as well.
#ifndef KVIST_KERNELS_CUDA_ENCODE_TRANSFORM_H_
#define KVIST_KERNELS_CUDA_ENCODE_TRANSFORM_H_

#include "kernels/cuda/encode_tile_view.h"

namespace kvist::cuda {

struct EncodeLadderShared {
  CompareShared compare;  // .signal holds the lanes of a channel's sums before it holds those of tokens
  float weight[256];      // 1, or 0 for a sink
  float inverse[256];     // weight over the token's mean square
  float token_square[256], channel_square[256], mean[256], factor[256], scale[256];
  float relative[256];  // means by their channel's scale
  uint32_t sums[256];   // W of FORMAT.md, then its transform
  uint8_t token_scales[256], channel_scales[256], not_finite[kEncodeThreads], mean_scale;
  int8_t mean_codes[256];
};

KVIST_HD float* Rotated(const EncodeView& view) { return reinterpret_cast<float*>(view.slot + view.at.rotated); }
KVIST_HD uint32_t* Integers(const EncodeView& view) {
  return reinterpret_cast<uint32_t*>(view.slot + view.at.integers);
}
KVIST_HD uint8_t* WideRow(const EncodeView& view, uint32_t token) {
  return view.slot + view.at.wide + token * (1 + view.head_dim);
}
KVIST_HD float At(const EncodeView& view, uint32_t d, uint32_t t) { return Rotated(view)[d * view.tokens + t]; }
KVIST_HD float Rows(const EncodeView& view) { return float(view.tokens - view.sinks); }
KVIST_HD float Square(const EncodeView& view, const EncodeLadderShared& shared, uint32_t d, uint32_t t) {
  const float off = At(view, d, t) - shared.mean[d];
  return off * off;
}

// Sums over tokens: lane j of a channel takes tokens j, j + 16, ...
KVIST_HD float* LanesOf(EncodeLadderShared& shared, uint32_t d) { return shared.compare.signal + d * kPartialSums; }
template <typename Term>
KVIST_HD void Lanes(const EncodeView& view, uint32_t thread, EncodeLadderShared& shared, const Term& term) {
  for (uint32_t item = thread; item < view.head_dim * kPartialSums; item += kEncodeThreads) {
    const uint32_t d = item / kPartialSums, j = item % kPartialSums;
    float sum = 0;
    for (uint32_t t = j; t < view.tokens; t += kPartialSums) sum += term(d, t);
    LanesOf(shared, d)[j] = sum;
  }
}

// Mean squares of the tokens by the channels' factors.
KVIST_HD void UpdateTokens(const EncodeView& view, uint32_t thread, EncodeLadderShared& shared) {
  for (uint32_t t = thread; t < view.tokens; t += kEncodeThreads) {
    float sum = 0;
    for (uint32_t d = 0; d < view.head_dim; ++d) sum += Square(view, shared, d, t) * shared.factor[d];
    const float square = sum / float(view.head_dim);
    shared.token_square[t] = square;
    shared.inverse[t] = square > 0 ? shared.weight[t] / square : 0.0f;
  }
}

template <uint32_t kCount, typename Value>
KVIST_HD void Butterflies(Value* values) {
  KVIST_UNROLL
  for (uint32_t half = 1; half < kCount; half *= 2) {
    KVIST_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      if ((i & half) != 0) continue;
      const Value a = values[i], b = values[i + half];
      values[i] = a + b;
      values[i + half] = a - b;
    }
  }
}

// In place, every `stride`-th of kCount values.
template <uint32_t kCount, typename Value>
KVIST_HD void ButterfliesAt(Value* at, uint32_t stride) {
  Value values[kCount];
  KVIST_UNROLL
  for (uint32_t i = 0; i < kCount; ++i) values[i] = at[i * stride];
  Butterflies<kCount>(values);
  KVIST_UNROLL
  for (uint32_t i = 0; i < kCount; ++i) at[i * stride] = values[i];
}
template <typename Value>
KVIST_HD void ButterfliesOf(uint32_t count, Value* at, uint32_t stride) {
  if (count == 2) ButterfliesAt<2>(at, stride);
  if (count == 4) ButterfliesAt<4>(at, stride);
  if (count == 8) ButterfliesAt<8>(at, stride);
  if (count == 16) ButterfliesAt<16>(at, stride);
}

// The butterflies between runs of 16 channels; those inside a run are done. `column` is one of 16, `step` the distance
// of neighbouring channels.
template <typename Value>
KVIST_HD void TransformColumn(uint32_t head_dim, uint32_t column, uint32_t step, Value* at) {
  const uint32_t main = head_dim == 80 || head_dim == 96 ? 64 : head_dim;
  ButterfliesOf(main / 16, at + column * step, 16 * step);
  if (main < head_dim) ButterfliesOf((head_dim - main) / 16, at + (main + column) * step, 16 * step);
}
template <typename Value>
KVIST_HD void TransformColumns(Value* values, const EncodeView& view, uint32_t thread) {
  for (uint32_t item = thread; item < view.tokens * 16; item += kEncodeThreads)
    TransformColumn(view.head_dim, item / view.tokens, view.tokens, values + item % view.tokens);
}

// A thread takes 16 channels of a token.
KVIST_HD void LoadRotateInner(const EncodeView& view, uint32_t thread, EncodeLadderShared& shared) {
  bool not_finite = false;
  for (uint32_t item = thread; item < view.tokens * (view.head_dim / 16); item += kEncodeThreads) {
    const uint32_t t = item % view.tokens, first = item / view.tokens * 16;
    float values[16];
    KVIST_UNROLL
    for (uint32_t i = 0; i < 16; ++i) {
      const uint16_t bits = view.Bits(t, first + i);
      not_finite |= !IsFinite(bits, view.dtype);
      values[i] = Widen(bits, view.dtype) * NormOf(view.head_dim, first + i);
    }
    Butterflies<16>(values);
    KVIST_UNROLL
    for (uint32_t i = 0; i < 16; ++i) Rotated(view)[(first + i) * view.tokens + t] = values[i];
  }
  shared.not_finite[thread] = not_finite;
}

// v of FORMAT.md: from wide rows for the first `wide` tokens, else from codes.
KVIST_HD void IntegersInner(const EncodeView& view, uint32_t thread, const EncodeLadderShared& shared, uint32_t wide) {
  for (uint32_t item = thread; item < view.tokens * (view.head_dim / 16); item += kEncodeThreads) {
    const uint32_t t = item % view.tokens, first = item / view.tokens * 16;
    const uint8_t* codes = view.slot + view.at.codes + t * view.head_dim;
    uint32_t values[16];
    KVIST_UNROLL
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t d = first + i;
      const int32_t multiplier = ChannelMultiplier(shared.channel_scales[d], view.head_dim);
      const int32_t value = t < wide ? int8_t(WideRow(view, t)[1 + d])
                                     : OwnValue(LevelOf(codes[PositionOf(d, view.head_dim)]), multiplier);
      values[i] = uint32_t(value);
    }
    Butterflies<16>(values);
    KVIST_UNROLL
    for (uint32_t i = 0; i < 16; ++i) Integers(view)[(first + i) * view.tokens + t] = values[i];
  }
}

KVIST_HD void TransformMeansInner(const EncodeView& view, uint32_t thread, EncodeLadderShared& shared) {
  if (thread < view.head_dim / 16) ButterfliesAt<16>(shared.sums + 16 * thread, 1);
}
KVIST_HD void TransformMeansOuter(const EncodeView& view, uint32_t thread, EncodeLadderShared& shared) {
  if (thread < 16) TransformColumn(view.head_dim, thread, 1, shared.sums);
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_TRANSFORM_H_
