// Goal: kvistd with a device tier, as a process: without a GPU, with one that fails under load, with a worker that is killed
// while it has blocks mapped, and killed and started again itself.
// Method: the real binary, which finds no GPU here; and the same over an emulated one. Workers map its memory from the
// test's process and from one of their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "services/cluster/static_file.h"
#include "services/transport/device_ipc/device_ipc_client.h"
#include "services/transport/transport.h"
#include "tests/device/emulated_device.h"
#include "tests/e2e/process.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::AnyOf;
using testing::EmulatedDevice;
using ::testing::HasSubstr;
using testing::In;
using testing::Process;
using testing::TestBlock;
using testing::TestKey;

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr uint32_t kLayers = 20;

class KvistdDeviceTest : public ::testing::Test {
 protected:
  KvistdDeviceTest() {
    // The name of a test's own folder is too long for a socket.
    char folder[] = "/tmp/kvistd-device-XXXXXX";
    EXPECT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    file_ = folder_ + "/cluster.json";
    std::ofstream(file_) << R"({"view": 1, "nodes": [{"id": "a", "address": "127.0.0.1:0", "capacity": "16MiB"}]})";
  }
  ~KvistdDeviceTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Process> Start(const std::string& program) {
    std::filesystem::remove_all(file_ + ".d");
    auto node = std::make_unique<Process>(
        std::vector<std::string>{testing::Runfile(program), "--cluster", file_, "--node", "a", "--device-capacity",
                                 "16MiB", "--device-staging", "4MiB", "--device-socket", Socket()});
    const View view = *LoadView(file_, In(20), RealRuntime()->clock());
    channel_ = transport_->Connect(view.nodes[0].address.ToString());
    std::string http;
    EXPECT_TRUE(testing::WaitFor([&] { return bool(std::ifstream(HttpAddressFile(file_, NodeId{"a"})) >> http); }));
    http_ = *ParseAddress(http);
    EXPECT_TRUE(testing::WaitFor([&] { return Readyz().starts_with("ready\n"); }));
    return node;
  }
  std::string Socket() const { return folder_ + "/gpu.sock"; }
  std::string Readyz() { return testing::HttpGet(http_, "/readyz"); }
  bool MetricComes(const std::string& line) {
    return testing::WaitFor(
        [&] { return testing::HttpGet(http_, "/metrics").find("\n" + line + "\n") != std::string::npos; });
  }
  std::string Put(uint8_t key) {
    const std::string block = TestBlock(TestKey(key), kLayers, key);
    const absl::Status put = testing::PutBlock(channel_.get(), TestKey(key), block);
    EXPECT_TRUE(put.ok()) << put;
    return block;
  }
  // Null if it does not come to be on the device.
  static std::unique_ptr<DeviceIpcBlock> Map(DeviceIpcClient* client, uint8_t key) {
    std::unique_ptr<DeviceIpcBlock> block;
    testing::WaitFor([&] {
      auto lookups = client->Get({TestKey(key)}, kLong);
      if (lookups.ok()) block = std::move((*lookups)[0].block);
      return block != nullptr || !lookups.ok();
    });
    return block;
  }

  std::string folder_, file_;
  Address http_;
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::unique_ptr<Channel> channel_;
};

TEST_F(KvistdDeviceTest, WithoutAGpuTheRealBinaryServesFromHostMemoryAndSaysWhy) {
  const auto node = Start("services/node/kvistd");
  if (channel_->ServerInfo(In(10))->has_device()) GTEST_SKIP() << "there is a GPU here";
  EXPECT_THAT(Readyz(), HasSubstr("ready\nno device tier, host memory alone: "));
  EXPECT_THAT(Readyz(), AnyOf(HasSubstr("CUDA driver"), HasSubstr("without CUDA")));
  EXPECT_TRUE(MetricComes("kvist_device_state{state=\"absent\"} 1"));
  const std::string block = Put(1);
  const auto fetched = testing::GetBlocks(channel_.get(), testing::GetRequestFor({TestKey(1)}));
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->bytes[0], block);
  node->Signal(SIGTERM);
  EXPECT_EQ(node->Wait(30), 0);
}

TEST_F(KvistdDeviceTest, AGpuThatFailsUnderReadsCostsNoReadAndNoWrongByte) {
  const auto node = Start("tests/device/kvistd_emulated");
  const auto gpu = EmulatedDevice::Create({});
  auto client = DeviceIpcClient::Connect(Socket(), gpu.get(), kLong);
  ASSERT_TRUE(client.ok()) << client.status();
  std::vector<std::string> blocks;
  std::vector<Key> keys;
  for (uint8_t i = 0; i < 8; ++i) {
    blocks.push_back(Put(i));
    keys.push_back(TestKey(i));
    ASSERT_NE(Map(client->get(), i), nullptr);
  }
  std::atomic<bool> stop = false;
  std::atomic<int> reads = 0, lost = 0, wrong = 0;
  std::thread reader([&] {
    while (!stop) {
      const auto fetched = testing::GetBlocks(channel_.get(), testing::GetRequestFor(keys));
      lost += !fetched.ok();
      if (!fetched.ok()) continue;
      for (size_t i = 0; i < keys.size(); ++i) {
        const bool hit = fetched->headers[i].miss() == v1::MISS_REASON_UNSPECIFIED;
        lost += !hit;
        wrong += hit && fetched->bytes[i] != blocks[i];
      }
      ++reads;
    }
  });
  EXPECT_TRUE(testing::WaitFor([&] { return reads > 5; }));
  node->Signal(SIGUSR1);
  EXPECT_TRUE(MetricComes("kvist_device_state{state=\"lost\"} 1"));
  EXPECT_THAT(Readyz(), HasSubstr("ready\ndevice tier lost"));
  const int before = reads;
  EXPECT_TRUE(testing::WaitFor([&] { return reads > before + 5; }));
  stop = true;
  reader.join();
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(wrong, 0);
  node->Signal(SIGTERM);
  EXPECT_EQ(node->Wait(30), 0);
}

TEST_F(KvistdDeviceTest, AWorkerThatIsKilledWithBlocksMappedLeavesNoPinAndOthersDoNotWait) {
  const auto node = Start("tests/device/kvistd_emulated");
  Put(1);
  const pid_t worker = fork();
  if (worker == 0) {
    // The child may not return into the test.
    const auto gpu = EmulatedDevice::Create({});
    auto client = DeviceIpcClient::Connect(Socket(), gpu.get(), kLong);
    const auto block = client.ok() ? Map(client->get(), 1) : nullptr;
    if (block == nullptr) _exit(1);
    for (;;) pause();
  }
  EXPECT_TRUE(MetricComes("kvist_device_ipc_pins 1"));
  ASSERT_EQ(kill(worker, SIGKILL), 0);
  ASSERT_EQ(waitpid(worker, nullptr, 0), worker);
  const auto gpu = EmulatedDevice::Create({});
  auto client = DeviceIpcClient::Connect(Socket(), gpu.get(), kLong);
  ASSERT_TRUE(client.ok()) << client.status();
  auto lookups = (*client)->Get({TestKey(1)}, kLong);
  ASSERT_TRUE(lookups.ok()) << lookups.status();
  ASSERT_NE((*lookups)[0].block, nullptr);
  EXPECT_TRUE(MetricComes("kvist_device_ipc_pins 1")) << "this worker's";
  (*lookups)[0].block = nullptr;
  EXPECT_TRUE(MetricComes("kvist_device_ipc_pins 0"));
  EXPECT_TRUE(MetricComes("kvist_pinned_bytes{tier=\"device\"} 0"));
}

TEST_F(KvistdDeviceTest, AKilledNodeIsSeenByItsWorkersAndServesAgainFromTheSameSocket) {
  auto node = Start("tests/device/kvistd_emulated");
  const auto gpu = EmulatedDevice::Create({});
  Put(1);
  auto client = DeviceIpcClient::Connect(Socket(), gpu.get(), kLong);
  ASSERT_TRUE(client.ok()) << client.status();
  const auto block = Map(client->get(), 1);
  ASSERT_NE(block, nullptr);
  node->Signal(SIGKILL);
  ASSERT_EQ(node->Wait(10), 128 + SIGKILL);
  EXPECT_TRUE(testing::WaitFor([&] { return absl::IsUnavailable(block->StillHeld()); }));
  node = Start("tests/device/kvistd_emulated");
  client = DeviceIpcClient::Connect(Socket(), gpu.get(), kLong);
  ASSERT_TRUE(client.ok()) << client.status();
  auto lookups = (*client)->Get({TestKey(1)}, kLong);
  ASSERT_TRUE(lookups.ok()) << lookups.status();
  EXPECT_EQ((*lookups)[0].miss, MissReason::kNeverStored);
  Put(1);
  EXPECT_NE(Map(client->get(), 1), nullptr);
}

TEST_F(KvistdDeviceTest, MoreThanTheGpuHasIsRefusedAtTheStartWithBothFigures) {
  const testing::Ended ended = testing::Run({testing::Runfile("tests/device/kvistd_emulated"), "--listen",
                                             "127.0.0.1:0", "--capacity", "1MiB", "--device-capacity", "1GiB"});
  EXPECT_EQ(ended.exit, 1);
  EXPECT_THAT(ended.errors, HasSubstr("1073741824 bytes asked, 268435456 free"));
}

}  // namespace
}  // namespace kvist
