// Goal: kvistd's sockets over a node: what others are told, why it is not ready, and faults only when asked for.
// Method: real nodes on loopback; etcd is an address where nobody listens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <fstream>
#include <string>

#include "services/node/node.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using testing::TestKey;

std::string Flip(const NodeServer& node, const std::string& query) {
  const auto result = httplib::Client("http://" + node.http_address().ToString()).Post(("/test/flip?" + query).c_str());
  return result ? std::to_string(result->status) + " " + result->body : "no answer";
}

TEST(NodeTest, WithoutEtcdItServesNobodysShareSaysSoAndStopsQuickly) {
  NodeConfig config = testing::TestConfig(1 << 20);
  config.etcd.endpoints = {"127.0.0.1:1"};
  const auto node = testing::StartNode(config);
  EXPECT_TRUE(testing::WaitFor(
      [&] { return testing::HttpGet(node->http_address(), "/readyz").find("127.0.0.1:1") != std::string::npos; }));
  EXPECT_THAT(testing::HttpGet(node->http_address(), "/readyz"), HasSubstr("not ready: no member of the cluster yet"));
  EXPECT_EQ(testing::HttpGet(node->http_address(), "/healthz"), "ok\n");
  const absl::Time start = absl::Now();
  node->Stop();
  EXPECT_LT(absl::Now() - start, absl::Seconds(9));
}

TEST(NodeTest, AnAddressThatResolvesToNothingIsNamed) {
  NodeConfig config = testing::TestConfig(1 << 20);
  config.advertise = {"no-such-host.invalid", 0};
  const auto node = NodeServer::Start(config);
  ASSERT_FALSE(node.ok());
  EXPECT_THAT(std::string(node.status().message()), HasSubstr("no-such-host.invalid:"));
  EXPECT_THAT(std::string(node.status().message()), HasSubstr("resolves to nothing"));
}

TEST(NodeTest, ASecondNodeOfOneIdIsRefusedAndToldWhoHasIt) {
  NodeConfig config = testing::TestConfig(1 << 20);
  config.id.value = "n0";
  config.cluster_file = ::testing::TempDir() + "/two_of_one_id.json";
  std::ofstream(config.cluster_file)
      << R"({"view": 1, "nodes": [{"id": "n0", "address": "127.0.0.1:0", "capacity": "1MiB"}]})";
  auto first = testing::StartNode(config);
  const auto second = NodeServer::Start(config);
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("node \"n0\" of " + config.cluster_file + " runs already"));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("serves at " + first->data_address().ToString()));
  EXPECT_TRUE(testing::WaitFor([&] { return testing::HttpGet(first->http_address(), "/readyz") == "ready\n"; }));
  first = nullptr;
  EXPECT_TRUE(NodeServer::Start(config).ok());
}

TEST(NodeTest, APeerWhoseAddressResolvesToNothingCostsItsCopiesAndNothingElse) {
  NodeConfig config = testing::TestConfig(8 << 20);
  config.id.value = "n0";
  config.cluster_file = ::testing::TempDir() + "/unresolvable.json";
  std::ofstream(config.cluster_file) << R"({"view": 1, "nodes": [
      {"id": "n0", "address": "127.0.0.1:0", "capacity": "8MiB"},
      {"id": "n1", "address": "no-such-host.invalid:7070", "capacity": "8MiB"}]})";
  const auto node = testing::StartNode(config);
  const auto transport = NewGrpcTransport();
  const auto channel = transport->Connect(node->data_address().ToString());
  for (uint8_t i = 1; i <= 4; ++i) {
    const std::string block = testing::TestBlock(TestKey(i), 10, i);
    v1::PutReserve reserve = testing::ReserveFor(TestKey(i), block.size());
    reserve.set_replicas(2);
    auto put = channel->Put(reserve, testing::In(10));
    ASSERT_TRUE(put.ok()) << put.status();
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(block.data()), block.size());
    ASSERT_TRUE((*put)->Write(0, bytes).ok());
    ASSERT_TRUE((*put)->Commit(block.size()).ok());
  }
  const auto failed = [&] {
    const std::string metrics = testing::HttpGet(node->http_address(), "/metrics");
    const size_t at = metrics.find("\nkvist_copies_failed_total ");
    return at == std::string::npos ? 0 : std::stoi(metrics.substr(at + 27));
  };
  EXPECT_TRUE(testing::WaitFor([&] { return failed() >= 4; }, 60)) << failed();
  EXPECT_EQ(testing::HttpGet(node->http_address(), "/readyz"), "ready\n");
  const auto got = testing::GetBlocks(channel.get(), testing::GetRequestFor({TestKey(1), TestKey(4)}));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->bytes[1], testing::TestBlock(TestKey(4), 10, 4));
}

TEST(NodeTest, BitsAreFlippedOnlyWithTestFaultsAndTheScrubFindsThem) {
  const auto sound = testing::StartNode(1 << 20);
  EXPECT_THAT(Flip(*sound, "blocks=1&seed=1"), HasSubstr("404"));
  NodeConfig config = testing::TestConfig(8 << 20);
  config.enable_test_faults = true;
  config.scrub_pause = absl::Milliseconds(200);
  config.scrub_rate = uint64_t{1} << 40;
  const auto node = testing::StartNode(config);
  const auto transport = NewGrpcTransport();
  const auto channel = transport->Connect(node->data_address().ToString());
  for (uint8_t i = 1; i <= 5; ++i) {
    const absl::Status put = testing::PutBlock(channel.get(), TestKey(i), testing::TestBlock(TestKey(i), 10, i));
    ASSERT_TRUE(put.ok()) << put;
  }
  EXPECT_EQ(Flip(*node, "key=" + TestKey(1).Hex() + "&offset=5000&mask=8"), "200 {\"flipped\":1}\n");
  EXPECT_EQ(Flip(*node, "key=" + TestKey(9).Hex() + "&offset=5000&mask=8"), "200 {\"flipped\":0}\n");
  EXPECT_EQ(Flip(*node, "blocks=2&seed=7"), "200 {\"flipped\":2}\n");
  EXPECT_THAT(Flip(*node, "blocks=0&seed=7"), HasSubstr("400 blocks='0' is no number of 1 to"));
  EXPECT_THAT(Flip(*node, "key=zz&offset=1&mask=1"), HasSubstr("400 key='zz' is no key of 64 hex digits"));
  EXPECT_THAT(Flip(*node, "key=" + TestKey(1).Hex() + "&offset=1&mask=256"), HasSubstr("400 mask='256'"));
  EXPECT_TRUE(testing::WaitFor([&] {
    return testing::HttpGet(node->http_address(), "/metrics")
               .find("kvist_damaged_blocks_total{found_by=\"scrub\"} 0") == std::string::npos;
  }));
}

}  // namespace
}  // namespace kvist
