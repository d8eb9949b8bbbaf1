#include "kernels/cuda/launch.h"

#include "kernels/cuda/decode.h"
#include "kernels/cuda/launch_status.h"

namespace kvist::cuda {

absl::Status LaunchDecode(const DecodePlan& plan, const uint8_t* device_table, uint8_t* device_workspace,
                          void* stream) {
  const DecodeTables tables = plan.TablesAt(device_table, device_workspace);
  const CheckSizes sizes = {uint32_t(plan.requests()), plan.layer_tasks(), plan.pieces(), plan.sum_items()};
  absl::Status status = StatusOfLaunch("the checks", LaunchChecks(tables, sizes, stream));
  for (const LaunchGroup& group : plan.groups()) {
    if (!status.ok()) return status;
    const int error = group.codec == Codec::kLadder
                          ? LaunchLadder(tables, group.basis, group.head_dim, group.first_item, group.items, stream)
                          : LaunchPlain(tables, group.codec, group.head_dim, group.first_item, group.items, stream);
    status = StatusOfLaunch("decode", error);
  }
  return status;
}

}  // namespace kvist::cuda
