// A kernel body on a device: its phases with a barrier between two of them. The grid emulator of tests/kernels/cuda is
// the same for a CPU.
#ifndef KVIST_KERNELS_CUDA_RUN_CUH_
#define KVIST_KERNELS_CUDA_RUN_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace kvist::cuda {

template <class Body, int kPhase = 0>
__device__ __forceinline__ void RunPhases(const typename Body::Open& open, typename Body::Shared& shared) {
  if constexpr (kPhase < Body::kPhases) {
    if constexpr (kPhase > 0) __syncthreads();
    Body::template Run<kPhase>(open, threadIdx.x, shared);
    RunPhases<Body, kPhase + 1>(open, shared);
  }
}

template <class Body>
__global__ void __launch_bounds__(Body::kThreads) Kernel(const __grid_constant__ typename Body::Arguments arguments) {
  __shared__ typename Body::Shared shared;
  const typename Body::Open open = Body::OpenBlock(arguments, blockIdx.x);
  if (open.open) RunPhases<Body>(open, shared);  // the same for all threads of the block
}

template <class Body>
int Launch(const typename Body::Arguments& arguments, uint32_t blocks, void* stream) {
  if (blocks == 0) return cudaSuccess;
  Kernel<Body><<<blocks, Body::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(arguments);
  return cudaGetLastError();
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_RUN_CUH_
