// Kernel body of i8: scale and codes of each token, decoded again and compared. Phases as in decode_plain.h.
#ifndef KVIST_KERNELS_CUDA_ENCODE_I8_H_
#define KVIST_KERNELS_CUDA_ENCODE_I8_H_

#include "kernels/cuda/encode_tile_view.h"

namespace kvist::cuda {

// One grid block: one tile.
// Roofline: 2 bytes in and 1.01 out an element = bound by memory if the second and third look at the values come from a
// cache: a tile of 128 x 128 is 32 KiB, of 256 x 256 128 KiB, and a multiprocessor of an H100 has 256 KiB in all.
struct EncodeI8Body {
  using Arguments = EncodeArguments;
  using Open = EncodeView;
  static constexpr uint32_t kThreads = kEncodeThreads;
  static constexpr int kPhases = 6;
  struct Shared {
    CompareShared compare;  // .signal holds the lanes' maxima before it holds sums
    float inverse[256];
    uint8_t scales[256], not_finite[kThreads];
  };

  KVIST_HD static Open OpenBlock(const Arguments& arguments, uint32_t block) { return OpenEncode(arguments, block); }

  template <int kPhase>
  KVIST_HD static void Run(const Open& view, uint32_t thread, Shared& shared) {
    if constexpr (kPhase == 0) {
      Maxima(view, thread, shared);
    } else if constexpr (kPhase == 1) {
      Scales(view, thread, shared);
    } else if constexpr (kPhase == 2) {
      for (uint32_t i = thread; i < view.tokens * view.head_dim; i += kThreads) {
        const uint32_t t = i / view.head_dim;
        const float value = Widen(view.Bits(t, i % view.head_dim), view.dtype);
        view.slot[view.at.planes[0] + i] = uint8_t(CodeOf(value, shared.inverse[t]));
      }
    } else if constexpr (kPhase == 3) {
      CompareLanes(view, thread, shared.compare, [&](uint32_t t, uint32_t d) {
        return float(int8_t(view.slot[view.at.planes[0] + t * view.head_dim + d])) * LogScale(shared.scales[t]);
      });
    } else if constexpr (kPhase == 4) {
      CompareTokens(view, thread, shared.compare);
    } else if (thread == 0) {
      TileSums sums = {CompareTile(view, shared.compare), {}, 1};
      for (uint32_t i = 0; i < kThreads; ++i) sums.finite &= !shared.not_finite[i];
      *view.sums = sums;
    }
  }

 private:
  KVIST_HD static void Maxima(const Open& view, uint32_t thread, Shared& shared) {
    bool not_finite = false;
    for (uint32_t item = thread; item < view.tokens * kPartialSums; item += kThreads) {
      const uint32_t t = item / kPartialSums, j = item % kPartialSums;
      float largest = 0;
      for (uint32_t d = j; d < view.head_dim; d += kPartialSums) {
        const uint16_t bits = view.Bits(t, d);
        not_finite |= !IsFinite(bits, view.dtype);
        largest = Larger(largest, Magnitude(Widen(bits, view.dtype)));
      }
      shared.compare.signal[item] = largest;
    }
    shared.not_finite[thread] = not_finite;
  }

  KVIST_HD static void Scales(const Open& view, uint32_t thread, Shared& shared) {
    for (uint32_t t = thread; t < view.tokens; t += kThreads) {
      float largest = 0;
      for (uint32_t j = 0; j < kPartialSums; ++j)
        largest = Larger(largest, shared.compare.signal[t * kPartialSums + j]);
      shared.scales[t] = view.slot[view.at.record + t] = CoveringLogScale(largest);
      shared.inverse[t] = 1.0f / LogScale(shared.scales[t]);
    }
  }
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_I8_H_
