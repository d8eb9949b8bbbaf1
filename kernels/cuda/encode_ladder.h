// Kernel body of the ladder: rotate, fit scales, take codes, pack, decode again, compare; and the same for rotated i8, the
// form that a tile is raised to. Phases as in decode_plain.h.
//
// How it goes  The host decides which form stays (encode_plan.cc), because dB is a logarithm and a device's differs from a
//              CPU's in the last bit. So both forms are always made.
//              Rotated values lie in the slot as [head_dim][tokens]: threads take neighbouring tokens.
#ifndef KVIST_KERNELS_CUDA_ENCODE_LADDER_H_
#define KVIST_KERNELS_CUDA_ENCODE_LADDER_H_

#include "kernels/cuda/encode_transform.h"

namespace kvist::cuda {

// One grid block: one tile; 256 threads.
// Roofline: 2 bytes in and 1.55 out an element (codes, rotated i8) from memory, and about 90 bytes an element between
// multiprocessor and caches (18 walks over 4-byte values), so that it is bound by L2 bandwidth (about 5.5 TB/s on an H100),
// not by memory: encoding runs once a block and beside the engine, decoding on its critical path. Tiles in flight (two a
// multiprocessor, 9 bytes an element) fit the L2 cache of 50 MB.
struct EncodeLadderBody {
  using Arguments = EncodeArguments;
  using Open = EncodeView;
  using Shared = EncodeLadderShared;
  static constexpr uint32_t kThreads = kEncodeThreads;
  // Load, columns, mean sums, means; three phases a Sinkhorn pass; five that make bytes; integers and comparison of two
  // forms, five phases each, the first of the second beside the last of the first.
  static constexpr int kFirstPass = 4, kQuantize = kFirstPass + 3 * kSinkhornPasses, kOwn = kQuantize + 5,
                       kWide = kOwn + 4, kPhases = kWide + 5;

  KVIST_HD static Open OpenBlock(const Arguments& arguments, uint32_t block) { return OpenEncode(arguments, block); }

  template <int kPhase>
  KVIST_HD static void Run(const Open& view, uint32_t thread, Shared& shared) {
    if constexpr (kPhase < kFirstPass) {
      Rotate<kPhase>(view, thread, shared);
    } else if constexpr (kPhase < kQuantize) {
      Sinkhorn<(kPhase - kFirstPass) % 3>(view, thread, shared);
    } else if constexpr (kPhase < kOwn) {
      Quantize<kPhase - kQuantize>(view, thread, shared);
    } else if constexpr (kPhase < kWide) {
      if constexpr (kPhase == kOwn) WriteRecord(view, thread, shared);
      Measure<kPhase - kOwn, true>(view, thread, shared);
    } else {
      if constexpr (kPhase == kWide) {
        if (thread == 0) view.sums->own = CompareTile(view, shared.compare);
      }
      Measure<kPhase - kWide, false>(view, thread, shared);
    }
  }

 private:
  template <int kStep>
  KVIST_HD static void Rotate(const Open& view, uint32_t thread, Shared& shared) {
    if constexpr (kStep == 0) {
      for (uint32_t t = thread; t < view.tokens; t += kThreads)
        shared.weight[t] = shared.inverse[t] = t < view.sinks ? 0.0f : 1.0f;
      LoadRotateInner(view, thread, shared);
    } else if constexpr (kStep == 1) {
      TransformColumns(Rotated(view), view, thread);
    } else if constexpr (kStep == 2) {
      WriteWideRows(view, thread);
      if (view.is_key)
        Lanes(view, thread, shared, [&](uint32_t d, uint32_t t) { return At(view, d, t) * shared.weight[t]; });
    } else {
      for (uint32_t d = thread; d < view.head_dim; d += kThreads)
        shared.mean[d] = view.is_key ? SumInOrder(LanesOf(shared, d)) / Rows(view) : 0.0f;
    }
  }

  // One pass: channels from the tokens before, tokens from the channels just found.
  template <int kStep>
  KVIST_HD static void Sinkhorn(const Open& view, uint32_t thread, Shared& shared) {
    if constexpr (kStep == 0) {
      Lanes(view, thread, shared,
            [&](uint32_t d, uint32_t t) { return Square(view, shared, d, t) * shared.inverse[t]; });
    } else if constexpr (kStep == 1) {
      for (uint32_t d = thread; d < view.head_dim; d += kThreads) {
        const float square = SumInOrder(LanesOf(shared, d)) / Rows(view);
        shared.channel_square[d] = square;
        shared.factor[d] = square > 0 ? 1.0f / square : 0.0f;
      }
    } else {
      UpdateTokens(view, thread, shared);
    }
  }

  template <int kStep>
  KVIST_HD static void Quantize(const Open& view, uint32_t thread, Shared& shared) {
    if constexpr (kStep == 0) {
      ChannelScales(view, thread, shared);
    } else if constexpr (kStep == 1) {
      float largest = 0;
      for (uint32_t d = 0; d < view.head_dim; ++d) largest = Larger(largest, shared.scale[d]);
      for (uint32_t d = thread; d < view.head_dim; d += kThreads) QuantizeChannel(view, d, largest, shared);
    } else if constexpr (kStep == 2) {
      UpdateTokens(view, thread, shared);
      for (uint32_t t = thread; t < view.tokens; t += kThreads)
        shared.token_scales[t] = NearestLogScale(sqrtf(shared.token_square[t]));
    } else if constexpr (kStep == 3) {
      QuantizeMeans(view, thread, shared);
    } else {
      TakeCodes(view, thread, shared);
    }
  }

  // Scales before they are relative to the largest.
  KVIST_HD static void ChannelScales(const Open& view, uint32_t thread, Shared& shared) {
    float token_mean = 0;
    for (uint32_t t = 0; t < view.tokens; ++t) token_mean += shared.token_square[t] * shared.weight[t];
    token_mean = sqrtf(token_mean / Rows(view));
    const float per_mean = token_mean > 0 ? kLeastScaleOfMean / token_mean : kLeastScaleOfMean;
    for (uint32_t d = thread; d < view.head_dim; d += kThreads)
      shared.scale[d] = Larger(sqrtf(shared.channel_square[d]), Magnitude(shared.mean[d]) * per_mean);
  }

  KVIST_HD static void QuantizeChannel(const Open& view, uint32_t d, float largest, Shared& shared) {
    const uint8_t nearest = largest > 0 ? NearestLogScale(shared.scale[d] / largest) : 0;
    shared.channel_scales[d] = nearest < kMaxChannelScale ? nearest : kMaxChannelScale;
    const float effective = EffectiveScale(shared.channel_scales[d], view.head_dim);
    shared.factor[d] = effective > 0 ? 1.0f / (effective * effective) : 0.0f;
    shared.relative[d] = effective > 0 ? shared.mean[d] / effective : 0.0f;
  }

  KVIST_HD static void QuantizeMeans(const Open& view, uint32_t thread, Shared& shared) {
    float absmax = 0;
    for (uint32_t d = 0; d < view.head_dim; ++d) absmax = Larger(absmax, Magnitude(shared.relative[d]));
    const uint8_t scale = view.is_key ? CoveringLogScale(absmax) : 0;
    const float inverse = 1.0f / LogScale(scale);
    if (thread == 0) shared.mean_scale = scale;
    for (uint32_t d = thread; d < view.head_dim; d += kThreads)
      shared.mean_codes[d] = view.is_key ? CodeOf(shared.relative[d], inverse) : int8_t(0);
  }

  KVIST_HD static void TakeCodes(const Open& view, uint32_t thread, Shared& shared) {
    const float mean_unit = LogScale(shared.mean_scale);
    uint8_t* codes = view.slot + view.at.codes;
    for (uint32_t i = thread; i < view.tokens * view.head_dim; i += kThreads) {
      const uint32_t d = i / view.tokens, t = i % view.tokens;
      const float scale = EffectiveScale(shared.channel_scales[d], view.head_dim);
      const float factor = scale > 0 ? 1.0f / scale : 0.0f, mean = float(shared.mean_codes[d]) * scale * mean_unit;
      const float inverse = 1.0f / LogScale(shared.token_scales[t]);
      codes[t * view.head_dim + PositionOf(d, view.head_dim)] =
          NearestLevel((At(view, d, t) - mean) * factor * inverse);
    }
    for (uint32_t d = thread; d < view.head_dim; d += kThreads)
      shared.sums[d] = uint32_t(shared.mean_codes[d] * ChannelMultiplier(shared.channel_scales[d], view.head_dim));
  }

  // Rows of all tokens as rotated i8: a raised tile's record; the first of them are the sinks'.
  KVIST_HD static void WriteWideRows(const Open& view, uint32_t thread) {
    for (uint32_t t = thread; t < view.tokens; t += kThreads) {
      float absmax = 0;
      for (uint32_t d = 0; d < view.head_dim; ++d) absmax = Larger(absmax, Magnitude(At(view, d, t)));
      uint8_t* row = WideRow(view, t);
      row[0] = CoveringLogScale(absmax);
      const float inverse = 1.0f / LogScale(row[0]);
      for (uint32_t d = 0; d < view.head_dim; ++d) row[1 + d] = uint8_t(CodeOf(At(view, d, t), inverse));
    }
  }

  // The record and the planes of the tile's own form.
  KVIST_HD static void WriteRecord(const Open& view, uint32_t thread, const Shared& shared) {
    const uint32_t rows = view.tokens - view.sinks, head_dim = view.head_dim;
    uint8_t* record = view.slot + view.at.record;
    for (uint32_t row = thread; row < rows; row += kThreads) record[row] = shared.token_scales[view.sinks + row];
    record += rows;
    for (uint32_t d = thread; d < head_dim; d += kThreads) record[d] = shared.channel_scales[d];
    record += head_dim;
    if (view.is_key) {
      for (uint32_t d = thread; d < head_dim; d += kThreads) record[d] = uint8_t(shared.mean_codes[d]);
      if (thread == 0) record[head_dim] = shared.mean_scale;
      record += head_dim + 1;
    }
    for (uint32_t i = thread; i < view.sinks * (1 + head_dim); i += kThreads) record[i] = WideRow(view, 0)[i];
    for (int plane = 1; plane <= 3; ++plane) {
      const uint32_t row_bytes = head_dim / (plane == 1 ? 4 : 8);
      const uint8_t* codes = view.slot + view.at.codes + view.sinks * head_dim;
      for (uint32_t i = thread; i < rows * row_bytes; i += kThreads) {
        view.slot[view.at.planes[plane - 1] + i] =
            PlaneByte(codes + i / row_bytes * head_dim, head_dim, plane, i % row_bytes);
      }
    }
  }

  // Decodes one form as every reader will, and compares.
  template <int kStep, bool kOwnForm>
  KVIST_HD static void Measure(const Open& view, uint32_t thread, Shared& shared) {
    const uint32_t wide = kOwnForm ? view.sinks : view.tokens;
    if constexpr (kStep == 0) {
      IntegersInner(view, thread, shared, wide);
      if (kOwnForm) TransformMeansInner(view, thread, shared);
    } else if constexpr (kStep == 1) {
      TransformColumns(Integers(view), view, thread);
      if (kOwnForm) TransformMeansOuter(view, thread, shared);
    } else if constexpr (kStep == 2) {
      CompareLanes(view, thread, shared.compare,
                   [&](uint32_t t, uint32_t d) { return Decoded(view, shared, wide, t, d); });
    } else if constexpr (kStep == 3) {
      CompareTokens(view, thread, shared.compare);
    } else if (thread == 0) {
      view.sums->rotated = CompareTile(view, shared.compare);
      view.sums->finite = 1;
      for (uint32_t i = 0; i < kThreads; ++i) view.sums->finite &= !shared.not_finite[i];
    }
  }

  // FORMAT.md, "Ladder", original basis. The mean is added where it is zero as well: it makes -0 to +0.
  KVIST_HD static float Decoded(const Open& view, const Shared& shared, uint32_t wide, uint32_t t, uint32_t d) {
    const float norm = NormOf(view.head_dim, d);
    const float scale = t < wide ? LogScale(*WideRow(view, t)) : OwnRowScale(shared.token_scales[t], view.head_dim);
    const float value = float(int32_t(Integers(view)[d * view.tokens + t]));
    const float mean = t < wide || !view.is_key ? 0.0f
                                                : Scaled<Basis::kOriginal>(float(int32_t(shared.sums[d])), norm,
                                                                           MeanScale(shared.mean_scale, view.head_dim));
    return Scaled<Basis::kOriginal>(value, norm, scale) + mean;
  }
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_LADDER_H_
