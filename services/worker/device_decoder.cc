#include "services/worker/device_decoder.h"

namespace kvist {
namespace {

class CudaDecoder final : public DeviceDecoder {
 public:
  explicit CudaDecoder(Device* device) : device_(device) {}

  absl::Status Launch(const cuda::DecodePlan& plan, DeviceAddress table, DeviceAddress workspace,
                      Stream& stream) override {
    if (absl::Status status = device_->MakeCurrent(); !status.ok()) return status;
    return cuda::LaunchDecode(plan, static_cast<const uint8_t*>(table.pointer()),
                              static_cast<uint8_t*>(workspace.pointer()), stream.native());
  }

 private:
  Device* const device_;
};

}  // namespace

std::unique_ptr<DeviceDecoder> NewCudaDecoder(Device* device) { return std::make_unique<CudaDecoder>(device); }

}  // namespace kvist
