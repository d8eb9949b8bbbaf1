// Goal: kvistd's flags become one validated struct, or a sentence for every wrong one of them.
// Method: ParseFlags on command lines and on cluster files written to the test's folder.
#include "services/node/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

namespace kvist {
namespace {

using testing::HasSubstr;

absl::StatusOr<ParsedFlags> Parse(std::vector<const char*> flags) {
  flags.insert(flags.begin(), "kvistd");
  return ParseFlags(static_cast<int>(flags.size()), flags.data());
}

std::string ClusterFile(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + name;
  std::ofstream(path) << text;
  return path;
}

TEST(ConfigTest, ANodeByItselfNeedsAnAddressAndACapacity) {
  const auto flags = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB", "--drain", "3s"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->config.capacity_bytes, 64u << 20);
  EXPECT_EQ(flags->config.listen.ToString(), "127.0.0.1:0");
  EXPECT_EQ(flags->config.drain, absl::Seconds(3));
  EXPECT_EQ(flags->config.view.value, 0);
}

TEST(ConfigTest, AllWrongFlagsAreNamedAtOnce) {
  const auto flags = Parse({"--listen", "nowhere", "--capacity", "lots", "--http", "x:99999", "--max-lease", "soon",
                            "--drain", "2h", "--log-level", "loud", "--colour", "green"});
  ASSERT_FALSE(flags.ok());
  const std::string message(flags.status().message());
  for (const char* wrong :
       {"--listen: ", "nowhere", "--capacity: ", "lots", "--http: ", "--max-lease: 'soon'", "--drain: '2h'",
        "0s to 30m", "--log-level: ", "'loud'", "debug, info, warning or error", "--colour: unknown flag"}) {
    EXPECT_THAT(message, HasSubstr(wrong));
  }
}

TEST(ConfigTest, WithoutAClusterFileMissingFlagsAreNamed) {
  const auto flags = Parse({});
  ASSERT_FALSE(flags.ok());
  EXPECT_THAT(std::string(flags.status().message()), HasSubstr("--listen: needed without --cluster"));
  EXPECT_THAT(std::string(flags.status().message()), HasSubstr("--capacity: needed without --cluster"));
}

TEST(ConfigTest, TheClusterFileSaysAddressCapacityAndView) {
  const std::string file = ClusterFile("good.json", R"({"view": 7, "nodes": [
      {"id": "a", "address": "127.0.0.1:0", "capacity": "32MiB"}, {"id": "b", "address": "127.0.0.1:4000", "capacity": "1GiB"}]})");
  const auto flags = Parse({"--cluster", file.c_str(), "--node", "b"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->config.view.value, 7);
  EXPECT_EQ(flags->config.listen.ToString(), "127.0.0.1:4000");
  EXPECT_EQ(flags->config.capacity_bytes, 1u << 30);
}

TEST(ConfigTest, ANodeThatTheFileDoesNotNameIsToldWhichThereAre) {
  const std::string file =
      ClusterFile("other.json", R"({"view": 1, "nodes": [{"id": "a", "address": "127.0.0.1:0", "capacity": 4096}]})");
  const auto flags = Parse({"--cluster", file.c_str(), "--node", "z"});
  ASSERT_FALSE(flags.ok());
  EXPECT_THAT(std::string(flags.status().message()), HasSubstr("'z' is not in"));
  EXPECT_THAT(std::string(flags.status().message()), HasSubstr("which names a"));
}

TEST(ConfigTest, AViewThatNamesANodeTwiceIsRefused) {
  const std::string file = ClusterFile("twice.json", R"({"view": 1, "nodes": [
      {"id": "a", "address": "127.0.0.1:0", "capacity": 4096}, {"id": "a", "address": "127.0.0.1:0", "capacity": 4096}]})");
  const auto flags = Parse({"--cluster", file.c_str(), "--node", "a"});
  ASSERT_FALSE(flags.ok());
  EXPECT_THAT(std::string(flags.status().message()), HasSubstr("twice"));
}

TEST(ConfigTest, HelpAndVersionPrintAndExit) {
  const auto help = Parse({"--help"});
  ASSERT_TRUE(help.ok());
  EXPECT_THAT(help->print_and_exit, HasSubstr("--cluster"));
  const auto version = Parse({"--version"});
  ASSERT_TRUE(version.ok());
  EXPECT_THAT(version->print_and_exit, HasSubstr("kvistd 0."));
}

}  // namespace
}  // namespace kvist
