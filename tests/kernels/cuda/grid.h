// A grid on the CPU: every thread of every block of a kernel body, phase by phase.
//
// Threads one at a time. The order of threads differs from phase to phase and block to block, and shared memory starts
//         as garbage: a body that needs a barrier which it does not have gives other results here.
// Why     A phase ends at a barrier, so running it for one thread after the other is one of the orders that a device
//         may choose; no fibers are needed.
#ifndef KVIST_TESTS_KERNELS_CUDA_GRID_H_
#define KVIST_TESTS_KERNELS_CUDA_GRID_H_

#include <cstdint>
#include <cstring>
#include <memory>

namespace kvist::cuda {

template <class Body, int kPhase = 0>
void RunPhases(const typename Body::Open& open, uint32_t grid_block, typename Body::Shared& shared) {
  if constexpr (kPhase < Body::kPhases) {
    for (uint32_t i = 0; i < Body::kThreads; ++i) {
      const uint32_t turn = (kPhase + grid_block) % 2 == 0 ? i : Body::kThreads - 1 - i;
      Body::template Run<kPhase>(open, turn * 37 % Body::kThreads, shared);  // 37 is odd: a permutation
    }
    RunPhases<Body, kPhase + 1>(open, grid_block, shared);
  }
}

template <class Body>
void RunGrid(const typename Body::Arguments& arguments, uint32_t blocks) {
  static_assert((Body::kThreads & (Body::kThreads - 1)) == 0);
  const auto shared = std::make_unique<typename Body::Shared>();
  for (uint32_t block = 0; block < blocks; ++block) {
    std::memset(static_cast<void*>(shared.get()), 0xcd, sizeof(*shared));
    const typename Body::Open open = Body::OpenBlock(arguments, block);
    if (open.open) RunPhases<Body>(open, block, *shared);
  }
}

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_KERNELS_CUDA_GRID_H_
