// Goal: three nodes and a real etcd are one cluster for somebody who knows only the command line: nodes join, are
// drained, are killed and come back, and every answer is the right bytes or a miss with its reason. Method: real kvistd
// and kvist processes, a real etcd, ports chosen by the system; what nodes did is read from their logs, ports and exit
// statuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "services/cluster/view.h"
#include "tests/e2e/process.h"
#include "tests/services/testing/etcd_process.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::Process;
using testing::WaitFor;

constexpr int kTokensPerBlock = 16, kBlocks = 40;

class ClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/cluster." + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    Write("ns.json", json{{"model", "m"},
                          {"dtype", "bf16"},
                          {"layers", 2},
                          {"heads", 1},
                          {"head_dim", 64},
                          {"tokens_per_block", kTokensPerBlock}}
                         .dump());
    json tokens = json::array();
    for (int i = 0; i < kTokensPerBlock * kBlocks; ++i) tokens.push_back(i * 7 % 1000);
    Write("tokens.json", tokens.dump());
    std::string kv(size_t{2} * 2 * 64 * 2 * kTokensPerBlock * kBlocks, '\0');
    for (size_t i = 0; i < kv.size(); i += 2) {
      kv[i] = static_cast<char>(i * 31 + i / 511);
      kv[i + 1] = 0x3e;
    }
    Write("kv.bin", kv);
  }

  std::string Path(const std::string& name) { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) { std::ofstream(Path(name), std::ios::binary) << text; }
  std::string ReadBack(const std::string& name) {
    std::ostringstream text;
    text << std::ifstream(Path(name), std::ios::binary).rdbuf();
    return text.str();
  }

  void StartNode(const std::string& id, std::vector<std::string> more = {}) {
    std::vector<std::string> command = {testing::Runfile("services/node/kvistd"),
                                        "--etcd",
                                        etcd_.client_address().ToString(),
                                        "--node",
                                        id,
                                        "--listen",
                                        "127.0.0.1:0",
                                        "--http",
                                        "127.0.0.1:0",
                                        "--capacity",
                                        "8MiB",
                                        "--join-ramp",
                                        "2s",
                                        "--join-window",
                                        "1s"};
    command.insert(command.end(), more.begin(), more.end());
    nodes_[id] = std::make_unique<Process>(command);
  }
  // The value of `field` in the node's "serving" line; "" while there is none.
  std::string Logged(const std::string& id, const std::string& field) {
    std::istringstream lines(nodes_[id]->Errors());
    for (std::string line; std::getline(lines, line);) {
      const json entry = json::parse(line, nullptr, false);
      if (entry.is_object() && entry.value("event", "") == "serving") return entry.value(field, "");
    }
    return "";
  }
  bool Ready(const std::string& id) {
    const absl::StatusOr<Address> http = ParseAddress(Logged(id, "http"));
    return http.ok() && testing::HttpGet(*http, "/readyz") == "ready\n";
  }
  // Starts n1, n2 and n3 and waits until all of them serve.
  void StartThree() {
    for (const char* id : {"n1", "n2", "n3"}) {
      StartNode(id);
      ASSERT_TRUE(WaitFor([&] { return Ready(id); }, 30)) << nodes_[id]->Errors();
    }
    ASSERT_TRUE(WaitFor([&] { return Serving() == 3; }, 30)) << Kvist({"stats", "--json"}).output;
  }
  int Serving() {
    int serving = 0;
    for (const json& node : json::parse(Kvist({"stats", "--json"}).output, nullptr, false)) {
      serving += node.is_object() && node.value("state", "") == "serving";
    }
    return serving;
  }

  testing::Ended Kvist(std::vector<std::string> words, const std::string& through = "n1") {
    words.insert(words.begin(), testing::Runfile("services/ctl/kvist"));
    words.insert(words.end(), {"--node", Logged(through, "address")});
    return testing::Run(words, 60);
  }
  json OnPrompt(std::vector<std::string> words, const std::string& through = "n1") {
    words.insert(words.end(), {"--namespace", Path("ns.json"), "--tokens", Path("tokens.json"), "--json"});
    const testing::Ended ended = Kvist(words, through);
    EXPECT_EQ(ended.exit, 0) << ended.errors;
    return json::parse(ended.output, nullptr, false);
  }
  json Put() { return OnPrompt({"put", "--kv", Path("kv.bin"), "--codec", "raw16"}); }
  // Fetches what there is; the bytes of every block that came are compared.
  json Get(const std::string& through = "n1") {
    json got = OnPrompt({"get", "--kv", Path("out.bin")}, through);
    const std::string in = ReadBack("kv.bin"), out = ReadBack("out.bin");
    const size_t tokens = got.value("tokens", 0), row = 64 * 2;  // bytes of a token in one (K or V, layer)
    for (size_t plane = 0; plane < 4; ++plane) {
      EXPECT_EQ(in.substr(plane * kTokensPerBlock * kBlocks * row, tokens * row),
                out.substr(plane * tokens * row, tokens * row));
    }
    return got;
  }

  std::string folder_;
  testing::EtcdProcess etcd_;
  std::map<std::string, std::unique_ptr<Process>> nodes_;
};

TEST_F(ClusterTest, AnyNodesAddressIsEnoughToPutAndGet) {
  StartThree();
  EXPECT_EQ(Put()["stored"], kBlocks);
  for (const char* through : {"n1", "n2", "n3"}) EXPECT_EQ(Get(through)["blocks"], kBlocks);
}

TEST_F(ClusterTest, ADrainedNodeHandsOverLeavesAndEnds) {
  StartThree();
  ASSERT_EQ(Put()["stored"], kBlocks);
  const testing::Ended drained = Kvist({"drain", "n2", "--json"});
  EXPECT_EQ(drained.exit, 0) << drained.errors;
  EXPECT_THAT(drained.output, HasSubstr("\"phase\":\"left\""));
  EXPECT_EQ(nodes_["n2"]->Wait(30), 0);
  EXPECT_TRUE(WaitFor([&] { return Serving() == 2; }));
  EXPECT_EQ(Get()["blocks"], kBlocks);
}

TEST_F(ClusterTest, SigtermDrainsToo) {
  StartThree();
  ASSERT_EQ(Put()["stored"], kBlocks);
  nodes_["n3"]->Signal(SIGTERM);
  EXPECT_EQ(nodes_["n3"]->Wait(60), 0);
  EXPECT_EQ(Get()["blocks"], kBlocks);
}

TEST_F(ClusterTest, AKilledNodesBlocksAreMissesThatSayWhoAndWhy) {
  StartThree();
  ASSERT_EQ(Put()["stored"], kBlocks);
  nodes_["n2"]->Signal(SIGKILL);
  const json explained = OnPrompt({"explain"});
  size_t present = 0, down = 0;
  for (const json& block : explained["blocks"]) {
    present += block["miss_reason"] == "";
    down += block["miss_reason"] == "owner_down" && block["node"] == "n2";
  }
  EXPECT_GT(down, 0u);
  EXPECT_EQ(present + down, kBlocks) << explained.dump(1);
  const json got = Get();
  EXPECT_EQ(got["miss_reason"], "owner_down");
  EXPECT_EQ(got["miss_node"], "n2");
}

TEST_F(ClusterTest, ASecondNodeOfTheSameIdStaysOutsideAndSaysWhoHasIt) {
  StartNode("n1");
  ASSERT_TRUE(WaitFor([&] { return Ready("n1"); }, 30)) << nodes_["n1"]->Errors();
  const std::string address = Logged("n1", "address");
  Process second({testing::Runfile("services/node/kvistd"), "--etcd", etcd_.client_address().ToString(), "--node", "n1",
                  "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--capacity", "1MiB"});
  EXPECT_TRUE(
      WaitFor([&] { return second.Errors().find("is taken by a node at " + address) != std::string::npos; }, 40))
      << second.Errors();
  EXPECT_TRUE(Ready("n1"));
  EXPECT_EQ(Logged("n1", "address"), address);
}

TEST_F(ClusterTest, ANodeWithoutEtcdSaysSoAndIsNotReadyUntilItComes) {
  etcd_.Kill();
  StartNode("n1");
  absl::StatusOr<Address> http;
  ASSERT_TRUE(WaitFor([&] {
    http = ParseAddress(Logged("n1", "http"));
    return http.ok();
  }));
  EXPECT_TRUE(WaitFor([&] {
    return testing::HttpGet(*http, "/readyz").find(etcd_.client_address().ToString()) != std::string::npos;
  })) << testing::HttpGet(*http, "/readyz");
  etcd_.Restart();
  EXPECT_TRUE(WaitFor([&] { return Ready("n1"); }, 30)) << nodes_["n1"]->Errors();
}

TEST_F(ClusterTest, ADeadEtcdChangesNothingForReadsAndWrites) {
  StartThree();
  etcd_.Kill();
  EXPECT_EQ(Put()["stored"], kBlocks);
  EXPECT_EQ(Get("n3")["blocks"], kBlocks);
}

}  // namespace
}  // namespace kvist
