// Kernel bodies without rotation: i8 and raw16. A body is a sequence of phases with a barrier between two of them; a
// phase is a function of the thread and of shared memory (run.cuh runs them on the device, the grid emulator on the
// CPU).
#ifndef KVIST_KERNELS_CUDA_DECODE_PLAIN_H_
#define KVIST_KERNELS_CUDA_DECODE_PLAIN_H_

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/tile_view.h"

namespace kvist::cuda {

// out[t][d] = code[t][d] * s(token scale[t]). One thread: 8 codes, 16 bytes of output.
// Roofline: 1.01 bytes in and 2 out an element = bound by memory (H200 4.8 TB/s: 1.59e12 elements/s; H100 3.35 TB/s:
// 1.11e12). 6.9 elements a clock and SM at 20 bytes; an element takes about three instructions of 128 lanes' worth.
// 8-byte loads, because then the 16-byte stores of neighbouring threads touch: whole lines both ways.
template <uint32_t kHeadDim>
struct DecodeI8Body {
  using Arguments = DecodeArguments;
  using Open = TileView;
  static constexpr uint32_t kThreads = kBlockThreads, kRows = RowsOfBlock(kHeadDim);
  static constexpr int kPhases = 2;
  struct Shared {
    uint64_t row_offsets[kRows];
    float row_scales[kRows];
  };

  KVIST_HD static TileView OpenBlock(const Arguments& arguments, uint32_t block) { return OpenTile(arguments, block); }

  template <int kPhase>
  KVIST_HD static void Run(const TileView& view, uint32_t thread, Shared& shared) {
    if constexpr (kPhase == 0) {
      for (uint32_t row = thread; row < view.count; row += kThreads) {
        shared.row_offsets[row] = view.OffsetOf(row);
        if (view.mode == TileMode::kOwn) shared.row_scales[row] = LogScale(view.record[view.first + row]);
      }
    } else if (view.mode == TileMode::kRaw16) {
      CopyRawRows<kHeadDim>(view, thread, shared.row_offsets);
    } else if (view.dtype == Dtype::kBf16) {
      Convert<Dtype::kBf16>(view, thread, shared);
    } else {
      Convert<Dtype::kF16>(view, thread, shared);
    }
  }

 private:
  template <Dtype kDtype>
  KVIST_HD static void Convert(const TileView& view, uint32_t thread, const Shared& shared) {
    constexpr uint32_t kUnits = kHeadDim / 8;
    const uint8_t* codes = view.planes[0] + uint64_t{view.first} * kHeadDim;
    const uint32_t units = view.count * kUnits;
    for (uint32_t start = thread; start < units; start += kThreads * kLoadsAhead) {
      Words<2> loaded[kLoadsAhead];
      KVIST_UNROLL
      for (uint32_t k = 0; k < kLoadsAhead; ++k) {
        const uint32_t unit = start + k * kThreads;
        if (unit < units) loaded[k] = LoadGlobal<Words<2>>(codes + uint64_t{unit} * 8);
      }
      KVIST_UNROLL
      for (uint32_t k = 0; k < kLoadsAhead; ++k) {
        const uint32_t unit = start + k * kThreads, row = unit / kUnits;
        if (unit < units)
          StoreUnit<kDtype>(loaded[k], shared.row_scales[row], view.out + shared.row_offsets[row] + unit % kUnits * 8);
      }
    }
  }

  template <Dtype kDtype>
  KVIST_HD static void StoreUnit(const Words<2>& codes, float scale, uint16_t* out) {
    Words<4> values;
    KVIST_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t word = codes.word[i / 2], at = i % 2 * 2;
      values.word[i] = NarrowPair<kDtype>(FloatOfByte(word, at) * scale, FloatOfByte(word, at + 1) * scale);
    }
    StoreGlobal(values, out);
  }
};

// Copies tiles of 16-bit values. Roofline: 2 bytes in and 2 out an element, 16 bytes a load and a store.
template <uint32_t kHeadDim>
struct DecodeRaw16Body {
  using Arguments = DecodeArguments;
  using Open = TileView;
  static constexpr uint32_t kThreads = kBlockThreads, kRows = RowsOfBlock(kHeadDim);
  static constexpr int kPhases = 2;
  struct Shared {
    uint64_t row_offsets[kRows];
  };

  KVIST_HD static TileView OpenBlock(const Arguments& arguments, uint32_t block) { return OpenTile(arguments, block); }

  template <int kPhase>
  KVIST_HD static void Run(const TileView& view, uint32_t thread, Shared& shared) {
    if constexpr (kPhase == 0) {
      for (uint32_t row = thread; row < view.count; row += kThreads) shared.row_offsets[row] = view.OffsetOf(row);
    } else {
      CopyRawRows<kHeadDim>(view, thread, shared.row_offsets);
    }
  }
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_DECODE_PLAIN_H_
