// A cluster as its operator has it: kvistd processes that find each other through a real etcd, spoken to by the command
// line. What every such test stores is one prompt of kBlocks blocks, whose bytes are compared whenever they come back.
#ifndef KVIST_TESTS_E2E_CLUSTER_FIXTURE_H_
#define KVIST_TESTS_E2E_CLUSTER_FIXTURE_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "services/cluster/view.h"
#include "tests/e2e/process.h"
#include "tests/services/testing/etcd_process.h"
#include "tests/services/testing/loopback.h"

namespace kvist::testing {

inline constexpr int kTokensPerBlock = 16, kBlocks = 40;

class ClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/cluster." + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    Write("ns.json", nlohmann::json{{"model", "m"},
                                    {"dtype", "bf16"},
                                    {"layers", 2},
                                    {"heads", 1},
                                    {"head_dim", 64},
                                    {"tokens_per_block", kTokensPerBlock}}
                         .dump());
    nlohmann::json tokens = nlohmann::json::array();
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
    std::vector<std::string> command = {Runfile("services/node/kvistd"),
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
    command.insert(command.end(), node_flags_.begin(), node_flags_.end());
    command.insert(command.end(), more.begin(), more.end());
    nodes_[id] = std::make_unique<Process>(command);
  }
  // The value of `field` in the node's "serving" line; "" while there is none.
  std::string Logged(const std::string& id, const std::string& field) {
    std::istringstream lines(nodes_[id]->Errors());
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
      if (entry.is_object() && entry.value("event", "") == "serving") return entry.value(field, "");
    }
    return "";
  }
  bool Ready(const std::string& id) {
    const absl::StatusOr<Address> http = ParseAddress(Logged(id, "http"));
    return http.ok() && HttpGet(*http, "/readyz") == "ready\n";
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
    for (const nlohmann::json& node : nlohmann::json::parse(Kvist({"stats", "--json"}).output, nullptr, false)) {
      serving += node.is_object() && node.value("state", "") == "serving";
    }
    return serving;
  }

  Ended Kvist(std::vector<std::string> words, const std::string& through = "n1") {
    words.insert(words.begin(), Runfile("services/ctl/kvist"));
    words.insert(words.end(), {"--node", Logged(through, "address")});
    words.insert(words.end(), kvist_flags_.begin(), kvist_flags_.end());
    return testing::Run(words, 60);
  }
  nlohmann::json OnPrompt(std::vector<std::string> words, const std::string& through = "n1") {
    words.insert(words.end(), {"--namespace", Path("ns.json"), "--tokens", Path("tokens.json"), "--json"});
    const Ended ended = Kvist(words, through);
    EXPECT_EQ(ended.exit, 0) << ended.errors;
    return nlohmann::json::parse(ended.output, nullptr, false);
  }
  nlohmann::json Put() { return OnPrompt({"put", "--kv", Path("kv.bin"), "--codec", "raw16"}); }
  // Fetches what there is; the bytes of every block that came are compared.
  nlohmann::json Get(const std::string& through = "n1", int replicas = 1) {
    const std::string copies = std::to_string(replicas);
    nlohmann::json got = OnPrompt({"get", "--kv", Path("out.bin"), "--replicas", copies}, through);
    const std::string in = ReadBack("kv.bin"), out = ReadBack("out.bin");
    const size_t tokens = got.value("tokens", 0), row = 64 * 2;  // bytes of a token in one (K or V, layer)
    for (size_t plane = 0; plane < 4; ++plane) {
      EXPECT_EQ(in.substr(plane * kTokensPerBlock * kBlocks * row, tokens * row),
                out.substr(plane * tokens * row, tokens * row));
    }
    return got;
  }

  std::string folder_;
  std::vector<std::string> node_flags_, kvist_flags_;  // of every kvistd, of every kvist
  EtcdProcess etcd_;
  std::map<std::string, std::unique_ptr<Process>> nodes_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_E2E_CLUSTER_FIXTURE_H_
