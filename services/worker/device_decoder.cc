#include "services/worker/device_decoder.h"

#include <utility>

namespace kvist {
namespace {

class CudaDecoder final : public DeviceDecoder {
 public:
  explicit CudaDecoder(std::function<absl::Status()> bind_thread) : bind_thread_(std::move(bind_thread)) {}

  absl::Status Launch(const cuda::DecodePlan& plan, DeviceAddress table, DeviceAddress workspace,
                      Stream& stream) override {
    if (bind_thread_) {
      if (absl::Status bound = bind_thread_(); !bound.ok()) return bound;
    }
    return cuda::LaunchDecode(plan, static_cast<const uint8_t*>(table.pointer()),
                              static_cast<uint8_t*>(workspace.pointer()), stream.native());
  }

 private:
  const std::function<absl::Status()> bind_thread_;
};

}  // namespace

std::unique_ptr<DeviceDecoder> NewCudaDecoder(std::function<absl::Status()> bind_thread) {
  return std::make_unique<CudaDecoder>(std::move(bind_thread));
}

}  // namespace kvist
