// What the encode kernels read and write beside pages and blocks: plain values that the host lays out.
//
// Units   bytes in names that end in _bytes; strides count elements.
// Threads plain values.
#ifndef KVIST_KERNELS_CUDA_ENCODE_TASKS_H_
#define KVIST_KERNELS_CUDA_ENCODE_TASKS_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/tasks.h"
#include "kernels/kinds.h"

namespace kvist::cuda {

// One block to be encoded. Tiles are numbered layer by layer, K heads then V heads.
struct EncodeBlock {
  const uint16_t* pages;
  uint64_t kv_stride, layer_stride, head_stride, token_stride;
  uint64_t first_slot;  // offset in the workspace of its first tile's slot
  uint32_t first_tile, heads, tokens, head_dim, sinks;
  Codec codec;
  Dtype dtype;
};

struct EncodeItem {
  uint32_t block, tile;  // tile of the block
};

// Sums over one form of a tile, in the order in which the CPU adds them.
struct FormSums {
  double signal, noise;
  uint8_t identical, finite;  // finite: of the decoded values
};
struct TileSums {
  FormSums own, rotated;  // rotated: of a ladder tile as rotated i8
  uint8_t finite;         // of the tile's values; else the sums mean nothing
};

// Where a tile's forms and its scratch are in its slot: offsets in bytes, each a multiple of 16.
struct EncodeSlot {
  uint32_t record, planes[3], wide, rotated, integers, codes, size_bytes;
};
KVIST_HD EncodeSlot SlotOf(Codec codec, uint32_t tokens, uint32_t head_dim, uint32_t sinks, bool is_key) {
  const uint32_t rows = tokens - sinks, elements = tokens * head_dim;
  const auto round = [](uint32_t bytes) { return (bytes + 15) / 16 * 16; };
  EncodeSlot slot = {};
  if (codec == Codec::kI8) {
    slot.planes[0] = round(tokens);
    slot.size_bytes = slot.planes[0] + elements;
    return slot;
  }
  slot.planes[0] = round(rows + head_dim + (is_key ? head_dim + 1 : 0) + sinks * (1 + head_dim));
  slot.planes[1] = slot.planes[0] + round(rows * head_dim / 4);
  slot.planes[2] = slot.planes[1] + round(rows * head_dim / 8);
  slot.wide = slot.planes[2] + round(rows * head_dim / 8);
  slot.rotated = slot.wide + round(tokens * (1 + head_dim));
  slot.integers = slot.rotated + 4 * elements;
  slot.codes = slot.integers + 4 * elements;
  slot.size_bytes = slot.codes + elements;
  return slot;
}

struct EncodeArguments {
  const EncodeBlock* blocks;
  const EncodeItem* items;
  TileSums* sums;
  uint8_t* slots;  // of the workspace
  uint32_t first_item;
};

// Rows of bytes moved into a block; no source means zeros.
struct CopyTask {
  const uint8_t* from;
  uint8_t* to;
  uint64_t row_stride_bytes;
  uint32_t rows, row_bytes;
};

// Eight bytes at `to` become the XXH3-64 of a span, little-endian.
struct SealTask {
  const uint8_t* from;
  uint64_t size_bytes;
  KibSums* sums;  // one for each whole kibibyte
  uint8_t* to;
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_TASKS_H_
