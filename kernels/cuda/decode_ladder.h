// Kernel body of the ladder, inverse rotation fused. Phases with a barrier between two of them, see decode_plain.h.
//
// How it goes  A thread first takes one strip of one row: 64 channels are 16 bytes of P0 and 8 of P1 and P2, and their
//              transform is 32 packed registers, so the butterflies need no exchange between threads. The integers go
//              to shared memory, because stores that fill lines need another order of threads anyway; on the way out, a
//              thread takes 8 channels of every strip of a row's WHT block and does the butterflies between strips.
//              So the transposition is the only exchange; there is no shuffle.
#ifndef KVIST_KERNELS_CUDA_DECODE_LADDER_H_
#define KVIST_KERNELS_CUDA_DECODE_LADDER_H_

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/tile_view.h"

namespace kvist::cuda {

// Bytes of a strip's row in a plane as words. Rows of 80 channels start at multiples of 4 (P0) and 2 (P1, P2) bytes, of
// 96 at 8 and 4, the others at their strips' length.
template <uint32_t kBytes, uint32_t kAlignment>
KVIST_HD void LoadStrip(const uint8_t* at, uint32_t* words) {
  constexpr uint32_t kStep = kBytes < kAlignment ? kBytes : kAlignment;
  if constexpr (kStep == 2) {
    for (uint32_t i = 0; i < kBytes / 2; ++i) {
      const uint32_t half = LoadGlobal<uint16_t>(at + 2 * i);
      words[i / 2] = i % 2 == 0 ? half : words[i / 2] | half << 16;
    }
  } else {
    KVIST_UNROLL
    for (uint32_t i = 0; i < kBytes / kStep; ++i) {
      const auto loaded = LoadGlobal<Words<kStep / 4>>(at + kStep * i);
      KVIST_UNROLL
      for (uint32_t w = 0; w < kStep / 4; ++w) words[i * (kStep / 4) + w] = loaded.word[w];
    }
  }
}

// The largest power of two, at most 16, that divides `bytes`.
constexpr uint32_t AlignmentOf(uint32_t bytes) {
  uint32_t alignment = 16;
  while (bytes % alignment != 0) alignment /= 2;
  return alignment;
}

// Roofline at precision 4: 0.53 bytes in and 2 out an element = bound by memory (H200 4.8 TB/s: 1.90e12 elements/s,
// H100 3.35 TB/s: 1.32e12), if an element takes at most 7.8 integer operations (64 a clock and SM; at 85 % of the
// bandwidth 9.2, at 70 % 11.1). By count: unpacking 0.8, levels 1.4, sign extension 1, shift 1, packing 0.5, float 1,
// narrowing 0.5, addresses 0.5: 7 kept rotated; the transform adds 2.5 to 3.5. Multiplications run beside them.
template <uint32_t kHeadDim, Basis kBasis>
struct DecodeLadderBody {
  using Arguments = DecodeArguments;
  using Open = TileView;
  static constexpr bool kRotate = kBasis == Basis::kOriginal;
  static constexpr uint32_t kThreads = kBlockThreads, kRows = RowsOfBlock(kHeadDim);
  static constexpr int kPhases = kRotate ? 4 : 3;
  static constexpr uint32_t kStrips = (kHeadDim + kStrip - 1) / kStrip, kTail = kHeadDim % kStrip;
  static constexpr uint32_t kJoined = kTail != 0 ? 1 : kStrips;  // strips of a WHT block of whole strips
  static constexpr uint32_t kUnits = kHeadDim / 8;               // of 8 channels, 16 bytes

  struct alignas(16) Shared {
    Words<4> values[kRows * kUnits];  // biased uint16, see Place
    uint64_t row_offsets[kRows];
    float row_scales[kRows];
    alignas(16) int32_t multipliers[kHeadDim];  // 32 bits: no instruction to widen them
    uint32_t sums[kHeadDim];                    // W, then WHT(W)
  };

  KVIST_HD static TileView OpenBlock(const Arguments& arguments, uint32_t block) { return OpenTile(arguments, block); }

  template <int kPhase>
  KVIST_HD static void Run(const TileView& view, uint32_t thread, Shared& shared) {
    if constexpr (kPhase == 0) {
      Prepare(view, thread, shared);
    } else if (view.mode == TileMode::kRaw16) {
      if constexpr (kPhase == kPhases - 1) CopyRawRows<kHeadDim>(view, thread, shared.row_offsets);
    } else if constexpr (kPhase == 1) {
      if (kRotate && HasMean(view)) TransformSumsInner(thread, shared);
      UnpackRows(view, thread, shared);
    } else if constexpr (kPhase < kPhases - 1) {
      if (HasMean(view)) TransformSumsOuter(thread, shared);
    } else if (view.dtype == Dtype::kBf16) {
      Finish<Dtype::kBf16>(view, thread, shared);
    } else {
      Finish<Dtype::kF16>(view, thread, shared);
    }
  }

 private:
  KVIST_HD static bool HasMean(const TileView& view) { return view.is_key && view.mode == TileMode::kOwn; }
  KVIST_HD static uint32_t WideRows(const TileView& view) {  // of the tile
    return view.mode == TileMode::kOwn ? view.sinks : view.tokens;
  }
  KVIST_HD static const uint8_t* ChannelScales(const TileView& view) {
    return view.record + (view.tokens - view.sinks);
  }
  KVIST_HD static const uint8_t* MeanCodes(const TileView& view) { return ChannelScales(view) + kHeadDim; }
  KVIST_HD static const uint8_t* WideRow(const TileView& view, uint32_t token) {
    const uint8_t* rows = view.record;
    if (view.mode == TileMode::kOwn) rows = ChannelScales(view) + kHeadDim + (view.is_key ? kHeadDim + 1 : 0);
    return rows + uint64_t{token} * (1 + kHeadDim);
  }

  // Units of neighbouring rows lie in different banks for the threads that write a column of them.
  KVIST_HD static uint32_t Place(uint32_t row, uint32_t unit) {
    const bool whole_strip = unit < kHeadDim / kStrip * 8;
    return row * kUnits + (whole_strip ? unit ^ (row & 7) : unit);
  }

  KVIST_HD static void Prepare(const TileView& view, uint32_t thread, Shared& shared) {
    const bool coded = view.mode != TileMode::kRaw16;
    for (uint32_t row = thread; row < view.count; row += kThreads) {
      shared.row_offsets[row] = view.OffsetOf(row);
      const uint32_t token = view.first + row, wide = WideRows(view);
      if (!coded) continue;
      shared.row_scales[row] =
          token < wide ? LogScale(*WideRow(view, token)) : OwnRowScale(view.record[token - wide], kHeadDim);
    }
    if (view.mode != TileMode::kOwn) return;
    for (uint32_t d = thread; d < kHeadDim; d += kThreads) {
      const int32_t multiplier = ChannelMultiplier(ChannelScales(view)[d], kHeadDim);
      shared.multipliers[d] = multiplier;
      if (view.is_key) shared.sums[d] = uint32_t(int8_t(MeanCodes(view)[d]) * multiplier);
    }
  }

  // WHT(W) in two steps, each in a thread's registers: runs of 16 neighbours, then every 16th of a block.
  KVIST_HD static void TransformSumsInner(uint32_t thread, Shared& shared) {
    if (thread >= kHeadDim / 16) return;
    uint32_t values[16];
    KVIST_UNROLL
    for (uint32_t i = 0; i < 16; ++i) values[i] = shared.sums[16 * thread + i];
    Transform<16>(values);
    KVIST_UNROLL
    for (uint32_t i = 0; i < 16; ++i) shared.sums[16 * thread + i] = values[i];
  }
  template <uint32_t kCount>
  KVIST_HD static void TransformColumn(uint32_t* sums) {
    uint32_t values[kCount];
    KVIST_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) values[i] = sums[16 * i];
    Transform<kCount>(values);
    KVIST_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) sums[16 * i] = values[i];
  }
  KVIST_HD static void TransformSumsOuter(uint32_t thread, Shared& shared) {
    constexpr uint32_t kMain = kHeadDim - kTail;
    if (thread < 16) TransformColumn<kMain / 16>(shared.sums + thread);
    if constexpr (kTail != 0) {
      if (thread >= 16 && thread < 32) TransformColumn<kTail / 16>(shared.sums + kMain + thread - 16);
    }
  }

  // A warp's lanes take neighbouring rows of one strip: the multipliers are broadcasts.
  KVIST_HD static void UnpackRows(const TileView& view, uint32_t thread, Shared& shared) {
    for (uint32_t item = thread; item < kRows * kStrips; item += kThreads) {
      const uint32_t row = item % kRows, strip = item / kRows;
      if (row >= view.count) continue;
      if constexpr (kTail != 0) {
        if (strip == kStrips - 1) {
          UnpackStrip<kTail>(view, row, strip, shared);
          continue;
        }
      }
      UnpackStrip<kStrip>(view, row, strip, shared);
    }
  }

  template <uint32_t kLength>
  KVIST_HD static void UnpackStrip(const TileView& view, uint32_t row, uint32_t strip, Shared& shared) {
    uint32_t pairs[kLength / 2];  // channels i and i + kLength / 2
    const uint32_t token = view.first + row, wide = WideRows(view), first = strip * kStrip;
    const auto pack = [&](uint32_t i, int32_t a, int32_t b) {
      pairs[i] = kRotate ? PackButterfly(a, b) : Pack(a, b) + kPairBias;
    };
    if (token < wide) {
      const int8_t* codes = reinterpret_cast<const int8_t*>(WideRow(view, token)) + 1 + first;
      KVIST_UNROLL
      for (uint32_t i = 0; i < kLength / 2; ++i) pack(i, codes[i], codes[i + kLength / 2]);
    } else {
      const StripCodes<kLength> codes = LoadCodes<kLength>(view, token - wide, first);
      const int32_t* multipliers = shared.multipliers + first;
      ForEachLevelPair<kLength>(codes, LevelWordsFor(view.precision), [&](uint32_t i, int32_t a, int32_t b) {
        pack(i, OwnValue(a, multipliers[i]), OwnValue(b, multipliers[i + kLength / 2]));
      });
    }
    if constexpr (kRotate) {
      pairs[0] += kPairBias;  // the transform carries it to every pair, once
      Transform<kLength / 2>(pairs);
    }
    StorePairs<kLength>(pairs, row, first / 8, shared);
  }

  KVIST_HD static LevelWords LevelWordsFor(uint8_t precision) {
    constexpr LevelWords k4 = LevelWordsOf(4), k3 = LevelWordsOf(3), k2 = LevelWordsOf(2);
    LevelWords levels;
    KVIST_UNROLL
    for (int i = 0; i < 4; ++i) levels.word[i] = precision == 4 ? k4.word[i] : precision == 3 ? k3.word[i] : k2.word[i];
    return levels;
  }

  template <uint32_t kLength>
  KVIST_HD static StripCodes<kLength> LoadCodes(const TileView& view, uint32_t row, uint32_t first) {
    using Codes = StripCodes<kLength>;
    StripCodes<kLength> codes{};
    const uint64_t at = uint64_t{row} * kHeadDim + first;  // in channels
    LoadStrip<Codes::kBytes, AlignmentOf(kHeadDim / 4)>(view.planes[0] + at / 4, codes.p0);
    if (view.planes[1] != nullptr)
      LoadStrip<Codes::kBitBytes, AlignmentOf(kHeadDim / 8)>(view.planes[1] + at / 8, codes.p1);
    if (view.planes[2] != nullptr)
      LoadStrip<Codes::kBitBytes, AlignmentOf(kHeadDim / 8)>(view.planes[2] + at / 8, codes.p2);
    return codes;
  }

  // Low halves are the strip's first channels in order, high halves the others.
  template <uint32_t kLength>
  KVIST_HD static void StorePairs(const uint32_t* pairs, uint32_t row, uint32_t first_unit, Shared& shared) {
    KVIST_UNROLL
    for (uint32_t unit = 0; unit < kLength / 16; ++unit) {
      Words<4> low, high;
      KVIST_UNROLL
      for (uint32_t w = 0; w < 4; ++w) {
        const uint32_t a = pairs[8 * unit + 2 * w], b = pairs[8 * unit + 2 * w + 1];
        low.word[w] = BytePermute(a, b, 0x5410);
        high.word[w] = BytePermute(a, b, 0x7632);
      }
      shared.values[Place(row, first_unit + unit)] = low;
      shared.values[Place(row, first_unit + kLength / 16 + unit)] = high;
    }
  }

  // What a thread multiplies and adds, the same for all of its rows.
  struct Constants {
    float norms[8 * kJoined], means[8 * kJoined];
  };
  KVIST_HD static Constants ConstantsOf(const TileView& view, uint32_t unit, const Shared& shared) {
    Constants constants;
    const bool has_mean = HasMean(view);
    const float scale = has_mean ? MeanScale(MeanCodes(view)[kHeadDim], kHeadDim) : 0;
    KVIST_UNROLL
    for (uint32_t i = 0; i < 8 * kJoined; ++i) {
      const uint32_t channel = i / 8 * kStrip + unit * 8 + i % 8;
      constants.norms[i] = NormOf(kHeadDim, channel);
      constants.means[i] =
          has_mean ? Scaled<kBasis>(float(int32_t(shared.sums[channel])), constants.norms[i], scale) : 0;
    }
    return constants;
  }

  template <Dtype kDtype>
  KVIST_HD static void Finish(const TileView& view, uint32_t thread, const Shared& shared) {
    constexpr uint32_t kRowUnits = kUnits / kJoined, kStep = kThreads / kRowUnits;
    const uint32_t unit = thread % kRowUnits, wide = WideRows(view);
    if (thread >= kRowUnits * kStep) return;  // 80 and 96 have 10 and 12 units
    const Constants constants = ConstantsOf(view, unit, shared);
    for (uint32_t row = thread / kRowUnits; row < view.count; row += kStep) {
      Words<4> values[kJoined];
      KVIST_UNROLL
      for (uint32_t j = 0; j < kJoined; ++j) values[j] = shared.values[Place(row, 8 * j + unit)];
      if constexpr (kRotate) JoinStrips(values);
      const bool has_mean = view.first + row >= wide;
      KVIST_UNROLL
      for (uint32_t j = 0; j < kJoined; ++j) {
        const Words<4> narrow = Narrowed<kDtype>(values[j], constants.norms + 8 * j, constants.means + 8 * j, has_mean,
                                                 shared.row_scales[row]);
        StoreGlobal(narrow, view.out + shared.row_offsets[row] + j * kStrip + unit * 8);
      }
    }
  }

  // Butterflies between strips on biased pairs: a sum has the bias twice, a difference not at all.
  KVIST_HD static void JoinStrips(Words<4>* values) {
    KVIST_UNROLL
    for (uint32_t half = 1; half < kJoined; half *= 2) {
      KVIST_UNROLL
      for (uint32_t j = 0; j < kJoined; ++j) {
        if ((j & half) != 0) continue;
        KVIST_UNROLL
        for (uint32_t w = 0; w < 4; ++w) {
          const uint32_t a = values[j].word[w], b = values[j + half].word[w];
          values[j].word[w] = a + b - kPairBias;
          values[j + half].word[w] = a - b + kPairBias;
        }
      }
    }
  }

  // M is added where it is zero as well: it makes -0 to +0.
  template <Dtype kDtype>
  KVIST_HD static Words<4> Narrowed(const Words<4>& values, const float* norms, const float* means, bool has_mean,
                                    float scale) {
    Words<4> result;
    KVIST_UNROLL
    for (uint32_t w = 0; w < 4; ++w) {
      const uint32_t i = 2 * w;
      const float low = Scaled<kBasis>(LowOfBiased(values.word[w]), norms[i], scale);
      const float high = Scaled<kBasis>(HighOfBiased(values.word[w]), norms[i + 1], scale);
      result.word[w] = NarrowPair<kDtype>(low + (has_mean ? means[i] : 0.0f), high + (has_mean ? means[i + 1] : 0.0f));
    }
    return result;
  }
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_DECODE_LADDER_H_
