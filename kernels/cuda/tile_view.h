// The part of a tile that one grid block decodes, found in the tables; and where its rows go.
//
// Shapes  rows [first, first + count) of the tile's tokens, all head_dim channels.
// Threads every thread of a grid block sees the same view.
// Why     Nothing here is checked again: the planner checked what the host knows, the resolve kernel what only the
//         bytes say, and a block with a status word other than 0 is not opened.
#ifndef KVIST_KERNELS_CUDA_TILE_VIEW_H_
#define KVIST_KERNELS_CUDA_TILE_VIEW_H_

#include "kernels/cuda/device.h"
#include "kernels/cuda/tasks.h"
#include "kernels/cuda/tuning.h"

namespace kvist::cuda {

struct DecodeArguments {
  DecodeTables tables;
  uint32_t first_item;  // of this launch
};

struct TileView {
  bool open;  // false: the block was refused; nothing of it may be read or written
  bool is_key;
  TileMode mode;
  Dtype dtype;
  uint8_t precision;
  uint32_t tokens, sinks, first, count;
  const uint8_t* record;
  const uint8_t* planes[3];  // this tile's part; null for a plane that is left out
  uint16_t* out;             // element 0 of the tile's head in page 0
  const uint32_t* pages;
  uint32_t page_tokens, first_token;
  uint64_t page_stride, token_stride;

  uint32_t CodedRows() const { return tokens - sinks; }

  // Where row `row` of this view starts, in elements from `out`.
  KVIST_HD uint64_t OffsetOf(uint32_t row) const {
    const uint32_t token = first_token + first + row;
    return pages[token / page_tokens] * page_stride + token % page_tokens * token_stride;
  }
};

// Bytes of one tile in a plane of codes.
KVIST_HD uint64_t TilePlaneBytes(Codec codec, uint32_t plane, uint32_t coded_rows, uint32_t head_dim) {
  if (codec == Codec::kI8) return uint64_t{coded_rows} * head_dim;
  return uint64_t{coded_rows} * head_dim / (plane == 1 ? 4 : 8);
}

KVIST_HD TileView OpenTile(const DecodeArguments& arguments, uint32_t grid_block) {
  const DecodeTables& tables = arguments.tables;
  const WorkItem item = tables.items[arguments.first_item + grid_block];
  const LayerTask& layer = tables.layers[item.layer];
  TileView view{};
  view.open = tables.status[layer.block] == 0;
  if (!view.open) return view;
  const BlockTask& block = tables.blocks[layer.block];
  const TileEntry entry = tables.tiles[layer.first_tile + item.tile];
  const uint32_t kv = item.tile >= block.heads, head = item.tile - kv * block.heads - block.first_head;
  view.is_key = kv == 0;
  view.mode = entry.mode;
  view.dtype = block.dtype;
  view.precision = block.precision;
  view.tokens = block.tokens;
  view.sinks = block.sinks;
  view.first = item.chunk * RowsOfBlock(block.head_dim);
  view.count = block.tokens - view.first;
  if (view.count > RowsOfBlock(block.head_dim)) view.count = RowsOfBlock(block.head_dim);
  view.record = block.bytes + entry.record;
  for (uint32_t plane = 1; plane < 4; ++plane) {
    const PieceSpan piece = layer.pieces[plane];
    if (entry.mode != TileMode::kOwn || piece.size_bytes == 0) continue;
    view.planes[plane - 1] =
        block.bytes + piece.offset +
        entry.own_index * TilePlaneBytes(block.codec, plane, block.tokens - block.sinks, block.head_dim);
  }
  view.out = layer.base[kv] + head * block.head_stride;
  view.pages = tables.pages + block.first_page;
  view.page_tokens = block.page_tokens;
  view.first_token = block.first_token[kv];
  view.page_stride = block.page_stride;
  view.token_stride = block.token_stride;
  return view;
}

// Copies rows of 16-bit values as they are. Bytes of a raised tile may start anywhere; those are read one by one
// (raised tiles are rare). Loads run kLoadsAhead before their stores.
template <uint32_t kHeadDim>
KVIST_HD void CopyRawRows(const TileView& view, uint32_t thread, const uint64_t* row_offsets) {
  constexpr uint32_t kUnits = kHeadDim / 8;  // of 16 bytes
  const uint8_t* source = view.record + uint64_t{view.first} * kHeadDim * 2;
  const bool aligned = reinterpret_cast<uintptr_t>(source) % 16 == 0;
  const uint32_t units = view.count * kUnits;
  for (uint32_t start = thread; start < units; start += kBlockThreads * kLoadsAhead) {
    Words<4> loaded[kLoadsAhead];
    KVIST_UNROLL
    for (uint32_t k = 0; k < kLoadsAhead; ++k) {
      const uint32_t unit = start + k * kBlockThreads;
      if (unit >= units) continue;
      if (aligned) {
        loaded[k] = LoadGlobal<Words<4>>(source + uint64_t{unit} * 16);
        continue;
      }
      for (uint32_t i = 0; i < 4; ++i) {
        const uint8_t* at = source + uint64_t{unit} * 16 + 4 * i;
        loaded[k].word[i] = at[0] | uint32_t{at[1]} << 8 | uint32_t{at[2]} << 16 | uint32_t{at[3]} << 24;
      }
    }
    KVIST_UNROLL
    for (uint32_t k = 0; k < kLoadsAhead; ++k) {
      const uint32_t unit = start + k * kBlockThreads;
      if (unit < units) StoreGlobal(loaded[k], view.out + row_offsets[unit / kUnits] + unit % kUnits * 8);
    }
  }
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_TILE_VIEW_H_
