// What the emulated device has beside device.h: crashes that a real one would have, faults, and a view for kernels of tests.
// That it keeps device.h itself is device_conformance_test.cc.
#include "tests/device/emulated_device.h"

#include <dlfcn.h>

#include "gtest/gtest.h"

namespace kvist::testing {
namespace {

constexpr uint64_t kBytes = 100'000;

std::vector<uint8_t> Numbered(size_t size) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = uint8_t(i * 7 + i / 256);
  return bytes;
}

class EmulatedDeviceTest : public ::testing::Test {
 protected:
  EmulatedDeviceTest() : device_(EmulatedDevice::Create({.memory_bytes = uint64_t{1} << 20})) {
    memory_ = device_->Allocate(kBytes).value();
    pinned_ = device_->AllocatePinned(2 * kBytes).value();
    stream_ = device_->NewStream().value();
  }
  absl::Span<uint8_t> Source() { return pinned_->bytes().first(kBytes); }
  absl::Span<uint8_t> Target() { return pinned_->bytes().last(kBytes); }

  std::unique_ptr<EmulatedDevice> device_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<PinnedMemory> pinned_;
  std::unique_ptr<Stream> stream_;
};

TEST_F(EmulatedDeviceTest, ShowsATestTheBytesThatAKernelWouldSee) {
  const std::vector<uint8_t> bytes = Numbered(kBytes);
  std::copy(bytes.begin(), bytes.end(), Source().begin());
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base(), Source()).ok());
  ASSERT_TRUE(Await(*stream_->Record().value(), absl::Seconds(10)).ok());
  EXPECT_EQ(device_->Read(memory_->base(), kBytes), bytes);
  device_->Write(memory_->base() + 1, absl::MakeConstSpan(bytes).first(10));
  ASSERT_TRUE(stream_->CopyToHost(Target(), memory_->base()).ok());
  ASSERT_TRUE(Await(*stream_->Record().value(), absl::Seconds(10)).ok());
  EXPECT_EQ(Target()[1], bytes[0]);
}

TEST_F(EmulatedDeviceTest, AHostThatFollowsADeviceAddressCrashes) {
  EXPECT_DEATH(std::fprintf(stderr, "%d", *static_cast<volatile uint8_t*>(memory_->base().pointer())), "");
}

TEST_F(EmulatedDeviceTest, OnlyWhileAKernelRunsCanADeviceAddressBeFollowed) {
  const auto follow = [](const DeviceMemory& memory) { return static_cast<uint8_t*>(memory.base().pointer()); };
  std::unique_ptr<DeviceMemory> later;
  {
    const EmulatedKernel first, second;
    *follow(*memory_) = 7;
    later = device_->Allocate(16).value();
    *follow(*later) = 8;
  }
  EXPECT_EQ(device_->Read(memory_->base(), 1)[0], 7);
  EXPECT_EQ(device_->Read(later->base(), 1)[0], 8);
  EXPECT_DEATH(*follow(*memory_) = 9, "");
  EXPECT_DEATH(*follow(*later) = 9, "");
}

TEST_F(EmulatedDeviceTest, ACopyFromMemoryThatIsNotPinnedEndsTheTest) {
  const std::vector<uint8_t> bytes(16);
  EXPECT_DEATH((void)stream_->CopyToDevice(memory_->base(), bytes), "not pinned");
}

TEST_F(EmulatedDeviceTest, ACopyOutsideItsMemoryEndsTheTest) {
  EXPECT_DEATH((void)stream_->CopyToDevice(memory_->base() + 1, Source()), "outside");
}

TEST_F(EmulatedDeviceTest, AHeldStreamIsNotDoneUntilItGoesOn) {
  device_->Hold();
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base(), Source()).ok());
  auto event = stream_->Record().value();
  EXPECT_TRUE(absl::IsDeadlineExceeded(Await(*event, absl::Milliseconds(5))));
  device_->Resume();
  EXPECT_TRUE(Await(*event, absl::Seconds(10)).ok());
}

TEST_F(EmulatedDeviceTest, AFailedDeviceAnswersUnavailableEverAfter) {
  device_->Hold();
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base(), Source()).ok());
  auto event = stream_->Record().value();
  device_->Fail("an illegal address");
  EXPECT_TRUE(absl::IsUnavailable(event->Done().status()));
  EXPECT_TRUE(absl::IsUnavailable(stream_->CopyToDevice(memory_->base(), Source())));
  EXPECT_TRUE(absl::IsUnavailable(device_->Allocate(1).status()));
  EXPECT_EQ(device_->Health().message(), "device failed: an illegal address");
}

TEST_F(EmulatedDeviceTest, MoreThanThereIsIsRefusedWithBothFigures) {
  const absl::Status status = device_->Allocate(uint64_t{1} << 20).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "device memory: 1048576 bytes asked, 948576 free");
  memory_ = nullptr;
  EXPECT_EQ(device_->allocated_bytes(), 0u);
}

TEST_F(EmulatedDeviceTest, AMigSliceSharesNothing) {
  auto slice = EmulatedDevice::Create({.mig = true});
  auto memory = slice->Allocate(1).value();
  EXPECT_TRUE(absl::IsFailedPrecondition(slice->Export(*memory).status()));
}

TEST_F(EmulatedDeviceTest, ALibraryFindsTheAliasAndTheStreamByName) {
  using Alias = uint8_t* (*)(void*);
  using Enqueue = void (*)(void*, void (*)(void*), void*);
  const auto alias = reinterpret_cast<Alias>(dlsym(RTLD_DEFAULT, "kvist_emulated_alias"));
  const auto enqueue = reinterpret_cast<Enqueue>(dlsym(RTLD_DEFAULT, "kvist_emulated_enqueue"));
  ASSERT_NE(alias, nullptr);
  ASSERT_NE(enqueue, nullptr);
  EXPECT_EQ(alias(memory_->base().pointer()), device_->HostAlias(memory_->base()));
  EXPECT_EQ(alias(this), nullptr);
  bool ran = false;
  enqueue(
      stream_->native(), [](void* flag) { *static_cast<bool*>(flag) = true; }, &ran);
  ASSERT_TRUE(Await(*stream_->Record().value(), absl::Seconds(10)).ok());
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace kvist::testing
