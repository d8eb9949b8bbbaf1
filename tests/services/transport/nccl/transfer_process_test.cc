// Transfers between processes over real gRPC, and what a process that stops or dies in the middle of one costs the others:
// nothing but its own blocks.
#include <gtest/gtest.h>
#include <signal.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/e2e/process.h"
#include "tests/services/transport/nccl/transfer_node.h"
#include "tests/services/transport/nccl/transfer_worker.h"

namespace kvist::testing {
namespace {

constexpr char kProgram[] = "tests/services/transport/nccl/transfer_process";

std::unique_ptr<Process> StartWorker(const TransferNode& node, uint32_t first, uint32_t count) {
  return std::make_unique<Process>(
      std::vector<std::string>{Runfile(kProgram), "worker", node.address(), absl::StrCat(first), absl::StrCat(count)});
}

TEST(TransferProcessTest, BlocksArriveInAnotherProcessOverNccl) {
  TransferNode node(8);
  const auto worker = StartWorker(node, 0, 9);
  EXPECT_EQ(worker->Wait(60), 0) << worker->Errors();
  EXPECT_EQ(worker->Output(), "open\nnccl 8 grpc 0 missing 1\n");
  EXPECT_EQ(node.sessions.counts().sent, 1);
  EXPECT_TRUE(Eventually([&] { return node.blocks.pins() == 0 && node.sessions.counts().sessions == 0; }));
}

TEST(TransferProcessTest, AWorkerThatStopsAndDiesInMidTransferKeepsNoOtherWaiting) {
  TransferNode node(32);
  node.end.shim.Set("bytes_per_ms", 1024);
  const auto victim = StartWorker(node, 0, 32);
  ASSERT_TRUE(Eventually([&] { return node.sessions.counts().started == 1; })) << victim->Errors();
  victim->Stop();
  node.end.shim.Set("bytes_per_ms", 0);
  TransferWorker other(node.address());
  ASSERT_TRUE(other.Open());
  const Fetched fetched = other.Get(3, 4);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(other.Read(fetched.blocks[i]), BlockBytes(3 + i));
  EXPECT_EQ(other.fetch->counts().over_nccl, 4);
  EXPECT_EQ(node.sessions.counts().sent, 1);  // the other's; the victim's is still under way
  EXPECT_GT(node.blocks.pins(), 0);
  victim->Signal(SIGKILL);
  EXPECT_TRUE(Eventually([&] { return node.blocks.pins() == 0 && node.sessions.counts().sessions == 1; }));
  EXPECT_EQ(node.sessions.counts().failed, 1);
  EXPECT_EQ(node.end.communicators->counts().left_behind, 0);
}

TEST(TransferProcessTest, AWorkerThatIsKilledInMidTransferGivesItsPinsBack) {
  TransferNode node(32);
  node.end.shim.Set("bytes_per_ms", 1024);
  const auto victim = StartWorker(node, 0, 32);
  ASSERT_TRUE(Eventually([&] { return node.sessions.counts().started == 1; })) << victim->Errors();
  EXPECT_GT(node.blocks.pins(), 0);
  victim->Signal(SIGKILL);
  EXPECT_TRUE(Eventually([&] { return node.blocks.pins() == 0 && node.sessions.counts().sessions == 0; }));
  EXPECT_EQ(node.sessions.counts().failed, 1);
  EXPECT_TRUE(Eventually([&] { return node.end.communicators->counts().live == 0; }));
}

TEST(TransferProcessTest, ANodeThatIsKilledInMidTransferCostsMissesOnly) {
  Process node({Runfile(kProgram), "node", "16", "64"});
  ASSERT_TRUE(Eventually([&] { return node.Output().find('\n') != std::string::npos; })) << node.Errors();
  std::string address = node.Output().substr(std::string("address ").size());
  address.pop_back();
  TransferWorker worker(address);
  ASSERT_TRUE(worker.Open());
  std::thread killer([&] {
    // Only the transfer takes so much of the worker's device.
    Eventually([&] { return worker.end.device->allocated_bytes() > (8 << 20); });
    node.Signal(SIGKILL);
  });
  const Fetched fetched = worker.Get(0, 16);
  killer.join();
  for (const FetchedBlock& block : fetched.blocks) EXPECT_EQ(block.miss, v1::MISS_REASON_OWNER_DOWN);
  EXPECT_EQ(worker.fetch->counts().misses, 16);
  EXPECT_TRUE(Eventually([&] { return worker.end.device->allocated_bytes() == 0; }));
}

TEST(TransferProcessTest, WhenNcclFailsTheSameBytesComeOverGrpc) {
  TransferNode node(4);
  TransferWorker worker(node.address());
  ASSERT_TRUE(worker.Open());
  worker.end.shim.Set("async_error", nccl::kSystemError);
  ASSERT_TRUE(Eventually([&] { return worker.link->state() != DeviceLink::State::kOpen; }));
  const Fetched fetched = worker.Get(0, 5);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(worker.Read(fetched.blocks[i]), BlockBytes(i));
  EXPECT_EQ(fetched.blocks[4].miss, v1::MISS_REASON_NEVER_STORED);
  EXPECT_EQ(worker.fetch->counts().over_grpc, 4);
}

TEST(TransferProcessTest, AnotherVersionIsRefusedOverTheWireWithBothNames) {
  TransferNode node(1);
  const auto control = NewGrpcTransferControl(node.address());
  v1::OpenEpochRequest request;
  request.set_nccl_version(22707);
  const absl::Status status = control->Open(request, absl::Now() + kTestDeadline).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("NCCL 2.27.7 at the worker, 2.28.9 at the node"), std::string::npos) << status;
}

}  // namespace
}  // namespace kvist::testing
