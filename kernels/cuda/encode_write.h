// Kernel bodies that write a block once its layout is known: bytes moved to their places, then checksums. Phases as in
// decode_plain.h.
#ifndef KVIST_KERNELS_CUDA_ENCODE_WRITE_H_
#define KVIST_KERNELS_CUDA_ENCODE_WRITE_H_

#include "kernels/cuda/encode_tasks.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/xxh3.h"

namespace kvist::cuda {

// One grid block: one task. Roofline: 1 byte in, 1 out; code planes move 16 bytes a thread, records (a few per cent of a
// block, at any address) one.
struct CopyBody {
  using Arguments = const CopyTask*;
  static constexpr uint32_t kThreads = kEncodeThreads;
  static constexpr int kPhases = 1;
  struct Open {
    bool open;
    CopyTask task;
  };
  struct Shared {};

  KVIST_HD static Open OpenBlock(const Arguments& tasks, uint32_t block) { return {true, tasks[block]}; }

  template <int kPhase>
  KVIST_HD static void Run(const Open& open, uint32_t thread, Shared&) {
    const CopyTask& task = open.task;
    const uint64_t bits = reinterpret_cast<uint64_t>(task.from) | reinterpret_cast<uint64_t>(task.to) |
                          task.row_stride_bytes | task.row_bytes;
    if (bits % sizeof(Words<4>) == 0) {
      Move<Words<4>>(task, thread);
    } else {
      Move<uint8_t>(task, thread);
    }
  }

 private:
  template <typename Unit>
  KVIST_HD static void Move(const CopyTask& task, uint32_t thread) {
    const uint32_t units = task.row_bytes / sizeof(Unit);
    for (uint32_t i = thread; i < task.rows * units; i += kThreads) {
      const uint32_t row = i / units;
      const Unit value = task.from == nullptr
                             ? Unit{}
                             : Load<Unit>(task.from + row * task.row_stride_bytes + i % units * sizeof(Unit));
      Store(value, task.to + uint64_t{i} * sizeof(Unit));
    }
  }
};

// One grid block: one span; eight threads a kibibyte, then one chain on eight lanes (xxh3.h).
// Roofline: 1 byte in, from the L2 cache where the copy just left it; a long span is bound by its chain, 40 clocks a KiB.
struct SealBody {
  using Arguments = const SealTask*;
  static constexpr uint32_t kThreads = 128;
  static constexpr int kPhases = 4;
  struct Open {
    bool open;
    SealTask task;
  };
  struct Shared {
    xxh3::Secret secret;
    uint64_t lanes[8];
  };

  KVIST_HD static Open OpenBlock(const Arguments& tasks, uint32_t block) { return {true, tasks[block]}; }

  template <int kPhase>
  KVIST_HD static void Run(const Open& open, uint32_t thread, Shared& shared) {
    const SealTask& task = open.task;
    const uint8_t* secret = shared.secret.byte;
    const bool is_long = task.size_bytes > xxh3::kShort;
    if constexpr (kPhase == 0) {
      xxh3::CopySecret(thread, kThreads, shared.secret);
    } else if constexpr (kPhase == 1) {
      SumKibs(task, thread, secret);
    } else if constexpr (kPhase == 2) {
      if (is_long && thread < 8)
        shared.lanes[thread] = xxh3::FinalLane(task.from, task.size_bytes, task.sums, thread, secret);
    } else if (thread == 0) {
      Store(is_long ? xxh3::Merge(shared.lanes, task.size_bytes, secret)
                    : xxh3::HashShort(task.from, task.size_bytes, secret),
            task.to);
    }
  }

 private:
  KVIST_HD static void SumKibs(const SealTask& task, uint32_t thread, const uint8_t* secret) {
    const uint64_t kibs = xxh3::ChainedKibs(task.size_bytes);
    const uint32_t lane = thread % 8;
    for (uint64_t kib = thread / 8; kib < kibs; kib += kThreads / 8) {
      const uint8_t* from = task.from + kib * xxh3::kKib;
      uint64_t sum = 0;
      for (uint32_t stripe = 0; stripe < xxh3::kStripesOfKib; ++stripe, from += xxh3::kStripe) {
        sum += xxh3::LaneAddend(Load<uint64_t>(from + 8 * lane), Load<uint64_t>(from + 8 * (lane ^ 1)),
                                Load<uint64_t>(secret + 8 * stripe + 8 * lane));
      }
      task.sums[kib].lane[lane] = sum;
    }
  }
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_WRITE_H_
