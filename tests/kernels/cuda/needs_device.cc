// Of tests that run on a device: where there is none they are skipped, each by name and with the reason; where one is
// required (tests/device/required.h), its absence is a failure.
#include <cuda_runtime_api.h>

#include "gtest/gtest.h"
#include "tests/device/required.h"

namespace kvist::cuda {
namespace {

class NeedsDevice final : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo&) override {
    int count = 0;
    const cudaError_t found = cudaGetDeviceCount(&count);
    if (found == cudaSuccess && count > 0) return;
    const char* const why = found == cudaSuccess ? "none is visible" : cudaGetErrorString(found);
    if (kvist::testing::DeviceIsRequired()) FAIL() << "no device: " << why;
    GTEST_SKIP() << "no device: " << why << "; the emulated grid runs the same test";
  }
};

[[maybe_unused]] const bool listens = [] {
  ::testing::UnitTest::GetInstance()->listeners().Append(new NeedsDevice);
  return true;
}();

}  // namespace
}  // namespace kvist::cuda
