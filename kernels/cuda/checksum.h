// Kernel bodies that compare the pieces of blocks with the checksums of their tables, before anything is decoded.
//
// Threads a piece that differs raises its block's status word; order does not matter.
// Why     Two launches: the sums of all kibibytes of all pieces in parallel, then one chain a piece on eight lanes. The
//         chain is a 64-bit addition, two exclusive-ors and a multiplication a kibibyte, some tens of clocks by count:
//         256 steps for a piece of 256 KiB, and all pieces go at once.
#ifndef KVIST_KERNELS_CUDA_CHECKSUM_H_
#define KVIST_KERNELS_CUDA_CHECKSUM_H_

#include "kernels/cuda/tuning.h"
#include "kernels/cuda/xxh3.h"

namespace kvist::cuda {

// One thread: one lane of one kibibyte. Eight neighbours read 64 bytes at a time.
// Roofline: 1 byte in and 1/16 out a byte = bound by memory; reads what the decode kernel reads again, from the L2
// cache (50 MB) if the launch's blocks fit there.
struct SumKibsBody {
  using Arguments = DecodeTables;
  static constexpr uint32_t kThreads = 8 * kSumsOfBlock;
  static constexpr int kPhases = 2;
  struct Open {
    bool open;
    const uint8_t* bytes;
    KibSums* sums;
    uint32_t kibs;
  };
  struct Shared {
    xxh3::Secret secret;
  };

  KVIST_HD static Open OpenBlock(const Arguments& tables, uint32_t grid_block) {
    const SumItem item = tables.sum_items[grid_block];
    const PieceTask& piece = tables.pieces[item.piece];
    const uint32_t left = uint32_t(xxh3::ChainedKibs(piece.span.size_bytes)) - item.first_kib;
    return {true, tables.blocks[piece.block].bytes + piece.span.offset + uint64_t{item.first_kib} * xxh3::kKib,
            tables.sums + piece.first_sum + item.first_kib, left < kSumsOfBlock ? left : kSumsOfBlock};
  }

  template <int kPhase>
  KVIST_HD static void Run(const Open& open, uint32_t thread, Shared& shared) {
    if constexpr (kPhase == 0) {
      xxh3::CopySecret(thread, kThreads, shared.secret);
    } else {
      const uint32_t kib = thread / 8, lane = thread % 8;
      if (kib >= open.kibs) return;
      const uint8_t* pair = open.bytes + kib * xxh3::kKib + 16 * (lane / 2);
      const uint8_t* secret = shared.secret.byte + 8 * lane;
      uint64_t sum = 0;
      KVIST_UNROLL
      for (uint32_t stripe = 0; stripe < xxh3::kStripesOfKib; ++stripe) {
        const Words<4> loaded = Load<Words<4>>(pair + stripe * xxh3::kStripe);
        const uint64_t even = loaded.word[0] | uint64_t{loaded.word[1]} << 32;
        const uint64_t odd = loaded.word[2] | uint64_t{loaded.word[3]} << 32;
        const uint64_t key = Load<uint64_t>(secret + 8 * stripe);
        sum += lane % 2 == 0 ? xxh3::LaneAddend(even, odd, key) : xxh3::LaneAddend(odd, even, key);
      }
      open.sums[kib].lane[lane] = sum;
    }
  }
};

// Eight threads: one piece.
struct ComparePiecesBody {
  struct Arguments {
    DecodeTables tables;
    uint32_t pieces;
  };
  static constexpr uint32_t kThreads = 64,
                            kPieces = kThreads / 8;  // few threads: many blocks, for many multiprocessors
  static constexpr int kPhases = 3;
  struct Open {
    bool open;
    const DecodeTables* tables;
    uint32_t first_piece, pieces;
  };
  struct Shared {
    xxh3::Secret secret;
    uint64_t lanes[kPieces][8];
  };

  KVIST_HD static Open OpenBlock(const Arguments& arguments, uint32_t grid_block) {
    const uint32_t first = grid_block * kPieces, left = arguments.pieces - first;
    return {true, &arguments.tables, first, left < kPieces ? left : kPieces};
  }

  template <int kPhase>
  KVIST_HD static void Run(const Open& open, uint32_t thread, Shared& shared) {
    const uint32_t index = thread / 8, lane = thread % 8;
    if constexpr (kPhase == 0) {
      xxh3::CopySecret(thread, kThreads, shared.secret);
    } else if (index < open.pieces) {
      const PieceTask& piece = open.tables->pieces[open.first_piece + index];
      const uint8_t* bytes = open.tables->blocks[piece.block].bytes + piece.span.offset;
      const uint64_t length = piece.span.size_bytes;
      const uint8_t* secret = shared.secret.byte;
      if constexpr (kPhase == 1) {
        if (length > xxh3::kShort) {
          shared.lanes[index][lane] = xxh3::FinalLane(bytes, length, open.tables->sums + piece.first_sum, lane, secret);
        }
      } else if (lane == 0) {
        const uint64_t hash = length > xxh3::kShort ? xxh3::Merge(shared.lanes[index], length, secret)
                                                    : xxh3::HashShort(bytes, length, secret);
        if (hash != piece.xxh3) Raise(open.tables->status + piece.block, uint32_t(Refusal::kChecksum));
      }
    }
  }
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_CHECKSUM_H_
