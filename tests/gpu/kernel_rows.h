// The rows of gpu_bench that are kernels. Each works on blocks with pages of their own, all in one launch of a plan, and fills
// so much memory that caches do not matter.
//
// Bytes   of a decode: those read (the blocks) and written (the pages). Of an encode: the pages once, and the blocks; what
//         its passes read and write beside that is the kernels' own cost. Of the checks: the blocks.
#ifndef KVIST_TESTS_GPU_KERNEL_ROWS_H_
#define KVIST_TESTS_GPU_KERNEL_ROWS_H_

#include <cstdint>

#include "kernels/codec.h"
#include "tests/gpu/bench_device.h"

namespace kvist::cuda {

struct KernelCase {
  Codec codec = Codec::kI8;
  uint32_t head_dim = 128, layers = 1;
  Basis basis = Basis::kOriginal;
  double reach = 0;
};

// `peak` in bytes a second.
Row DecodeRow(const KernelCase& what, double peak);
Row CheckRow(const KernelCase& what, double peak);  // checksums and tile records alone
Row EncodeRow(const KernelCase& what, double peak);

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_GPU_KERNEL_ROWS_H_
