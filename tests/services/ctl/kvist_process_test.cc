// Goal: `kvist` is fit for scripts: exit 0 when done (a miss is an answer), 1 for a fault, 2 for wrong flags. Method:
// the real program against a real node in this process, found through the address that it publishes beside the cluster
// file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_split.h"
#include "services/access/access_config.h"
#include "services/node/node.h"
#include "tests/e2e/process.h"

namespace kvist {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class KvistProcessTest : public ::testing::Test {
 protected:
  KvistProcessTest() {
    folder_ =
        ::testing::TempDir() + "/kvist_process." + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::ofstream(Path("cluster.json"))
        << R"({"view": 1, "nodes": [{"id": "n0", "address": "127.0.0.1:0", "capacity": "8MiB"}]})";
    std::ofstream(Path("ns.json")) << R"({"model": "m", "dtype": "bf16", "layers": 2, "heads": 1, "head_dim": 64,
                                          "tokens_per_block": 16})";
    std::ofstream(Path("tokens.json")) << json(std::vector<int>(40, 7)).dump();
    std::ofstream(Path("kv.bin"), std::ios::binary) << std::string(size_t{2} * 2 * 64 * 40 * 2, '\x3f');
  }

  void StartNode() {
    NodeConfig config;
    config.id.value = "n0";
    config.view.value = 1;
    config.cluster_file = Path("cluster.json");
    config.listen = config.http = Address{"127.0.0.1", 0};
    config.capacity_bytes = 8 << 20;
    config.prefault = false;
    auto node = NodeServer::Start(config);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
  }
  std::string Path(const std::string& name) { return folder_ + "/" + name; }
  testing::Ended Kvist(std::vector<std::string> words) {
    words.insert(words.begin(), testing::Runfile("services/ctl/kvist"));
    return testing::Run(words);
  }
  testing::Ended OnPrompt(std::vector<std::string> words) {
    words.insert(words.end(),
                 {"--cluster", Path("cluster.json"), "--namespace", Path("ns.json"), "--tokens", Path("tokens.json")});
    return Kvist(words);
  }

  std::string folder_;
  std::unique_ptr<NodeServer> node_;
};

TEST_F(KvistProcessTest, AllWrongFlagsAreNamedAndExitIsTwo) {
  const testing::Ended ended = Kvist({"get", "--deadline", "never", "--colour"});
  EXPECT_EQ(ended.exit, 2);
  for (const char* part : {"kvist: wrong flags", "--colour: unknown", "--cluster or --node: needed", "--kv: needed",
                           "--deadline: 'never'"}) {
    EXPECT_THAT(ended.errors, HasSubstr(part));
  }
}

TEST_F(KvistProcessTest, AClusterWithoutNodesIsAFaultAndExitIsOne) {
  const testing::Ended ended = Kvist({"stats", "--cluster", Path("cluster.json"), "--deadline", "50ms"});
  EXPECT_EQ(ended.exit, 1);
  EXPECT_THAT(ended.errors, HasSubstr("n0.address: is kvistd running for this node?"));
}

TEST_F(KvistProcessTest, APromptGoesInIsFoundComesBackAndIsErased) {
  StartNode();
  testing::Ended ended = OnPrompt({"match", "--json"});
  EXPECT_EQ(ended.exit, 0) << ended.errors;  // a miss is an answer
  EXPECT_EQ(json::parse(ended.output)["miss_reason"], "never_stored");
  ended = OnPrompt({"put", "--kv", Path("kv.bin"), "--codec", "raw16"});
  EXPECT_EQ(ended.exit, 0) << ended.errors;
  EXPECT_THAT(ended.output, HasSubstr("stored          2\n"));
  ended = OnPrompt({"get", "--kv", Path("out.bin"), "--json"});
  EXPECT_EQ(ended.exit, 0) << ended.errors;
  EXPECT_EQ(json::parse(ended.output)["tokens"], 32);
  EXPECT_EQ(std::filesystem::file_size(Path("out.bin")), size_t{2} * 2 * 64 * 32 * 2);
  ended = Kvist({"stats", "--cluster", Path("cluster.json"), "--json"});
  EXPECT_EQ(ended.exit, 0) << ended.errors;
  EXPECT_EQ(json::parse(ended.output)[0]["blocks"], 2);
  ended = OnPrompt({"erase", "--json"});
  EXPECT_EQ(ended.exit, 0) << ended.errors;
  EXPECT_EQ(json::parse(ended.output)["erased"], 2);
}

// Each time another, and the line is what the nodes' token file takes.
TEST_F(KvistProcessTest, ATokenIsMadeWithItsLine) {
  const testing::Ended one = Kvist({"token", "ci"}), other = Kvist({"token", "ci"});
  ASSERT_EQ(one.exit, 0) << one.errors;
  EXPECT_NE(one.output, other.output);
  std::vector<std::string> lines = absl::StrSplit(one.output, '\n');
  ASSERT_EQ(lines.size(), 5u);
  const auto tokens = ParseTokens(lines[3]);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->at(HashToken(lines[1])), "ci");
  EXPECT_EQ(Kvist({"token"}).exit, 2);
  EXPECT_THAT(Kvist({"token", "a b"}).errors, HasSubstr("a token's name has"));
}

// The package lies beside the program in the runfiles; what follows is Python's own, its exit too.
TEST_F(KvistProcessTest, EvalAndCalibrateGiveWayToThePythonPackage) {
  ::setenv("KVIST_PYTHON", "python3", 1);
  const testing::Ended eval = Kvist({"eval", "--help"}), calibrate = Kvist({"calibrate", "--help"});
  ::unsetenv("KVIST_PYTHON");
  // Their own words, whether this python3 has numpy or not.
  const auto lacks = HasSubstr("lacks numpy: pip install numpy");
  EXPECT_THAT(eval.output + eval.errors, ::testing::AnyOf(HasSubstr("--through-node"), lacks));
  EXPECT_THAT(calibrate.output + calibrate.errors, ::testing::AnyOf(HasSubstr("--registers"), lacks));
}

TEST_F(KvistProcessTest, EvalWithoutAnInterpreterSaysWhatToInstall) {
  ::setenv("KVIST_PYTHON", "/nowhere/python3", 1);
  const testing::Ended ended = Kvist({"eval"});
  ::unsetenv("KVIST_PYTHON");
  EXPECT_EQ(ended.exit, 1);
  EXPECT_THAT(ended.errors, HasSubstr("'/nowhere/python3' cannot be run: No such file or directory"));
  EXPECT_THAT(ended.errors, HasSubstr("install python3 and numpy"));
}

// A program that was copied away from its tree, under a python3 without the package.
TEST_F(KvistProcessTest, EvalWithoutThePackageSaysWhatToInstall) {
  std::filesystem::copy(testing::Runfile("services/ctl/kvist"), Path("kvist"));
  ::setenv("KVIST_PYTHON", "/usr/bin/python3", 1);
  const testing::Ended ended = testing::Run({Path("kvist"), "eval"});
  ::unsetenv("KVIST_PYTHON");
  EXPECT_EQ(ended.exit, 1);
  EXPECT_THAT(ended.errors, HasSubstr("kvist eval: /usr/bin/python3 has no Python package kvist"));
}

TEST_F(KvistProcessTest, TopShowsARealNode) {
  StartNode();
  ASSERT_EQ(OnPrompt({"put", "--kv", Path("kv.bin"), "--codec", "raw16"}).exit, 0);
  const testing::Ended ended = Kvist({"top", "--once", "--interval", "100ms", "--cluster", Path("cluster.json")});
  EXPECT_EQ(ended.exit, 0) << ended.errors;
  EXPECT_THAT(ended.output, HasSubstr("1 of 1 nodes answer"));
  EXPECT_THAT(ended.output, ::testing::ContainsRegex("n0 +serving +2 +\\[-+\\]"));
}

}  // namespace
}  // namespace kvist
