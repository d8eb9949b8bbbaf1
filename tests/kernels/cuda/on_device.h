// LaunchDecode on the device, for tests that the emulated grid runs too (emulated.h).
#ifndef KVIST_TESTS_KERNELS_CUDA_ON_DEVICE_H_
#define KVIST_TESTS_KERNELS_CUDA_ON_DEVICE_H_

#include <cuda_runtime_api.h>

#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/decode.h"
#include "tests/kernels/cuda/device_bytes.h"

namespace kvist::cuda {

// Runs the plan; the status word of each request.
inline std::vector<uint32_t> RunDecode(const DecodePlan& plan) {
  const DeviceBytes table(plan.table_bytes());
  DeviceBytes workspace(plan.workspace_bytes());
  std::memset(workspace.data(), 0xee, workspace.size());
  EXPECT_EQ(LaunchDecode(plan, table.data(), workspace.data(), nullptr).ToString(), "OK");
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::vector<uint32_t> words(plan.requests());
  std::memcpy(words.data(), workspace.data(), words.size() * sizeof(uint32_t));
  return words;
}

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_KERNELS_CUDA_ON_DEVICE_H_
