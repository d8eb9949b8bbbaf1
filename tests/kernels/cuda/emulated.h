// LaunchDecode on the emulated grid: the same kernels in the same order as launch.cc and its .cu files.
#ifndef KVIST_TESTS_KERNELS_CUDA_EMULATED_H_
#define KVIST_TESTS_KERNELS_CUDA_EMULATED_H_

#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/checksum.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/decode_ladder.h"
#include "kernels/cuda/decode_plain.h"
#include "kernels/cuda/resolve.h"
#include "tests/kernels/cuda/device_bytes.h"
#include "tests/kernels/cuda/grid.h"

namespace kvist::cuda {

template <template <uint32_t> class Body>
void RunPlain(const LaunchGroup& group, const DecodeArguments& arguments) {
  if (group.head_dim == 64) return RunGrid<Body<64>>(arguments, group.items);
  if (group.head_dim == 80) return RunGrid<Body<80>>(arguments, group.items);
  if (group.head_dim == 96) return RunGrid<Body<96>>(arguments, group.items);
  if (group.head_dim == 128) return RunGrid<Body<128>>(arguments, group.items);
  ASSERT_EQ(group.head_dim, 256u);
  RunGrid<Body<256>>(arguments, group.items);
}
template <uint32_t kHeadDim>
using LadderOriginal = DecodeLadderBody<kHeadDim, Basis::kOriginal>;
template <uint32_t kHeadDim>
using LadderRotated = DecodeLadderBody<kHeadDim, Basis::kKeptRotated>;

// The kernels of LaunchDecode in their order, over tables wherever they are.
inline void RunKernels(const DecodePlan& plan, const DecodeTables& tables) {
  std::memset(tables.status, 0, plan.requests() * sizeof(uint32_t));
  constexpr uint32_t kPieces = ComparePiecesBody::kPieces;
  RunGrid<SumKibsBody>(tables, plan.sum_items());
  RunGrid<ComparePiecesBody>({tables, plan.pieces()}, (plan.pieces() + kPieces - 1) / kPieces);
  RunGrid<ResolveBody>(tables, plan.layer_tasks());
  for (const LaunchGroup& group : plan.groups()) {
    const DecodeArguments arguments = {tables, group.first_item};
    if (group.codec == Codec::kI8) {
      RunPlain<DecodeI8Body>(group, arguments);
    } else if (group.codec == Codec::kRaw16) {
      RunPlain<DecodeRaw16Body>(group, arguments);
    } else if (group.basis == Basis::kOriginal) {
      RunPlain<LadderOriginal>(group, arguments);
    } else {
      RunPlain<LadderRotated>(group, arguments);
    }
  }
}

// Runs the plan; the status word of each request.
inline std::vector<uint32_t> RunDecode(const DecodePlan& plan) {
  const DeviceBytes table(plan.table_bytes());
  DeviceBytes workspace(plan.workspace_bytes());
  std::memset(workspace.data(), 0xee, workspace.size());
  const DecodeTables tables = plan.TablesAt(table.data(), workspace.data());
  RunKernels(plan, tables);
  return {tables.status, tables.status + plan.requests()};
}

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_KERNELS_CUDA_EMULATED_H_
