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

TEST(ConfigTest, WhatAccessNeedsAndWhatItDoesNotGoWithIsNamed) {
  const auto with = [](std::vector<const char*> more) {
    more.insert(more.end(), {"--listen", "127.0.0.1:0", "--capacity", "64MiB"});
    return Parse(more);
  };
  const auto good = with({"--access", "a.json", "--tokens", "t", "--access-refresh", "2s", "--peer-token", "p"});
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->config.access.access_file, "a.json");
  EXPECT_EQ(good->config.access.token_file, "t");
  EXPECT_EQ(good->config.access.refresh, absl::Seconds(2));
  EXPECT_EQ(good->config.peer_token_file, "p");
  const auto why_not = [&](std::vector<const char*> more) { return std::string(with(more).status().message()); };
  EXPECT_THAT(why_not({"--tokens", "t"}), HasSubstr("--tokens: needs --access"));
  EXPECT_THAT(why_not({"--access", "a"}), HasSubstr("--access: needs --tls-cert or --tokens"));
  EXPECT_THAT(why_not({"--access", "a", "--tokens", "t", "--nccl", "n", "--device-capacity", "1GiB"}),
              HasSubstr("--nccl: goes not with --access"));
}

TEST(ConfigTest, PlaintextBeyondLoopbackHasToBeMeant) {
  for (const char* address : {"0.0.0.0:7070", "10.0.0.1:7070", "[::]:7070", "127.example:7070"}) {
    const auto refused = Parse({"--listen", address, "--capacity", "64MiB"});
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr("give --tls-cert, --tls-key and --tls-ca, or --insecure if the network is trusted"))
        << address;
    const auto meant = Parse({"--listen", address, "--capacity", "64MiB", "--insecure"});
    ASSERT_TRUE(meant.ok()) << meant.status();
    EXPECT_TRUE(meant->config.insecure);
    const auto secured =
        Parse({"--listen", address, "--capacity", "64MiB", "--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a"});
    ASSERT_TRUE(secured.ok()) << secured.status();
    EXPECT_EQ(secured->config.tls.key_file, "k");
  }
  for (const char* address : {"127.0.0.9:7070", "localhost:7070", "[::1]:7070"}) {
    EXPECT_TRUE(Parse({"--listen", address, "--capacity", "64MiB"}).ok()) << address;
  }
}

TEST(ConfigTest, TlsNeedsAllThreeFilesAndNoInsecure) {
  const auto missing = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB", "--tls-cert", "c"});
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("all three or none"));
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("missing: key CA"));
  const auto both = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB", "--tls-cert", "c", "--tls-key", "k",
                           "--tls-ca", "a", "--insecure", "--tls-refresh", "0s"});
  EXPECT_THAT(std::string(both.status().message()), HasSubstr("--insecure: give it or --tls-cert, not both"));
  EXPECT_THAT(std::string(both.status().message()), HasSubstr("--tls-refresh: '0s' is less than 10ms"));
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

TEST(ConfigTest, AMemberInEtcdIsDescribedWhole) {
  const std::string password = ClusterFile("password", "secret\n");
  const auto flags = Parse({"--etcd",
                            "10.0.0.1:2379,10.0.0.2:2379",
                            "--node",
                            "a",
                            "--listen",
                            "0.0.0.0:7070",
                            "--advertise",
                            "node-a:7070",
                            "--capacity",
                            "1GiB",
                            "--weight",
                            "2.5",
                            "--etcd-user",
                            "kvist",
                            "--etcd-password-file",
                            password.c_str(),
                            "--etcd-ca",
                            "ca.pem",
                            "--cluster-name",
                            "blue",
                            "--join-ramp",
                            "5s",
                            "--join-window",
                            "0s",
                            "--drain-deadline",
                            "1m",
                            "--drain-budget",
                            "64MiB",
                            "--scrub-rate",
                            "0",
                            "--insecure"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  const NodeConfig& config = flags->config;
  EXPECT_EQ(config.etcd.endpoints, (std::vector<std::string>{"10.0.0.1:2379", "10.0.0.2:2379"}));
  EXPECT_EQ(config.etcd.user + config.etcd.password + config.etcd.ca_file + config.etcd.cluster,
            "kvistsecretca.pemblue");
  EXPECT_EQ(config.id.value, "a");
  EXPECT_EQ(config.advertise.ToString(), "node-a:7070");
  EXPECT_EQ(config.weight, 2.5);
  EXPECT_EQ(config.join_ramp, absl::Seconds(5));
  EXPECT_EQ(config.join_window, absl::ZeroDuration());
  EXPECT_EQ(config.drain_deadline, absl::Minutes(1));
  EXPECT_EQ(config.drain_budget_bytes, 64u << 20);
  EXPECT_EQ(config.scrub_rate, 0);
}

TEST(ConfigTest, WrongMembersAreNamed) {
  const auto flags = Parse({"--etcd", "10.0.0.1", "--listen", "0.0.0.0:7070", "--capacity", "1GiB", "--etcd-user",
                            "kvist", "--etcd-cert", "c.pem", "--weight", "-1", "--cluster", "c.json"});
  ASSERT_FALSE(flags.ok());
  for (const char* wrong :
       {"--node: needed with --etcd", "--etcd: the members stand in --cluster or in --etcd", "\"10.0.0.1\"",
        "--etcd-user: goes with --etcd-password-file", "--etcd-cert: goes with --etcd-key", "needs --etcd-ca",
        "--advertise: needed with --listen 0.0.0.0:7070", "--weight: '-1'", "--node: needed with --cluster"}) {
    EXPECT_THAT(std::string(flags.status().message()), HasSubstr(wrong));
  }
}

TEST(ConfigTest, ProfilesHaveAFolderAndABound) {
  const auto plain = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB"});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->config.profiles.capacity_bytes, 256u << 20);
  EXPECT_EQ(plain->config.profiles.folder, "");
  const auto flags = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB", "--profiles", "/var/lib/kvist/profiles",
                            "--profile-capacity", "32MiB"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->config.profiles.capacity_bytes, 32u << 20);
  EXPECT_EQ(flags->config.profiles.folder, "/var/lib/kvist/profiles");
  EXPECT_FALSE(Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB", "--profile-capacity", "much"}).ok());
}

TEST(ConfigTest, LimitsAreSetAndBounded) {
  const auto flags = Parse({"--listen",         "127.0.0.1:0", "--capacity",        "64MiB", "--max-gets",     "7",
                            "--max-queued",     "1MiB",        "--max-puts",        "8",     "--max-matches",  "9",
                            "--max-pinned",     "0.1",         "--max-reserved",    "1",     "--read-stall",   "2s",
                            "--min-read-rate",  "0",           "--write-stall",     "3s",    "--max-explains", "3",
                            "--min-write-rate", "1KiB",        "--max-connections", "77",    "--slow-call",    "3s"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  const AdmissionLimits& limits = flags->config.admission;
  EXPECT_EQ(limits.gets, 7);
  EXPECT_EQ(limits.queued_bytes, 1 << 20);
  EXPECT_EQ(limits.puts, 8);
  EXPECT_EQ(limits.matches, 9);
  EXPECT_EQ(limits.explains, 3);
  EXPECT_EQ(limits.pinned_fraction, 0.1);
  EXPECT_EQ(limits.reserved_fraction, 1);
  EXPECT_EQ(limits.read_stall, absl::Seconds(2));
  EXPECT_EQ(limits.min_read_rate, 0);
  EXPECT_EQ(limits.min_write_rate, 1 << 10);
  EXPECT_EQ(flags->config.max_connections, 77);
  EXPECT_EQ(flags->config.slow_call, absl::Seconds(3));
  EXPECT_EQ(limits.write_stall, absl::Seconds(3));
  const auto wrong = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB", "--max-gets", "0", "--max-pinned", "2",
                            "--max-queued", "lots", "--read-stall", "1h"});
  ASSERT_FALSE(wrong.ok());
  for (const char* part : {"--max-gets: '0'", "--max-pinned: '2' is no number of 0 to 1",
                           "--max-queued: ", "--read-stall: '1h' is no duration of 0s to 10m"}) {
    EXPECT_THAT(std::string(wrong.status().message()), HasSubstr(part));
  }
}

TEST(ConfigTest, WithoutFlagsTheLimitsAreThoseOfTheStruct) {
  const auto flags = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  const AdmissionLimits expected, &parsed = flags->config.admission;
  EXPECT_EQ(parsed.gets, expected.gets);
  EXPECT_EQ(parsed.queued_bytes, expected.queued_bytes);
  EXPECT_EQ(parsed.puts, expected.puts);
  EXPECT_EQ(parsed.matches, expected.matches);
  EXPECT_EQ(parsed.explains, expected.explains);
  EXPECT_EQ(parsed.pinned_fraction, expected.pinned_fraction);
  EXPECT_EQ(parsed.reserved_fraction, expected.reserved_fraction);
  EXPECT_EQ(parsed.read_stall, expected.read_stall);
  EXPECT_EQ(parsed.min_read_rate, expected.min_read_rate);
  EXPECT_EQ(parsed.min_write_rate, expected.min_write_rate);
  EXPECT_EQ(flags->config.max_connections, NodeConfig().max_connections);
  EXPECT_EQ(flags->config.slow_call, NodeConfig().slow_call);
  EXPECT_EQ(parsed.write_stall, expected.write_stall);
  EXPECT_EQ(flags->config.scrub_rate, NodeConfig().scrub_rate);
  EXPECT_EQ(flags->config.drain_deadline, NodeConfig().drain_deadline);
  EXPECT_FALSE(flags->config.enable_test_faults);
}

TEST(ConfigTest, HelpAndVersionPrintAndExit) {
  const auto help = Parse({"--help"});
  ASSERT_TRUE(help.ok());
  EXPECT_THAT(help->print_and_exit, HasSubstr("--cluster"));
  const auto version = Parse({"--version"});
  ASSERT_TRUE(version.ok());
  EXPECT_THAT(version->print_and_exit, HasSubstr("kvistd 0."));
}

TEST(ConfigTest, TheDeviceTierIsOffUnlessItHasACapacity) {
  const auto off = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB"});
  ASSERT_TRUE(off.ok()) << off.status();
  EXPECT_EQ(off->config.device.capacity_bytes, 0u);
  const auto on =
      Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB", "--device-capacity", "2GiB", "--device", "1",
             "--device-staging", "16MiB", "--device-socket", "/run/kvist/gpu.sock", "--nccl", "libnccl.so.2"});
  ASSERT_TRUE(on.ok()) << on.status();
  const DeviceConfig& device = on->config.device;
  EXPECT_EQ(device.capacity_bytes, uint64_t{2} << 30);
  EXPECT_EQ(device.ordinal, 1);
  EXPECT_EQ(device.staging_bytes, 16u << 20);
  EXPECT_EQ(device.ipc_socket, "/run/kvist/gpu.sock");
  EXPECT_EQ(device.nccl_library, "libnccl.so.2");
}

TEST(ConfigTest, WaysToADeviceTierThatIsNotThereAndNoOrdinalsAreNamed) {
  const auto flags = Parse({"--listen", "127.0.0.1:0", "--capacity", "64MiB", "--device", "first", "--device-socket",
                            "/run/gpu.sock", "--nccl", "libnccl.so.2"});
  ASSERT_TRUE(absl::IsInvalidArgument(flags.status())) << flags.status();
  for (const char* sentence : {"--device: 'first' is no number of 0 to 127", "--device-socket: needs --device-capacity",
                               "--nccl: needs --device-capacity"}) {
    EXPECT_THAT(std::string(flags.status().message()), HasSubstr(sentence));
  }
}

}  // namespace
}  // namespace kvist
