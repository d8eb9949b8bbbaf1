#include "kernels/cuda/launch.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/decode.h"

namespace kvist::cuda {
namespace {

absl::Status StatusOfRuntime(const char* what, int error) {
  if (error == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("launch of ", what, ": ", ErrorText(error)));
}

}  // namespace

absl::Status LaunchDecode(const DecodePlan& plan, const uint8_t* device_table, uint8_t* device_workspace,
                          void* stream) {
  const DecodeTables tables = plan.TablesAt(device_table, device_workspace);
  const CheckSizes sizes = {uint32_t(plan.requests()), plan.layer_tasks(), plan.pieces(), plan.sum_items()};
  absl::Status status = StatusOfRuntime("the checks", LaunchChecks(tables, sizes, stream));
  for (const LaunchGroup& group : plan.groups()) {
    if (!status.ok()) return status;
    const int error = group.codec == Codec::kLadder
                          ? LaunchLadder(tables, group.basis, group.head_dim, group.first_item, group.items, stream)
                          : LaunchPlain(tables, group.codec, group.head_dim, group.first_item, group.items, stream);
    status = StatusOfRuntime("decode", error);
  }
  return status;
}

}  // namespace kvist::cuda
