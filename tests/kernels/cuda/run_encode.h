// The launches of an encode: on the emulated grid, in the order of encode_launch.cc, or with KVIST_ON_DEVICE on the device.
#ifndef KVIST_TESTS_KERNELS_CUDA_RUN_ENCODE_H_
#define KVIST_TESTS_KERNELS_CUDA_RUN_ENCODE_H_

#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/encode.h"
#include "tests/kernels/cuda/device_bytes.h"

#if KVIST_ON_DEVICE
#include <cuda_runtime_api.h>
#else
#include "kernels/cuda/encode_i8.h"
#include "kernels/cuda/encode_ladder.h"
#include "kernels/cuda/encode_write.h"
#include "tests/kernels/cuda/grid.h"
#endif

namespace kvist::cuda {

#if KVIST_ON_DEVICE
inline void LaunchEncodeTiles(const EncodePlan& plan, const DeviceBytes& table, DeviceBytes& workspace) {
  EXPECT_EQ(LaunchEncode(plan, table.data(), workspace.data(), nullptr).ToString(), "OK");
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}
inline void LaunchMoves(const EncodeLayout& layout) {
  EXPECT_EQ(LaunchWrite(layout, nullptr).ToString(), "OK");
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}
#else
inline void LaunchEncodeTiles(const EncodePlan& plan, const DeviceBytes& table, DeviceBytes& workspace) {
  for (const EncodePlan::Group& group : plan.groups()) {
    const EncodeArguments arguments = plan.ArgumentsAt(table.data(), workspace.data(), group);
    if (group.codec == Codec::kI8) {
      RunGrid<EncodeI8Body>(arguments, group.items);
    } else {
      RunGrid<EncodeLadderBody>(arguments, group.items);
    }
  }
}
inline void LaunchMoves(const EncodeLayout& layout) {
  RunGrid<CopyBody>(layout.tasks().copies, layout.tasks().copy_count);
  for (int stage = 0; stage < 3; ++stage)
    RunGrid<SealBody>(layout.tasks().seals[stage], layout.tasks().seal_counts[stage]);
}
#endif

inline std::vector<TileSums> RunEncode(const EncodePlan& plan, DeviceBytes& workspace) {
  const DeviceBytes table(plan.table_bytes());
  std::memset(workspace.data(), 0xee, workspace.size());
  LaunchEncodeTiles(plan, table, workspace);
  std::vector<TileSums> sums(plan.tiles());
  std::memcpy(sums.data(), workspace.data(), plan.sums_bytes());
  return sums;
}

inline void RunWrite(const EncodeLayout& layout, DeviceBytes& table) {
  std::memcpy(table.data(), layout.table_bytes().data(), layout.table_bytes().size());
  LaunchMoves(layout);
}

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_KERNELS_CUDA_RUN_ENCODE_H_
