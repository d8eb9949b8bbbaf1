// The kernels as functions that a host compiler can call: what nvcc compiles is behind these three.
//
// Units   grid blocks. `stream` is a cudaStream_t.
// Threads any thread with a current device.
// Errors  the runtime's code as int, 0 for success; ErrorText says what it means. A launch that the kernels have no
//         instance for is cudaErrorInvalidDeviceFunction: the planner admits none.
#ifndef KVIST_KERNELS_CUDA_LAUNCH_H_
#define KVIST_KERNELS_CUDA_LAUNCH_H_

#include <cstdint>

#include "kernels/cuda/tasks.h"
#include "kernels/kinds.h"

namespace kvist::cuda {

struct CheckSizes {
  uint32_t blocks, layers, pieces, sum_items;
};

// Clears the status words, compares the pieces' checksums, resolves the layers' tiles.
int LaunchChecks(const DecodeTables& tables, const CheckSizes& sizes, void* stream);
int LaunchPlain(const DecodeTables& tables, Codec codec, uint32_t head_dim, uint32_t first_item, uint32_t items,
                void* stream);
int LaunchLadder(const DecodeTables& tables, Basis basis, uint32_t head_dim, uint32_t first_item, uint32_t items,
                 void* stream);

const char* ErrorText(int error);

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_LAUNCH_H_
