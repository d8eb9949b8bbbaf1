// Goal: a CUDA device that cannot be opened says why, in words that tell what to do.
// Method: on a machine without a GPU the driver is missing, which is the fault itself. Where there is a GPU its first
// copies are checked instead.
#include "cachestore/cuda_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace kvist {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

TEST(CudaDeviceTest, WithoutADeviceSaysWhatIsMissing) {
  const auto device = OpenCudaDevice(0);
  if (device.ok()) GTEST_SKIP() << "there is a GPU: " << (*device)->description().name;
  EXPECT_EQ(device.status().code(), absl::StatusCode::kFailedPrecondition) << device.status();
  EXPECT_THAT(device.status().message(), AnyOf(HasSubstr("no CUDA driver"), HasSubstr("driver is too old"),
                                               HasSubstr("shows no GPU"), HasSubstr("built without CUDA")));
}

TEST(CudaDeviceTest, AnOrdinalThatIsNoneSaysHowManyThereAre) {
  if (!OpenCudaDevice(0).ok()) GTEST_SKIP() << "no GPU here";
  for (const int ordinal : {-1, 1000}) {
    const absl::Status status = OpenCudaDevice(ordinal).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("there are "));
  }
}

TEST(CudaDeviceTest, CopiesThereAndBack) {
  auto device = OpenCudaDevice(0);
  if (!device.ok()) GTEST_SKIP() << device.status();
  auto memory = *(*device)->Allocate(1 << 20);
  auto pinned = *(*device)->AllocatePinned(2 << 20);
  auto stream = *(*device)->NewStream();
  const auto from = pinned->bytes().subspan(0, 1 << 20), to = pinned->bytes().subspan(1 << 20);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint8_t>(i * 31);
  ASSERT_TRUE(stream->CopyToDevice(memory->base(), from).ok());
  ASSERT_TRUE(stream->CopyToHost(to, memory->base()).ok());
  auto event = *stream->Record();
  ASSERT_TRUE(Await(*event, absl::Seconds(10)).ok());
  EXPECT_EQ(std::memcmp(from.data(), to.data(), from.size()), 0);
  EXPECT_TRUE((*device)->Health().ok());
}

TEST(CudaDeviceTest, MoreMemoryThanThereIsSaysWhatWasAskedAndWhatIsFree) {
  auto device = OpenCudaDevice(0);
  if (!device.ok()) GTEST_SKIP() << device.status();
  const absl::Status status = (*device)->Allocate(uint64_t{1} << 50).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("1125899906842624 bytes were asked"));
  EXPECT_TRUE((*device)->Health().ok()) << "the device is whole";
}

}  // namespace
}  // namespace kvist
