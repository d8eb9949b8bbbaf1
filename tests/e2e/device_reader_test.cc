// Goal: a worker with a GPU reads a prompt into its pages from three kvistd processes at once: from the GPU that it shares
// with one, over NCCL from the GPU of another, over gRPC from one that has none; and goes on when they die.
// Method: real processes and sockets; GPUs are emulated, libnccl is a shim over sockets. Pages are compared bit by bit with
// what the reference decodes from the bytes that the nodes store.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "services/cluster/static_file.h"
#include "services/transport/transport.h"
#include "services/worker/client.h"
#include "services/worker/device_reader.h"
#include "tests/e2e/process.h"
#include "tests/services/testing/loopback.h"
#include "tests/services/worker/device_fixture.h"

namespace kvist {
namespace {

using testing::DeviceTensors;
using testing::In;
using testing::kPromptBlocks;
using testing::Process;

class DeviceReaderProcessTest : public ::testing::Test {
 protected:
  DeviceReaderProcessTest() {
    char folder[] = "/tmp/kvist-reader-XXXXXX";  // the name of a test's own folder is too long for a socket
    EXPECT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    file_ = folder_ + "/cluster.json";
    std::ofstream(file_) << R"({"view": 1, "nodes": [
        {"id": "mapped", "address": "127.0.0.1:0", "capacity": "16MiB"},
        {"id": "nccl", "address": "127.0.0.1:0", "capacity": "16MiB"},
        {"id": "host", "address": "127.0.0.1:0", "capacity": "16MiB"}]})";
    StartNode("mapped", "tests/device/kvistd_emulated", {"--device", "0", "--device-socket", folder_ + "/gpu.sock"});
    StartNode("nccl", "tests/device/kvistd_emulated", {"--device", "1", "--nccl", worker_.shim.path()});
    StartNode("host", "services/node/kvistd", {});
  }
  ~DeviceReaderProcessTest() override {
    reader_ = nullptr;
    client_ = nullptr;
    nodes_.clear();
    std::filesystem::remove_all(folder_);
  }

  void StartNode(const std::string& id, const std::string& program, std::vector<std::string> device) {
    std::vector<std::string> command = {testing::Runfile(program), "--cluster", file_, "--node", id};
    if (!device.empty()) device.insert(device.end(), {"--device-capacity", "16MiB", "--device-staging", "4MiB"});
    command.insert(command.end(), device.begin(), device.end());
    nodes_[id] = std::make_unique<Process>(command);
  }

  void Connect() {
    const View view = *LoadView(file_, In(30), RealRuntime()->clock());
    ClientOptions options;
    options.ns.model = "test";
    options.ns.layers = 2;
    options.ns.heads = 2;
    options.ns.head_dim = 64;
    options.ns.tokens_per_block = 16;
    options.deadline = absl::Seconds(20);
    options.view = view;
    options.transport = transport_.get();
    auto client = Client::Create(options);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    for (const Node& node : view.nodes) channels_.push_back(transport_->Connect(node.address.ToString()));
    shape_ = options.ns.Shape();
    tensors_ = std::make_unique<DeviceTensors>(worker_.device.get(), shape_, shape_.heads, /*first_head=*/0);
    DeviceReaderOptions reader;
    reader.device = worker_.device;
    reader.decoder = &decoder_;
    reader.communicators = worker_.communicators.get();
    reader.connect_control = [](const std::string& address) { return NewGrpcTransferControl(address); };
    reader.landing_bytes = reader.staging_bytes = uint64_t{1} << 20;
    reader.scratch_bytes = reader.pinned_bytes = uint64_t{2} << 20;
    auto made = DeviceReader::Create(client_.get(), reader);
    ASSERT_TRUE(made.ok()) << made.status();
    reader_ = *std::move(made);
  }

  void PutPrompt() {
    std::vector<uint32_t> tokens(kPromptBlocks * shape_.tokens);
    std::iota(tokens.begin(), tokens.end(), 7);
    chain_ = client_->Keys(tokens);
    std::vector<uint16_t> values(shape_.Elements() * kPromptBlocks);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<uint16_t>(0x3e00 + i * 37 % 511 + i % 2 * 0x8000);
    const auto put =
        client_->Put(chain_, ContiguousPages<const uint16_t>(values.data(), shape_, kPromptBlocks * shape_.tokens));
    ASSERT_TRUE(put.ok()) << put.status();
    ASSERT_EQ(put->stored, kPromptBlocks) << put->failure;
    for (const Key& key : chain_) stored_.push_back(Stored(key));
  }
  // The block's bytes, at whichever node has it; none if nobody does.
  std::vector<uint8_t> Stored(const Key& key) {
    for (const auto& channel : channels_) {
      const auto got = testing::GetBlocks(channel.get(), testing::GetRequestFor({key}));
      if (got.ok() && got->headers[0].miss() == v1::MISS_REASON_UNSPECIFIED) {
        return {got->bytes[0].begin(), got->bytes[0].end()};
      }
    }
    ADD_FAILURE() << "nobody has the block";
    return {};
  }

  // What was delivered is right, and what was not is untouched where it must be.
  DeviceGetResult Get() {
    const auto got = reader_->Get(chain_, {0, kPromptBlocks}, tensors_->pages());
    EXPECT_TRUE(got.ok()) << got.status();
    if (!got.ok()) return {};
    EXPECT_EQ(tensors_->Different({0, got->blocks}, kPromptBlocks, stored_), 0u);
    return *got;
  }

  std::string folder_, file_;
  testing::EmulatedDecoder decoder_;  // outlives the streams that its kernels are on
  testing::End worker_;               // on GPU 0
  std::map<std::string, std::unique_ptr<Process>> nodes_;
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::vector<std::unique_ptr<Channel>> channels_;
  BlockShape shape_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<DeviceTensors> tensors_;
  std::unique_ptr<DeviceReader> reader_;
  std::vector<Key> chain_;
  std::vector<std::vector<uint8_t>> stored_;
};

TEST_F(DeviceReaderProcessTest, OnePromptComesByEveryWayAndNodesThatDieCostMissesOnly) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  ASSERT_NO_FATAL_FAILURE(PutPrompt());
  DeviceGetResult got = Get();
  EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
  EXPECT_EQ(got.grpc_blocks, kPromptBlocks) << "nothing is in device memory yet";
  // Each Get is a hit of what a node has on its GPU, or may bring there.
  EXPECT_TRUE(testing::WaitFor(
      [&] {
        got = Get();
        EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
        return got.ipc_blocks > 0 && got.nccl_blocks > 0;
      },
      40))
      << "mapped " << got.ipc_blocks << ", NCCL " << got.nccl_blocks << ", gRPC " << got.grpc_blocks;
  EXPECT_GT(got.grpc_blocks, 0u);
  for (const char* node : {"nccl", "mapped"}) {
    nodes_.at(node)->Signal(SIGKILL);
    ASSERT_EQ(nodes_.at(node)->Wait(10), 128 + SIGKILL);
    got = Get();
    EXPECT_LT(got.blocks, kPromptBlocks);
    EXPECT_EQ(got.miss, v1::MISS_REASON_OWNER_DOWN) << got.why;
  }
}

}  // namespace
}  // namespace kvist
