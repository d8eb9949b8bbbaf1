// The tile that one grid block encodes, and its comparison with what a reader will decode.
//
// Threads every thread of a grid block sees the same view; the phases below have a barrier between two of them.
#ifndef KVIST_KERNELS_CUDA_ENCODE_TILE_VIEW_H_
#define KVIST_KERNELS_CUDA_ENCODE_TILE_VIEW_H_

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/encode_arithmetic.h"
#include "kernels/cuda/encode_tasks.h"
#include "kernels/cuda/tuning.h"

namespace kvist::cuda {

struct EncodeView {
  bool open;
  bool is_key;
  Dtype dtype;
  uint32_t tokens, head_dim, sinks;
  const uint16_t* values;
  uint64_t token_stride;
  uint8_t* slot;
  EncodeSlot at;
  TileSums* sums;

  KVIST_HD uint16_t Bits(uint32_t token, uint32_t channel) const { return values[token * token_stride + channel]; }
};

KVIST_HD EncodeView OpenEncode(const EncodeArguments& arguments, uint32_t grid_block) {
  const EncodeItem item = arguments.items[arguments.first_item + grid_block];
  const EncodeBlock& block = arguments.blocks[item.block];
  const uint32_t layer = item.tile / (2 * block.heads), index = item.tile % (2 * block.heads);
  const uint32_t kv = index / block.heads, head = index % block.heads;
  EncodeView view = {true,    kv == 0, block.dtype, block.tokens, block.head_dim, block.sinks,
                     nullptr, 0,       nullptr,     {},           nullptr};
  view.values = block.pages + kv * block.kv_stride + layer * block.layer_stride + head * block.head_stride;
  view.token_stride = block.token_stride;
  // Slots of K are the largest; all tiles of a block have that size.
  const uint64_t size = SlotOf(block.codec, block.tokens, block.head_dim, block.sinks, true).size_bytes;
  view.slot = arguments.slots + block.first_slot + item.tile * size;
  view.at = SlotOf(block.codec, block.tokens, block.head_dim, block.sinks, view.is_key);
  view.sums = arguments.sums + block.first_tile + item.tile;
  return view;
}

// Shared memory of a comparison. Lane j of a token sums channels j, j + 16, ...
struct CompareShared {
  float signal[256 * kPartialSums], noise[256 * kPartialSums];
  float token_signal[256], token_noise[256];
  uint8_t differs[kEncodeThreads], infinite[kEncodeThreads];  // by thread
};

// First phase. `decoded` gives the value that a reader will see.
template <typename Decoded>
KVIST_HD void CompareLanes(const EncodeView& view, uint32_t thread, CompareShared& shared, const Decoded& decoded) {
  bool differs = false, infinite = false;
  for (uint32_t item = thread; item < view.tokens * kPartialSums; item += kEncodeThreads) {
    const uint32_t t = item % view.tokens, j = item / view.tokens;
    float signal = 0, noise = 0;
    for (uint32_t d = j; d < view.head_dim; d += kPartialSums) {
      const float exact = decoded(t, d);
      const uint16_t bits = view.dtype == Dtype::kBf16 ? uint16_t(NarrowPair<Dtype::kBf16>(exact, 0))
                                                       : uint16_t(NarrowPair<Dtype::kF16>(exact, 0));
      const float value = Widen(view.Bits(t, d), view.dtype), off = Widen(bits, view.dtype) - value;
      signal += value * value;
      noise += off * off;
      differs |= off != 0;
      infinite |= !IsFinite(bits, view.dtype);
    }
    shared.signal[t * kPartialSums + j] = signal;
    shared.noise[t * kPartialSums + j] = noise;
  }
  shared.differs[thread] = differs;
  shared.infinite[thread] = infinite;
}

// Second phase.
KVIST_HD void CompareTokens(const EncodeView& view, uint32_t thread, CompareShared& shared) {
  for (uint32_t t = thread; t < view.tokens; t += kEncodeThreads) {
    shared.token_signal[t] = SumInOrder(shared.signal + t * kPartialSums);
    shared.token_noise[t] = SumInOrder(shared.noise + t * kPartialSums);
  }
}

// Third phase, one thread: doubles in the order of tokens, as the CPU adds them.
KVIST_HD FormSums CompareTile(const EncodeView& view, const CompareShared& shared) {
  FormSums sums = {0, 0, 1, 1};
  for (uint32_t t = 0; t < view.tokens; ++t) {
    sums.signal += shared.token_signal[t];
    sums.noise += shared.token_noise[t];
  }
  for (uint32_t i = 0; i < kEncodeThreads; ++i) {
    if (shared.differs[i]) sums.identical = 0;
    if (shared.infinite[i]) sums.finite = 0;
  }
  return sums;
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_TILE_VIEW_H_
