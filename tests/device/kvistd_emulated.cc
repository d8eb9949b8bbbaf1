// kvistd over an emulated GPU of 256 MiB. SIGUSR1 poisons it, as an illegal address in a kernel does a real one.
#include <signal.h>

#include <atomic>
#include <thread>

#include "services/node/kvistd.h"
#include "tests/device/emulated_device.h"

namespace {

std::atomic<kvist::testing::EmulatedDevice*> gpu{nullptr};

absl::StatusOr<std::unique_ptr<kvist::Device>> Open(int ordinal) {
  auto device = kvist::testing::EmulatedDevice::Create({.ordinal = ordinal});
  gpu = device.get();
  return device;
}

}  // namespace

int main(int argc, char** argv) {
  // Blocked before any thread starts, so that only the thread below receives it.
  sigset_t poison;
  sigemptyset(&poison);
  sigaddset(&poison, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &poison, nullptr);
  std::thread([poison] {
    int signal = 0;
    sigwait(&poison, &signal);
    if (auto* device = gpu.load()) device->Fail("an illegal memory access was encountered");
  }).detach();
  return kvist::RunKvistd(argc, argv, Open);
}
