// What a launch reads: plain structs in device memory, written by the planner (decode_plan.cc) and by the resolve
// kernel.
//
// Units   offsets and sizes of pieces in bytes from the block's first byte; strides in elements of 16 bits.
// Threads plain values. The plan's tables are constant while a launch runs; a status word is raised by any thread.
// Why     Tables instead of kernel arguments: one launch serves many tiles of many layers of many blocks.
#ifndef KVIST_KERNELS_CUDA_TASKS_H_
#define KVIST_KERNELS_CUDA_TASKS_H_

#include <cstdint>

#include "kernels/kinds.h"

namespace kvist::cuda {

struct PieceSpan {
  uint32_t offset, size_bytes;
};

// One block and where it goes. K and V differ only in their layer's base address and in their first token.
struct BlockTask {
  const uint8_t* bytes;
  uint64_t page_stride, token_stride, head_stride;
  uint32_t first_page;      // of the block's run in the table of pages
  uint32_t page_tokens;     // of an engine's page
  uint32_t first_token[2];  // of K and of V, counted from the start of the run's first page
  uint32_t heads, tokens, head_dim;
  uint32_t first_head;  // head first_head + h goes to the page's head h
  uint32_t sinks;
  Codec codec;
  Dtype dtype;
  Basis basis;
  uint8_t precision;
};

// One layer of a block.
struct LayerTask {
  uint16_t* base[2];    // K's and V's element 0 of page 0
  uint32_t block;       // index of its BlockTask and status word
  uint32_t first_tile;  // index of its first TileEntry
  PieceSpan pieces[4];  // by plane; size 0 from the first plane that the precision leaves out
};

// What one grid block decodes: rows [chunk * RowsOfBlock, ...) of a tile.
struct WorkItem {
  uint32_t layer;
  uint16_t tile, chunk;
};

// A tile as the resolve kernel found it; trusted only while the block's status word is 0.
struct TileEntry {
  uint32_t record;     // offset of its side record from the block's first byte
  uint16_t own_index;  // tiles of mode kOwn before it in its layer
  TileMode mode;
  uint8_t unused;
};

// A piece whose checksum is compared.
struct PieceTask {
  uint64_t xxh3;
  uint64_t first_sum;  // index of its first KibSums
  PieceSpan span;
  uint32_t block;
};

// The additions of 1024 bytes to the eight accumulators of XXH3, which do not depend on what came before.
struct KibSums {
  uint64_t lane[8];
};

struct SumItem {
  uint32_t piece, first_kib;
};

// Why a block may not be used; 0 is not one of them. The first check that failed stays in the status word.
enum class Refusal : uint32_t {
  kChecksum = 1,
  kTileMode = 2,
  kSideSize = 3,
  kPlaneSize = 4,
  kChannelScale = 5,
  kMixedBasis = 6,
};

// All tables of a plan as device addresses: the one argument of every decode kernel.
struct DecodeTables {
  const BlockTask* blocks;
  const LayerTask* layers;
  const WorkItem* items;
  const PieceTask* pieces;
  const SumItem* sum_items;
  const uint32_t* pages;
  uint32_t* status;  // one word a block, zero before the first kernel
  TileEntry* tiles;
  KibSums* sums;
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_TASKS_H_
