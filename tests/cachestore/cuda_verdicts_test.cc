// Goal: every answer that the CUDA runtime can give leads to the right status, in words that tell what to do.
// Method: the decisions are pure and by number: no GPU, no driver, no toolkit. The numbers are those of driver_types.h.
#include "cachestore/cuda_verdicts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvist {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kRuntime = 13000;

TEST(CudaVerdictsTest, NoDriverSaysWhatWasLookedForAndWhatThisWasBuiltWith) {
  const absl::Status status = DevicesOf({.driver_version = 0, .runtime_version = kRuntime, .error = 35}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("no CUDA driver"), HasSubstr("libcuda.so.1"), HasSubstr("CUDA 13.0")));
}

TEST(CudaVerdictsTest, ADriverOlderThanTheRuntimeIsNamedWithBothVersions) {
  const absl::Status status = DevicesOf({.driver_version = 12040, .runtime_version = kRuntime, .error = 35}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("driver is too old: it is for CUDA 12.4, this was built with 13.0"));
}

// Within a major version the runtime works on an older driver: the runtime decides, not the numbers.
TEST(CudaVerdictsTest, AnOlderDriverThatTheRuntimeAcceptsIsUsed) {
  EXPECT_EQ(*DevicesOf({.driver_version = 13000, .runtime_version = 13010, .devices = 2}), 2);
}

TEST(CudaVerdictsTest, ADriverWithoutADeviceSaysWhereToLook) {
  for (const int error : {100, 0}) {
    const absl::Status status =
        DevicesOf({.driver_version = 13000, .runtime_version = kRuntime, .error = error, .devices = 0}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(status.message(), AllOf(HasSubstr("shows no GPU"), HasSubstr("CUDA_VISIBLE_DEVICES")));
  }
}

TEST(CudaVerdictsTest, WhateverElseTheDriverSaysIsPassedOnWithBothVersions) {
  const absl::Status status =
      DevicesOf({.driver_version = 12080, .runtime_version = kRuntime, .error = 803, .error_words = "mismatch"})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("12.8"), HasSubstr("13.0"), HasSubstr("mismatch")));
}

TEST(CudaVerdictsTest, AnOrdinalThatIsNoneSaysHowManyThereAre) {
  for (const int ordinal : {-1, 2, 1000}) {
    const absl::Status status = CheckOrdinal(ordinal, 2);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("there are 2, numbered 0 to 1"));
  }
  EXPECT_TRUE(CheckOrdinal(1, 2).ok());
}

TEST(CudaVerdictsTest, OnlyASliceIsASlice) {
  EXPECT_TRUE(IsMigSlice("NVIDIA H100 80GB HBM3 MIG 1g.10gb"));
  EXPECT_TRUE(IsMigSlice("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb"));
  for (const char* whole : {"NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA MIGHTY", ""}) {
    EXPECT_FALSE(IsMigSlice(whole)) << whole;
  }
}

TEST(CudaVerdictsTest, OutOfMemorySaysWhatWasAskedAndWhatIsFree) {
  const absl::Status status = OutOfDeviceMemory(1, "NVIDIA H200", 5000, 300, 4000);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "GPU 1 (NVIDIA H200): 5000 bytes were asked, 300 of 4000 are free");
}

TEST(CudaVerdictsTest, OnlyErrorsThatEndTheContextAreSticky) {
  for (const int error :
       {4, 201, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999}) {
    EXPECT_TRUE(CudaErrorIsSticky(error)) << error;
    EXPECT_EQ(StatusOfCuda(error, "").code(), absl::StatusCode::kUnavailable) << error;
  }
  // Memory, arguments, a device that others have to themselves for now, work that is not done: the device is whole.
  for (const int error : {0, 1, 2, 46, 101, 400, 600, 801}) EXPECT_FALSE(CudaErrorIsSticky(error)) << error;
}

TEST(CudaVerdictsTest, ACallersOwnErrorLeavesTheDeviceWhole) {
  EXPECT_EQ(StatusOfCuda(2, "").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(StatusOfCuda(1, "").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StatusOfCuda(801, "not supported").message(), "not supported");
  EXPECT_EQ(StatusOfCuda(801, "").code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(StatusOfCuda(0, "").ok());
}

}  // namespace
}  // namespace kvist
