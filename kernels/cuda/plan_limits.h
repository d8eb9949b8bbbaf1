// How large a plan may be: what a launch takes as its grid, and what the tables of tasks.h number with 32 bits.
//
// Units   counts.
// Threads pure.
#ifndef KVIST_KERNELS_CUDA_PLAN_LIMITS_H_
#define KVIST_KERNELS_CUDA_PLAN_LIMITS_H_

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvist::cuda {

struct PlanCounts {
  uint64_t requests = 0, layers = 0, tiles = 0, pages = 0;
  uint64_t decode_blocks = 0, pieces = 0, sum_blocks = 0;  // of the grids of Decode, ComparePieces, SumKibs
};

// gridDim.x; every number of a table's entry fits 32 bits as long as it is below it.
inline constexpr uint64_t kMaxGrid = std::numeric_limits<int32_t>::max();

// InvalidArgument: names the first count that is too large, and the limit.
inline absl::Status CheckLimits(const PlanCounts& counts) {
  const std::pair<const char*, uint64_t> all[] = {{"requests", counts.requests},
                                                  {"layers of blocks", counts.layers},
                                                  {"tiles", counts.tiles},
                                                  {"entries of block tables", counts.pages},
                                                  {"grid blocks of decode", counts.decode_blocks},
                                                  {"pieces", counts.pieces},
                                                  {"grid blocks of checksums", counts.sum_blocks}};
  for (const auto& [what, count] : all) {
    if (count <= kMaxGrid) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("a plan of ", count, " ", what, "; the limit is ", kMaxGrid, ": make several plans"));
  }
  return absl::OkStatus();
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_PLAN_LIMITS_H_
