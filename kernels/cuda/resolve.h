// Kernel body that finds the tiles of a layer from its modes, which only the device has. One grid block: one layer.
//
// Threads one status word a block; every layer's grid block may raise it.
// Errors  in the status word: a mode that does not exist, a side piece or a plane whose size is not what the modes
//         imply, a channel scale above 128, a raw16 tile where the block is to be kept rotated. Bytes are read only
//         inside pieces, and pieces lie inside the block (the planner checked that): whatever the bytes are.
// Roofline: a few kilobytes of modes and scales a layer; latency is what it costs, for all layers at once.
// Why     One thread walks the modes: records have lengths that follow from all modes before them, and 512 steps of a
//         few clocks are less than the launch.
#ifndef KVIST_KERNELS_CUDA_RESOLVE_H_
#define KVIST_KERNELS_CUDA_RESOLVE_H_

#include "kernels/cuda/tile_view.h"
#include "kernels/tables.h"

namespace kvist::cuda {

struct ResolveBody {
  using Arguments = DecodeTables;
  static constexpr uint32_t kThreads = kBlockThreads, kMaxTiles = 512;
  static constexpr int kPhases = 3;
  struct Open {
    bool open;
    const DecodeTables* tables;
    const LayerTask* layer;
    const BlockTask* block;
  };
  struct Shared {
    uint8_t modes[kMaxTiles];
    uint32_t records[kMaxTiles];
    uint16_t own_indices[kMaxTiles];
    uint32_t refusal;
  };

  KVIST_HD static Open OpenBlock(const Arguments& tables, uint32_t grid_block) {
    const LayerTask* layer = tables.layers + grid_block;
    return {tables.status[layer->block] == 0, &tables, layer, tables.blocks + layer->block};
  }

  template <int kPhase>
  KVIST_HD static void Run(const Open& open, uint32_t thread, Shared& shared) {
    if constexpr (kPhase == 0) {
      // The planner refuses a side piece that is shorter than its modes.
      if (open.block->codec == Codec::kRaw16) return;
      const uint8_t* modes = open.block->bytes + open.layer->pieces[0].offset;
      for (uint32_t i = thread; i < 2 * open.block->heads; i += kThreads) shared.modes[i] = modes[i];
    } else if constexpr (kPhase == 1) {
      if (thread != 0) return;
      shared.refusal = Walk(*open.block, *open.layer, shared);
      if (shared.refusal != 0) Raise(open.tables->status + open.layer->block, shared.refusal);
    } else {
      if (shared.refusal == 0) Publish(open, thread, shared);
    }
  }

 private:
  KVIST_HD static uint32_t RecordBytes(const BlockTask& block, TileMode mode, bool is_key) {
    const uint32_t d = block.head_dim;
    if (mode == TileMode::kRaw16) return 2 * block.tokens * d;
    if (mode == TileMode::kRotatedI8) return block.tokens * (1 + d);
    if (block.codec == Codec::kI8) return block.tokens;
    return block.tokens - block.sinks + d + (is_key ? d + 1 : 0) + block.sinks * (1 + d);
  }

  KVIST_HD static bool ModeExists(Codec codec, uint8_t mode) {
    if (mode == uint8_t(TileMode::kRotatedI8)) return codec == Codec::kLadder;
    return mode == uint8_t(TileMode::kOwn) || mode == uint8_t(TileMode::kRaw16);
  }

  // Fills records and own indices; the code of the first check that fails, or 0. Sums stay below 2^32: at most 512
  // tiles of 2^17 bytes.
  KVIST_HD static uint32_t Walk(const BlockTask& block, const LayerTask& layer, Shared& shared) {
    const bool raw = block.codec == Codec::kRaw16;
    const uint32_t tiles = 2 * block.heads, start = layer.pieces[0].offset;
    uint32_t at = raw ? 0 : 2 * tiles, own = 0;
    for (uint32_t i = 0; i < tiles; ++i) {
      if (raw) shared.modes[i] = uint8_t(TileMode::kRaw16);
      if (!ModeExists(block.codec, shared.modes[i])) return uint32_t(Refusal::kTileMode);
      const TileMode mode = TileMode(shared.modes[i]);
      if (mode == TileMode::kRaw16 && block.basis == Basis::kKeptRotated) return uint32_t(Refusal::kMixedBasis);
      shared.records[i] = start + at;
      shared.own_indices[i] = uint16_t(own);
      at += RecordBytes(block, mode, i < block.heads);
      own += mode == TileMode::kOwn;
    }
    if (at != layer.pieces[0].size_bytes) return uint32_t(Refusal::kSideSize);
    const uint32_t planes = block.codec == Codec::kI8 ? 2 : block.codec == Codec::kLadder ? block.precision : 1;
    for (uint32_t plane = 1; plane < planes; ++plane) {
      const uint64_t bytes = own * TilePlaneBytes(block.codec, plane, block.tokens - block.sinks, block.head_dim);
      if (bytes != layer.pieces[plane].size_bytes) return uint32_t(Refusal::kPlaneSize);
    }
    return 0;
  }

  KVIST_HD static void Publish(const Open& open, uint32_t thread, const Shared& shared) {
    const BlockTask& block = *open.block;
    for (uint32_t i = thread; i < 2 * block.heads; i += kThreads) {
      open.tables->tiles[open.layer->first_tile + i] = {shared.records[i], shared.own_indices[i],
                                                        TileMode(shared.modes[i]), 0};
    }
    if (block.codec != Codec::kLadder) return;
    for (uint32_t i = 0; i < 2 * block.heads; ++i) {
      if (shared.modes[i] != uint8_t(TileMode::kOwn)) continue;
      const uint8_t* scales = block.bytes + shared.records[i] + (block.tokens - block.sinks);
      for (uint32_t d = thread; d < block.head_dim; d += kThreads) {
        if (scales[d] > kMaxChannelScale) {
          Raise(open.tables->status + open.layer->block, uint32_t(Refusal::kChannelScale));
        }
      }
    }
  }
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_RESOLVE_H_
