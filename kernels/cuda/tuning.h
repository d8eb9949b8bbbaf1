// The numbers that decide how work is cut, apart from the kernels that do it. All are choices of speed: any of them may
// change without a bit of the output changing.
//
// Why  Figures below are counts from the code and the data sheets (H100: 132 SMs, 3.35 TB/s; H200: 132 SMs, 4.8 TB/s,
//      20 bytes a clock and SM at 1.75 GHz); none is a measurement.
#ifndef KVIST_KERNELS_CUDA_TUNING_H_
#define KVIST_KERNELS_CUDA_TUNING_H_

#include <cstdint>

namespace kvist::cuda {

// Threads of a block of every decode kernel: four warps, so that a multiprocessor holds several blocks, and one block's
// barrier waits while the others load.
inline constexpr uint32_t kBlockThreads = 128;

// Of the encode kernels, where a block takes a whole tile: a thread for each token of the largest.
inline constexpr uint32_t kEncodeThreads = 256;

// Rows of a tile that one block decodes: 8192 values are 16 KiB of shared memory as 16-bit integers, which lets at
// least six blocks live on a multiprocessor. 80 and 96 have a short second strip: 64 rows give each thread one strip.
constexpr uint32_t RowsOfBlock(uint32_t head_dim) {
  if (head_dim == 80 || head_dim == 96) return 64;
  return 8192 / head_dim;
}

// Loads of a thread that are in flight at once where values only pass through (i8, raw16): at 8 to 16 bytes a load, 16
// warps and 4 loads are 16 to 32 KiB on the way in each multiprocessor, what latency times bandwidth asks for.
inline constexpr uint32_t kLoadsAhead = 4;

// Kibibytes of a piece whose partial checksums one block sums.
inline constexpr uint32_t kSumsOfBlock = 16;

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_TUNING_H_
