// A DeviceDecoder whose kernels run on the emulated grid, in the order of the stream that they are put on.
#ifndef KVIST_TESTS_SERVICES_WORKER_EMULATED_DECODER_H_
#define KVIST_TESTS_SERVICES_WORKER_EMULATED_DECODER_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "services/worker/device_decoder.h"
#include "tests/device/emulated_device.h"
#include "tests/kernels/cuda/emulated.h"

namespace kvist::testing {

class EmulatedDecoder final : public DeviceDecoder {
 public:
  absl::Status Launch(const cuda::DecodePlan& plan, DeviceAddress table, DeviceAddress workspace,
                      Stream& stream) override {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return failure_;
    if (held_ != nullptr) held_->Hold();
    works_.push_back(std::make_unique<Work>(Work{plan, table, workspace}));
    kvist_emulated_enqueue(stream.native(), &Run, works_.back().get());
    ++launches;
    return absl::OkStatus();
  }
  void Fail(absl::Status why) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(why);
  }

  // Every launch from here on stands still, as everything behind it. Null: none any more.
  void HoldAtLaunch(EmulatedDevice* device) {
    const std::lock_guard lock(mutex_);
    held_ = device;
  }

  std::atomic<int> launches = 0;

 private:
  struct Work {
    cuda::DecodePlan plan;
    DeviceAddress table, workspace;
  };
  static void Run(void* argument) {
    const Work& work = *static_cast<Work*>(argument);
    const EmulatedKernel running;
    cuda::RunKernels(work.plan, work.plan.TablesAt(static_cast<const uint8_t*>(work.table.pointer()),
                                                   static_cast<uint8_t*>(work.workspace.pointer())));
  }

  std::mutex mutex_;
  absl::Status failure_;
  EmulatedDevice* held_ = nullptr;
  std::vector<std::unique_ptr<Work>> works_;  // streams may run them late
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_WORKER_EMULATED_DECODER_H_
