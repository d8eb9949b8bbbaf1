// Goal: what fails in the middle of a read into GPU pages (a node, NCCL, the launch, our own device, the clock) ends in the
// same bytes over gRPC or in a miss with a reason, by the deadline; and what the device still has stays where it is.
// Method: as device_reader_test; the worker's streams are held, so that a read stands still where the test wants it.
#include <future>

#include "services/worker/device_reader.h"
#include "tests/services/worker/device_fixture.h"

namespace kvist::testing {
namespace {

using ::testing::HasSubstr;

class DeviceFaultsTest : public DeviceReaderTest {
 protected:
  // A Get whose blocks the device has been told to decode, and has not begun to.
  std::future<absl::StatusOr<DeviceGetResult>> GetUntilItsLaunch() {
    decoder_.HoldAtLaunch(worker_->device.get());
    auto got = std::async(std::launch::async, [this] { return TryGet(); });
    const int before = launches_;
    EXPECT_TRUE(Eventually([&] { return decoder_.launches > before; }));
    launches_ = decoder_.launches;
    return got;
  }
  void Resume() {
    decoder_.HoldAtLaunch(nullptr);
    worker_->device->Resume();
  }
  int launches_ = 0;
};

TEST_F(DeviceFaultsTest, ANodeThatDiesWhileItsBlocksAreReadCostsMissesAndNoWrongByte) {
  Start({Reach::kIpc});
  Promote();
  auto got = GetUntilItsLaunch();
  cluster_->node(0).StopIpc();
  cluster_->node(0).down = true;
  Resume();
  const auto result = got.get();
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectMiss(*result, 0, v1::MISS_REASON_OWNER_DOWN);
  EXPECT_EQ(client_->counters().damaged, 0u);
}

TEST_F(DeviceFaultsTest, APinThatExpiredBeforeTheEndIsAMiss) {
  Start({Reach::kIpc});
  Promote();
  cluster_->node(0).StartIpc(/*pinned_for=*/absl::Milliseconds(50));
  auto got = GetUntilItsLaunch();
  EXPECT_TRUE(Eventually([&] { return cluster_->node(0).ipc->counters().expired_pins > 0; }));
  Resume();
  const auto result = got.get();
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectMiss(*result, 0, v1::MISS_REASON_DEADLINE);
  EXPECT_THAT(result->why, HasSubstr("longer than it was pinned"));
}

TEST_F(DeviceFaultsTest, PinsThatExpireWhileOthersAreWaitedForAreAskedForAgain) {
  Start({Reach::kIpc, Reach::kHostOnly});
  Promote();
  cluster_->node(0).StartIpc(/*pinned_for=*/absl::Milliseconds(300));
  cluster_->node(1).hold_gets = true;
  auto got = std::async(std::launch::async, [this] { return Get(); });
  EXPECT_TRUE(Eventually([&] { return cluster_->node(0).ipc->counters().expired_pins > 0; }));
  cluster_->node(1).hold_gets = false;
  const DeviceGetResult result = got.get();
  EXPECT_EQ(result.blocks, kPromptBlocks) << result.why;
  EXPECT_GT(result.ipc_blocks, 0u);
}

TEST_F(DeviceFaultsTest, ASocketThatBrokeIsGoneAroundAndFoundAgain) {
  Start({Reach::kIpc});
  Promote();
  EXPECT_EQ(Get().ipc_blocks, kPromptBlocks);
  cluster_->node(0).StopIpc();
  const DeviceGetResult around = Get();
  EXPECT_EQ(around.blocks, kPromptBlocks) << around.why;
  EXPECT_EQ(around.grpc_blocks, kPromptBlocks);
  cluster_->node(0).StartIpc();
  EXPECT_TRUE(Eventually([&] { return Get().ipc_blocks == kPromptBlocks; }));
}

TEST_F(DeviceFaultsTest, WhereNcclFailsBlocksComeOverGrpc) {
  Start({Reach::kNccl, Reach::kHostOnly});
  Promote();
  ASSERT_TRUE(OpensNccl());
  cluster_->node(0).end.shim.Set("async_error", nccl::kSystemError);
  EXPECT_TRUE(Eventually([&] {
    const DeviceGetResult got = Get();
    EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
    return got.grpc_blocks == kPromptBlocks;
  }));
  cluster_->node(0).end.shim.Set("async_error", 0);
  EXPECT_TRUE(OpensNccl());
}

TEST_F(DeviceFaultsTest, ATransferThatIsTooSlowLeavesHalfOfTheTimeToGrpc) {
  options_.deadline = absl::Seconds(4);
  Start({Reach::kNccl});
  Promote();
  ASSERT_TRUE(OpensNccl());
  cluster_->node(0).end.shim.Set("bytes_per_ms", 1);
  const DeviceGetResult got = Get();
  EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
  EXPECT_EQ(got.grpc_blocks, kPromptBlocks);
}

TEST_F(DeviceFaultsTest, ANodeThatDiesInMidTransferCostsItsBlocksAndNoOthers) {
  options_.deadline = absl::Seconds(4);
  Start({Reach::kNccl, Reach::kHostOnly});
  Promote();
  ASSERT_TRUE(OpensNccl());
  DeviceNode& node = cluster_->node(0);
  const uint64_t started = node.sessions->counts().started;
  node.end.shim.Set("bytes_per_ms", 1);
  auto got = std::async(std::launch::async, [this] { return TryGet(); });
  ASSERT_TRUE(Eventually([&] { return node.sessions->counts().started > started; }));
  node.down = true;
  node.end.shim.Set("async_error", nccl::kSystemError);
  const auto result = got.get();
  ASSERT_TRUE(result.ok()) << result.status();
  size_t others = 0;
  while (others < kPromptBlocks && OwnerOf(others).reach == Reach::kHostOnly) ++others;
  ExpectMiss(*result, others, v1::MISS_REASON_OWNER_DOWN);
  EXPECT_EQ(tensors_->Different({0, result->blocks}, kPromptBlocks, stored_), 0u);
}

TEST_F(DeviceFaultsTest, ALaunchThatFailsIsAFaultOfOurOwn) {
  Start({Reach::kIpc});
  Promote();
  decoder_.Fail(absl::InternalError("launch of decode: no kernel image"));
  const auto got = TryGet();
  EXPECT_EQ(got.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("no kernel image"));
  decoder_.Fail(absl::OkStatus());
  EXPECT_EQ(Get().blocks, kPromptBlocks);
}

TEST_F(DeviceFaultsTest, OurOwnDeviceThatFailsIsAFaultWhereverTheReadIs) {
  Start({Reach::kIpc, Reach::kHostOnly});
  Promote();
  auto got = GetUntilItsLaunch();
  worker_->device->Fail("an illegal address");
  EXPECT_EQ(got.get().status().code(), absl::StatusCode::kUnavailable);
  const auto after = TryGet();
  EXPECT_EQ(after.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(after.status().message()), HasSubstr("an illegal address"));
}

TEST_F(DeviceFaultsTest, ADeviceThatIsNotDoneByTheDeadlineKeepsWhatItHasAndSaysWhenThePagesAreFree) {
  options_.deadline = absl::Seconds(2);
  reader_options_.gets = 1;
  Start({Reach::kIpc});
  Promote();
  EXPECT_EQ(Get().blocks, kPromptBlocks);
  launches_ = decoder_.launches;
  auto got = GetUntilItsLaunch();
  const auto result = got.get();
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectMiss(*result, 0, v1::MISS_REASON_DEADLINE);
  ASSERT_NE(result->writing, nullptr);
  EXPECT_FALSE(*result->writing->Done());
  EXPECT_EQ(reader_->counters().late_launches, 1u);
  EXPECT_GT(cluster_->node(0).ipc->counters().pins, 0u) << "the kernels may still read the node's memory";
  // The only lane is the device's until then.
  const auto none = TryGet();
  ASSERT_TRUE(none.ok()) << none.status();
  ExpectMiss(*none, 0, v1::MISS_REASON_DEADLINE);
  EXPECT_THAT(none->why, HasSubstr("no room on the device"));
  Resume();
  EXPECT_TRUE(Eventually([&] { return *result->writing->Done(); }));
  EXPECT_EQ(Get().blocks, kPromptBlocks);
  EXPECT_TRUE(Eventually([&] { return cluster_->node(0).ipc->counters().pins == 0; }));
}

TEST_F(DeviceFaultsTest, ACopyOfBlocksFromTheWireThatTheDeviceDoesNotTakeIsAMissByTheDeadline) {
  options_.deadline = absl::Seconds(2);
  Start({Reach::kHostOnly});
  worker_->device->Hold();
  const auto result = TryGet();
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectMiss(*result, 0, v1::MISS_REASON_DEADLINE);
  worker_->device->Resume();
  EXPECT_TRUE(Eventually([&] { return Get().blocks == kPromptBlocks; }));
}

}  // namespace
}  // namespace kvist::testing
