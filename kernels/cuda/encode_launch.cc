#include "kernels/cuda/encode_launch.h"

#include "kernels/cuda/encode.h"
#include "kernels/cuda/launch_status.h"

namespace kvist::cuda {

absl::Status LaunchEncode(const EncodePlan& plan, const uint8_t* device_table, uint8_t* device_workspace,
                          void* stream) {
  for (const EncodePlan::Group& group : plan.groups()) {
    const EncodeArguments arguments = plan.ArgumentsAt(device_table, device_workspace, group);
    const int error = LaunchEncodeTiles(arguments, group.codec, group.items, stream);
    if (absl::Status status = StatusOfLaunch("encode", error); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status LaunchWrite(const EncodeLayout& layout, void* stream) {
  const EncodeLayout::Tasks& tasks = layout.tasks();
  int error = LaunchCopies(tasks.copies, tasks.copy_count, stream);
  if (absl::Status status = StatusOfLaunch("the copies", error); !status.ok()) return status;
  for (int stage = 0; stage < 3; ++stage) {
    error = LaunchSeals(tasks.seals[stage], tasks.seal_counts[stage], stream);
    if (absl::Status status = StatusOfLaunch("the checksums", error); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kvist::cuda
