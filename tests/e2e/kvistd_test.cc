// Goal: kvistd, as a process: wrong flags, taken ports, killed and restarted nodes, SIGTERM under load.
// Method: the real binary on ports chosen by the system, spoken to through the gRPC transport.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "services/cluster/static_file.h"
#include "tests/e2e/process.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using testing::In;
using testing::Process;
using testing::TestBlock;
using testing::TestKey;

const std::string kKvistd = testing::Runfile("services/node/kvistd");

class KvistdTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    file_ = ::testing::TempDir() + name + ".json";
    std::filesystem::remove_all(file_ + ".d");
    std::ofstream(file_) << R"({"view": 3, "nodes": [{"id": "a", "address": "127.0.0.1:0", "capacity": "16MiB"}]})";
  }
  std::unique_ptr<Process> StartNode() {
    std::filesystem::remove_all(file_ + ".d");
    return std::make_unique<Process>(std::vector<std::string>{kKvistd, "--cluster", file_, "--node", "a"});
  }
  std::unique_ptr<Channel> Connect() {
    const View view = *LoadView(file_, In(20), RealRuntime()->clock());
    address_ = view.nodes[0].address;
    return transport_->Connect(address_.ToString());
  }

  std::string file_;
  Address address_;
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
};

TEST_F(KvistdTest, WrongFlagsAreAllNamedAndExitIsTwo) {
  const testing::Ended ended = testing::Run({kKvistd, "--listen", "here", "--capacity", "many", "--what"});
  EXPECT_EQ(ended.exit, 2);
  for (const char* wrong : {"--listen", "here", "--capacity", "many", "--what: unknown flag"})
    EXPECT_THAT(ended.errors, HasSubstr(wrong));
}

TEST_F(KvistdTest, ATakenPortIsNamedAndExitIsOne) {
  const auto node = StartNode();
  Connect();
  const testing::Ended second = testing::Run({kKvistd, "--listen", address_.ToString(), "--capacity", "1MiB"});
  EXPECT_EQ(second.exit, 1);
  EXPECT_THAT(second.errors, HasSubstr("cannot listen on data address " + address_.ToString()));
}

TEST_F(KvistdTest, ServerInfoTellsNodeViewAndLimits) {
  const auto node = StartNode();
  const auto info = Connect()->ServerInfo(In(10));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->node_id(), "a");
  EXPECT_EQ(info->view(), 3);
  EXPECT_EQ(info->store().capacity_bytes(), 16u << 20);
  EXPECT_EQ(info->max_part_bytes(), 1u << 20);
}

// A node was once ready before its data address could be found: a worker then took it as down.
TEST_F(KvistdTest, WhoSeesTheNodeReadyFindsItsDataAddress) {
  for (int start = 0; start < 10; ++start) {
    const auto node = StartNode();
    const std::string http_file = HttpAddressFile(file_, NodeId{"a"});
    Address http;
    ASSERT_TRUE(testing::WaitFor([&] {
      std::string text;
      if (!(std::ifstream(http_file) >> text)) return false;
      http = *ParseAddress(text);
      return testing::HttpGet(http, "/readyz") == "ready\n";
    }));
    EXPECT_TRUE(std::filesystem::exists(AddressFile(file_, NodeId{"a"})));
  }
}

TEST_F(KvistdTest, ANodeThatRestartedEmptyMissesWithAReason) {
  auto node = StartNode();
  auto channel = Connect();
  ASSERT_TRUE(testing::PutBlock(channel.get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
  node->Signal(SIGKILL);
  ASSERT_EQ(node->Wait(10), 128 + SIGKILL);
  EXPECT_FALSE(channel->ServerInfo(In(3)).ok());
  node = StartNode();
  channel = Connect();
  const auto fetched = testing::GetBlocks(channel.get(), testing::GetRequestFor({TestKey(1)}));
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->headers[0].miss(), v1::MISS_REASON_NEVER_STORED);
}

TEST_F(KvistdTest, AStoppedNodeCostsTheCallItsDeadlineAndNoMore) {
  const auto node = StartNode();
  const auto channel = Connect();
  ASSERT_TRUE(channel->ServerInfo(In(10)).ok());
  node->Stop();
  const absl::Time start = absl::Now();
  EXPECT_EQ(channel->ServerInfo(In(1)).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  node->Signal(SIGCONT);
  EXPECT_TRUE(channel->ServerInfo(In(20)).ok());
}

TEST_F(KvistdTest, SigtermUnderLoadEndsEveryCallAndExitsZero) {
  const auto node = StartNode();
  const auto channel = Connect();
  std::atomic<int> stored = 0, wrong = 0;
  std::atomic<bool> refused = false;
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < 2000 && !refused; ++i) {
        Key key = TestKey(static_cast<uint8_t>(w));
        key.bytes[1] = static_cast<uint8_t>(i);
        key.bytes[2] = static_cast<uint8_t>(i >> 8);
        const std::string block = TestBlock(key, 20, i);
        const absl::Status put = testing::PutBlock(channel.get(), key, block);
        if (!put.ok()) {
          refused = true;
          break;
        }
        ++stored;
        const auto fetched = testing::GetBlocks(channel.get(), testing::GetRequestFor({key}));
        const bool hit =
            fetched.ok() && fetched->headers.size() == 1 && fetched->headers[0].miss() == v1::MISS_REASON_UNSPECIFIED;
        if (hit && fetched->bytes[0] != block) ++wrong;
        if (!fetched.ok()) refused = true;
      }
    });
  }
  EXPECT_TRUE(testing::WaitFor([&] { return stored > 50; }, 60));
  node->Signal(SIGTERM);
  EXPECT_EQ(node->Wait(30), 0);
  for (std::thread& writer : writers) writer.join();
  EXPECT_TRUE(refused);
  EXPECT_EQ(wrong, 0);
  EXPECT_THAT(node->Errors(), HasSubstr("\"event\":\"stopped\""));
}

}  // namespace
}  // namespace kvist
