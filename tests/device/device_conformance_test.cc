// Goal: a device keeps what cachestore/device.h says. Method: the same cases over every kind of device (device_kinds.h);
// one that is not here is skipped with the reason. Another process is forked before any device is opened, since a
// driver does not survive a fork, and asked to map what this one exports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "tests/device/device_kinds.h"

namespace kvist::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kBytes = 100'000;
constexpr uint64_t kShared = uint64_t{4} << 20;  // CUDA shares whole pieces of 2 MiB with another process
constexpr absl::Duration kLong = absl::Seconds(20);

std::vector<uint8_t> Numbered(size_t size) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = uint8_t(i * 7 + i / 256);
  return bytes;
}

// Asks another process to write Numbered(size_bytes) to `offset` of the memory that it imports.
struct ImportOrder {
  char kind[16] = {};
  IpcHandle handle;
  uint64_t offset = 0, size_bytes = 0;
};

absl::Status CarryOut(const ImportOrder& order) {
  const auto device = OpenDevice(order.kind);
  if (!device.ok()) return device.status();
  const auto mapped = (*device)->Import(order.handle);
  if (!mapped.ok()) return mapped.status();
  return WriteBytes(**device, (*mapped)->base() + order.offset, Numbered(order.size_bytes));
}

class OtherProcess {
 public:
  OtherProcess() {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) std::abort();
    pid_ = fork();
    socket_ = ends[pid_ == 0 ? 1 : 0];
    close(ends[pid_ == 0 ? 0 : 1]);
    if (pid_ == 0) Serve();
    const timeval limit = {absl::ToInt64Seconds(kLong), 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  }
  ~OtherProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  // "" when it is done, else why it could not be.
  std::string Import(const ImportOrder& order) {
    char answer[1024];
    if (send(socket_, &order, sizeof(order), MSG_NOSIGNAL) != sizeof(order)) return "the other process has gone";
    const ssize_t length = recv(socket_, answer, sizeof(answer), 0);
    if (length <= 0) return "the other process does not answer";
    return std::string(answer, size_t(length) - 1);
  }

 private:
  [[noreturn]] void Serve() {
    ImportOrder order;
    while (recv(socket_, &order, sizeof(order), 0) == sizeof(order)) {
      std::string answer(CarryOut(order).message());
      send(socket_, answer.c_str(), answer.size() + 1, MSG_NOSIGNAL);
    }
    _exit(0);
  }

  pid_t pid_ = -1;
  int socket_ = -1;
};
OtherProcess* other_process = nullptr;

class DeviceConformance : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!WhyAbsent(GetParam()).empty()) GTEST_SKIP() << WhyAbsent(GetParam());
    const auto device = OpenDevice(GetParam());
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *device;
    memory_ = device_->Allocate(kBytes).value();
    pinned_ = device_->AllocatePinned(2 * kBytes).value();
    stream_ = device_->NewStream().value();
    const std::vector<uint8_t> bytes = Numbered(kBytes);
    std::copy(bytes.begin(), bytes.end(), Source().begin());
  }
  absl::Span<uint8_t> Source() { return pinned_->bytes().first(kBytes); }
  absl::Span<uint8_t> Target() { return pinned_->bytes().last(kBytes); }
  void ExpectArrived(size_t size = kBytes) {
    EXPECT_TRUE(std::equal(Target().begin(), Target().begin() + size, Source().begin()));
  }

  std::shared_ptr<Device> device_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<PinnedMemory> pinned_;
  std::unique_ptr<Stream> stream_;
};

TEST_P(DeviceConformance, SaysWhatItIs) {
  const DeviceDescription& description = device_->description();
  EXPECT_EQ(description.ordinal, 0);
  EXPECT_FALSE(description.name.empty());
  EXPECT_NE(description.uuid, (std::array<uint8_t, 16>{}));
  EXPECT_GE(description.memory_bytes, kBytes);
  EXPECT_EQ(OpenDevice(GetParam()).value()->description().uuid, description.uuid) << "opened twice, it is one device";
  EXPECT_TRUE(device_->Health().ok());
}

TEST_P(DeviceConformance, AnyThreadMakesItTheCurrentOne) {
  absl::Status current = absl::UnknownError("not asked");
  std::thread([&] { current = device_->MakeCurrent(); }).join();
  EXPECT_TRUE(current.ok()) << current;
}

TEST_P(DeviceConformance, CopiesRunInOrderAndAnEventSaysWhenTheyAreDone) {
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base(), Source()).ok());
  ASSERT_TRUE(stream_->CopyToHost(Target(), memory_->base()).ok());
  auto event = stream_->Record().value();
  ASSERT_TRUE(Await(*event, kLong).ok());
  EXPECT_TRUE(event->Done().value()) << "and it stays done";
  ExpectArrived();
}

TEST_P(DeviceConformance, CopiesTouchNothingBesideTheirBytes) {
  std::fill(Target().begin(), Target().end(), 0xaa);
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base(), Target()).ok());
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base() + 1001, Source().first(777)).ok());
  ASSERT_TRUE(stream_->CopyToHost(Target(), memory_->base()).ok());
  ASSERT_TRUE(Await(*stream_->Record().value(), kLong).ok());
  std::vector<uint8_t> expected(kBytes, 0xaa);
  std::copy_n(Source().begin(), 777, expected.begin() + 1001);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), Target().begin()));
}

TEST_P(DeviceConformance, ACopyOnTheDeviceNeedsNoHostMemory) {
  const auto other = device_->Allocate(kBytes).value();
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base(), Source()).ok());
  ASSERT_TRUE(stream_->CopyOnDevice(other->base() + 5, memory_->base(), kBytes - 5).ok());
  ASSERT_TRUE(stream_->CopyToHost(Target().first(kBytes - 5), other->base() + 5).ok());
  ASSERT_TRUE(Await(*stream_->Record().value(), kLong).ok());
  ExpectArrived(kBytes - 5);
}

TEST_P(DeviceConformance, AStreamWaitsForAnEventOfAnother) {
  auto other = device_->NewStream().value();
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base(), Source()).ok());
  auto copied = stream_->Record().value();
  ASSERT_TRUE(other->WaitFor(*copied).ok());
  ASSERT_TRUE(other->CopyToHost(Target(), memory_->base()).ok());
  ASSERT_TRUE(Await(*other->Record().value(), kLong).ok());
  ExpectArrived();
}

TEST_P(DeviceConformance, WhatIsOnAStreamRunsThoughTheStreamIsGone) {
  ASSERT_TRUE(stream_->CopyToDevice(memory_->base(), Source()).ok());
  ASSERT_TRUE(stream_->CopyToHost(Target(), memory_->base()).ok());
  auto event = stream_->Record().value();
  stream_.reset();
  ASSERT_TRUE(Await(*event, kLong).ok());
  ExpectArrived();
}

TEST_P(DeviceConformance, AllocationsAreApartAndBeginWhereKernelsWantThem) {
  std::vector<std::unique_ptr<DeviceMemory>> taken;
  for (int i = 0; i < 8; ++i) taken.push_back(device_->Allocate(1000).value());
  std::sort(taken.begin(), taken.end(), [](const auto& a, const auto& b) { return a->base() < b->base(); });
  for (size_t i = 0; i < taken.size(); ++i) {
    EXPECT_EQ(taken[i]->base().value % 64, 0u);
    EXPECT_EQ(taken[i]->size_bytes(), 1000u);
    if (i == 0) continue;
    EXPECT_GE(taken[i]->base().value, taken[i - 1]->base().value + 1000);
  }
}

TEST_P(DeviceConformance, MoreThanThereIsIsRefusedWithBothFiguresAndTheDeviceIsWhole) {
  const absl::Status status = device_->Allocate(uint64_t{1} << 50).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("1125899906842624 bytes"));
  EXPECT_THAT(status.message(), HasSubstr("free"));
  EXPECT_TRUE(device_->Health().ok());
  EXPECT_TRUE(device_->Allocate(1000).ok());
}

TEST_P(DeviceConformance, AnotherProcessMapsWhatThisOneExports) {
  if (device_->description().mig) {
    EXPECT_TRUE(absl::IsFailedPrecondition(device_->Export(*memory_).status()));
    return;
  }
  const auto shared = device_->Allocate(kShared).value();
  ImportOrder order;
  GetParam().copy(order.kind, sizeof(order.kind) - 1);
  order.handle = device_->Export(*shared).value();
  EXPECT_EQ(order.handle.size_bytes, kShared);
  order.offset = kShared - 105;
  order.size_bytes = 100;
  ASSERT_EQ(other_process->Import(order), "");
  EXPECT_EQ(ReadBytes(*device_, shared->base() + order.offset, 100).value(), Numbered(100));
}

INSTANTIATE_TEST_SUITE_P(Kinds, DeviceConformance, ::testing::ValuesIn(DeviceKinds()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace kvist::testing

int main(int argc, char** argv) {
  kvist::testing::OtherProcess other;  // before any device and any thread
  kvist::testing::other_process = &other;
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
