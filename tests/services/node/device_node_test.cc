// Goal: a node with a device tier serves it by every way, says in metrics, /readyz and ServerInfo what has become of it, and
// goes on with host memory when there is no GPU or it fails.
// Method: a real node on loopback over an emulated GPU; workers map it, or fetch over a libnccl that is a shim.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/node/node.h"
#include "services/transport/device_ipc/device_ipc_client.h"
#include "services/transport/transport.h"
#include "tests/device/emulated_device.h"
#include "tests/services/testing/loopback.h"
#include "tests/services/transport/nccl/transfer_worker.h"

namespace kvist {
namespace {

using testing::EmulatedDevice;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TestKey;

constexpr absl::Duration kLong = absl::Seconds(20);

class DeviceNodeTest : public ::testing::Test {
 protected:
  DeviceNodeTest() {
    config_.device.capacity_bytes = 8 << 20;
    config_.device.staging_bytes = 4 << 20;
  }

  DeviceOpener Opener(EmulatedDevice::Options options = {}) {
    return [this, options](int ordinal) -> absl::StatusOr<std::unique_ptr<Device>> {
      if (ordinal != 0) return absl::InvalidArgumentError(absl::StrCat("no GPU ", ordinal, ": there is one, 0"));
      auto device = EmulatedDevice::Create(options);
      device_ = device.get();
      return device;
    };
  }
  void Start(const DeviceOpener& opener) {
    auto node = NodeServer::Start(config_, opener);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    channel_ = transport_->Connect(node_->data_address().ToString());
    ASSERT_TRUE(testing::WaitFor([&] { return Readyz().starts_with("ready\n"); }));
  }
  // In a folder of its own: a test's own folder has a name too long for a socket.
  std::string Socket() {
    char folder[] = "/tmp/kvist-device-XXXXXX";
    EXPECT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    return folder_ + "/socket";
  }
  ~DeviceNodeTest() override {
    node_ = nullptr;
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  // With a worker on the same GPU that has mapped the tier.
  void StartMapped() {
    config_.device.ipc_socket = Socket();
    ASSERT_NO_FATAL_FAILURE(Start(Opener()));
    auto client = DeviceIpcClient::Connect(config_.device.ipc_socket, worker_.get(), kLong);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }
  std::string Readyz() { return testing::HttpGet(node_->http_address(), "/readyz"); }
  std::string Metrics() { return testing::HttpGet(node_->http_address(), "/metrics"); }
  std::string Put(uint8_t key) {
    const std::string block = testing::TestBlock(TestKey(key), 2, key);
    const absl::Status put = testing::PutBlock(channel_.get(), TestKey(key), block);
    EXPECT_TRUE(put.ok()) << put;
    return block;
  }
  // The block over gRPC, and the tier that it was found in.
  std::pair<std::string, v1::Tier> Get(uint8_t key) {
    const auto fetched = testing::GetBlocks(channel_.get(), testing::GetRequestFor({TestKey(key)}));
    EXPECT_TRUE(fetched.ok()) << fetched.status();
    if (!fetched.ok() || fetched->headers[0].miss() != v1::MISS_REASON_UNSPECIFIED) return {};
    return {fetched->bytes[0], fetched->headers[0].tier()};
  }
  // Asks as a worker on the same GPU until the block is there, and reads it.
  std::string ReadMapped(uint8_t key) {
    std::unique_ptr<DeviceIpcBlock> block;
    EXPECT_TRUE(testing::WaitFor([&] {
      auto lookups = client_->Get({TestKey(key)}, kLong);
      if (lookups.ok()) block = std::move((*lookups)[0].block);
      return block != nullptr;
    }));
    std::string bytes;
    if (block == nullptr) return bytes;
    for (const DeviceExtent& extent : block->extents()) {
      const std::vector<uint8_t> part = worker_->Read(extent.address, extent.size_bytes);
      bytes.append(part.begin(), part.end());
    }
    EXPECT_TRUE(block->StillHeld().ok());
    return bytes;
  }

  NodeConfig config_ = testing::TestConfig(8 << 20);
  std::string folder_;
  EmulatedDevice* device_ = nullptr;  // of the node
  std::unique_ptr<NodeServer> node_;
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::unique_ptr<Channel> channel_;
  const std::unique_ptr<EmulatedDevice> worker_ = EmulatedDevice::Create({});  // the node's GPU, as a worker has it
  std::unique_ptr<DeviceIpcClient> client_;
};

TEST_F(DeviceNodeTest, AWorkerOnTheSameGpuReadsWhatWasPutAndBothTiersAreCounted) {
  ASSERT_NO_FATAL_FAILURE(StartMapped());
  const auto info = channel_->ServerInfo(testing::In(10));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->device().ipc_socket(), config_.device.ipc_socket);
  EXPECT_EQ(info->device().nccl_version(), 0u);

  const auto& uuid = worker_->description().uuid;
  EXPECT_EQ(info->device().uuid(), std::string(uuid.begin(), uuid.end()));
  const std::string block = Put(1);
  EXPECT_EQ(ReadMapped(1), block);
  EXPECT_EQ(Get(1), std::pair(block, v1::TIER_HOST)) << "what was promoted is in both tiers";

  const std::string metrics = Metrics();
  for (const char* line :
       {"kvist_blocks{tier=\"host\"} 1", "kvist_blocks{tier=\"device\"} 1",
        "kvist_capacity_bytes{tier=\"device\"} 8388608", "kvist_moved_blocks_total{direction=\"up\"} 1",
        "kvist_device_state{state=\"ready\"} 1", "kvist_tier_hit_blocks_total{tier=\"device\"} 1",
        "kvist_device_ipc_workers 1", "kvist_device_ipc_blocks_total 1"}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
}

TEST_F(DeviceNodeTest, AWorkerOnAnotherGpuFetchesOverNcclAndFindsTheRestOverGrpc) {
  const testing::Shim shim;
  config_.device.nccl_library = shim.path();
  ASSERT_NO_FATAL_FAILURE(Start(Opener()));
  testing::TransferWorker worker(node_->data_address().ToString());
  EXPECT_EQ(channel_->ServerInfo(testing::In(10))->device().nccl_version(), uint32_t(shim.library()->version));
  ASSERT_TRUE(worker.Open());
  const std::string block = Put(1);
  const auto fetch = [&] {
    Fetched fetched = worker.fetch->Fetch({TestKey(1), TestKey(2)}, testing::Allocating(worker.end.device.get()),
                                          absl::Now() + kLong);
    const std::vector<uint8_t> bytes = worker.Read(fetched.blocks[0]);
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), block);
    EXPECT_EQ(fetched.blocks[1].miss, v1::MISS_REASON_NEVER_STORED);
  };
  EXPECT_TRUE(testing::WaitFor([&] {
    fetch();
    return worker.fetch->counts().over_nccl > 0;
  })) << "from host memory over gRPC, until it has been promoted";
  EXPECT_GT(worker.fetch->counts().over_grpc, 0u);
  EXPECT_TRUE(testing::WaitFor(
      [&] { return Metrics().find("kvist_nccl_transfers_total{result=\"sent\"} 1") != std::string::npos; }));
  EXPECT_THAT(Metrics(), HasSubstr("kvist_nccl_communicators 1"));
}

TEST_F(DeviceNodeTest, ABlockThatOnlyTheDeviceHasIsReadOverGrpcToo) {
  config_.capacity_bytes = 1 << 20;  // a block is 33 KiB or so: about 30 find room
  ASSERT_NO_FATAL_FAILURE(StartMapped());
  const std::string block = Put(1);
  ReadMapped(1);
  for (int other = 2; other < 255; ++other) Put(uint8_t(other));
  EXPECT_EQ(Get(1), std::pair(block, v1::TIER_DEVICE));
}

TEST_F(DeviceNodeTest, ACopyThatIsDamagedOnTheDeviceIsForgottenWhenAReaderSaysSoAndMadeAnew) {
  ASSERT_NO_FATAL_FAILURE(StartMapped());
  const std::string block = Put(1);
  ReadMapped(1);
  {
    auto lookups = client_->Get({TestKey(1)}, kLong);
    ASSERT_TRUE(lookups.ok() && (*lookups)[0].block != nullptr);
    const DeviceAddress at = (*lookups)[0].block->extents()[0].address + 1000;
    worker_->Write(at, {uint8_t(worker_->Read(at, 1)[0] ^ 1)});
    EXPECT_NE(ReadMapped(1), block);
  }
  v1::ReportRequest report;
  report.set_keys(TestKey(1).bytes.data(), Key::kBytes);
  const auto reported = channel_->Report(report, testing::In(10));
  ASSERT_TRUE(reported.ok()) << reported.status();
  EXPECT_EQ(reported->damaged(), 0u) << "the host's copy is whole";
  EXPECT_THAT(Metrics(), HasSubstr("kvist_dropped_device_copies_total 1"));
  EXPECT_EQ(ReadMapped(1), block);
  EXPECT_EQ(Get(1), std::pair(block, v1::TIER_HOST));
}

TEST_F(DeviceNodeTest, AGpuThatFailsIsDroppedAndSaidAndTheHostServesOn) {
  ASSERT_NO_FATAL_FAILURE(StartMapped());
  const std::string block = Put(1);
  ReadMapped(1);
  device_->Fail("an illegal memory access was encountered");
  EXPECT_TRUE(testing::WaitFor([&] { return Readyz().find("device tier lost") != std::string::npos; }));
  EXPECT_THAT(Readyz(), HasSubstr("ready\ndevice tier lost"));
  EXPECT_THAT(Readyz(), HasSubstr("an illegal memory access was encountered"));
  const std::string metrics = Metrics();
  EXPECT_THAT(metrics, HasSubstr("kvist_device_state{state=\"lost\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("kvist_device_state{state=\"ready\"} 0"));
  EXPECT_THAT(metrics, HasSubstr("kvist_capacity_bytes{tier=\"device\"} 0"));
  EXPECT_FALSE(channel_->ServerInfo(testing::In(10))->has_device());
  EXPECT_EQ(Get(1), std::pair(block, v1::TIER_HOST));
  auto lookups = client_->Get({TestKey(1)}, kLong);
  ASSERT_TRUE(lookups.ok()) << lookups.status();
  EXPECT_EQ((*lookups)[0].block, nullptr);
  Put(2);
  EXPECT_EQ(Get(2).second, v1::TIER_HOST);
}

TEST_F(DeviceNodeTest, WithoutADriverItServesFromHostMemoryAndSaysSo) {
  ASSERT_NO_FATAL_FAILURE(Start([](int) { return absl::FailedPreconditionError("no CUDA driver here"); }));
  EXPECT_EQ(Readyz(), "ready\nno device tier, host memory alone: no CUDA driver here\n");
  EXPECT_THAT(Metrics(), HasSubstr("kvist_device_state{state=\"absent\"} 1"));
  EXPECT_THAT(Metrics(), Not(HasSubstr("tier=\"device\"")));
  EXPECT_FALSE(channel_->ServerInfo(testing::In(10))->has_device());
  const std::string block = Put(1);
  EXPECT_EQ(Get(1).first, block);
}

TEST_F(DeviceNodeTest, WithoutTheFlagNoGpuIsTouched) {
  config_.device.capacity_bytes = 0;
  ASSERT_NO_FATAL_FAILURE(Start([](int) -> absl::StatusOr<std::unique_ptr<Device>> {
    ADD_FAILURE() << "a GPU was opened";
    return absl::InternalError("not asked for");
  }));
  EXPECT_EQ(Readyz(), "ready\n");
  EXPECT_THAT(Metrics(), HasSubstr("kvist_device_state{state=\"none\"} 1"));
}

TEST_F(DeviceNodeTest, MoreDeviceMemoryThanThereIsIsRefusedWithBothFigures) {
  const auto node = NodeServer::Start(config_, Opener({.memory_bytes = 1 << 20}));
  EXPECT_TRUE(absl::IsResourceExhausted(node.status())) << node.status();
  EXPECT_THAT(std::string(node.status().message()), HasSubstr("8388608 bytes asked, 1048576 free"));
}

TEST_F(DeviceNodeTest, AGpuThatDoesNotExistIsRefused) {
  config_.device.ordinal = 3;
  const auto node = NodeServer::Start(config_, Opener());
  EXPECT_TRUE(absl::IsInvalidArgument(node.status())) << node.status();
  EXPECT_THAT(std::string(node.status().message()), HasSubstr("no GPU 3"));
}

TEST_F(DeviceNodeTest, ASliceOfAGpuHasATierButNoWayAroundTheHost) {
  const testing::Shim shim;
  config_.device.ipc_socket = Socket();
  config_.device.nccl_library = shim.path();
  ASSERT_NO_FATAL_FAILURE(Start(Opener({.mig = true})));
  EXPECT_THAT(Readyz(), HasSubstr("no CUDA IPC: a MIG slice cannot share its memory; no NCCL: "));
  const auto info = channel_->ServerInfo(testing::In(10));
  EXPECT_EQ(info->device().ipc_socket(), "");
  EXPECT_EQ(info->device().nccl_version(), 0u);
  EXPECT_THAT(Metrics(), HasSubstr("kvist_device_state{state=\"ready\"} 1"));
}

TEST_F(DeviceNodeTest, WithoutALibncclItServesOverGrpcAndSaysSo) {
  config_.device.nccl_library = "/nowhere/libnccl.so.2";
  ASSERT_NO_FATAL_FAILURE(Start(Opener()));
  EXPECT_THAT(Readyz(), HasSubstr("no NCCL: "));
  EXPECT_THAT(Readyz(), HasSubstr("/nowhere/libnccl.so.2"));
  EXPECT_EQ(channel_->ServerInfo(testing::In(10))->device().nccl_version(), 0u);
}

TEST_F(DeviceNodeTest, ASocketThatCannotBeIsNamed) {
  config_.device.ipc_socket = "/" + std::string(200, 'x');
  const auto node = NodeServer::Start(config_, Opener());
  EXPECT_TRUE(absl::IsInvalidArgument(node.status())) << node.status();
  EXPECT_THAT(std::string(node.status().message()), HasSubstr("--device-socket: "));
}

}  // namespace
}  // namespace kvist
