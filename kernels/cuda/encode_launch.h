// The encode kernels as functions that a host compiler can call; as launch.h.
//
// Units   grid blocks. `stream` is a cudaStream_t.
// Errors  the runtime's code as int, 0 for success; ErrorText of launch.h says what it means.
#ifndef KVIST_KERNELS_CUDA_ENCODE_LAUNCH_H_
#define KVIST_KERNELS_CUDA_ENCODE_LAUNCH_H_

#include <cstdint>

#include "kernels/cuda/encode_tasks.h"

namespace kvist::cuda {

int LaunchEncodeTiles(const EncodeArguments& arguments, Codec codec, uint32_t items, void* stream);
int LaunchCopies(const CopyTask* tasks, uint32_t count, void* stream);
int LaunchSeals(const SealTask* tasks, uint32_t count, void* stream);

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_LAUNCH_H_
