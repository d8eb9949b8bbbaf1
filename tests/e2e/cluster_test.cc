// Goal: three nodes and a real etcd are one cluster for somebody who knows only the command line: nodes join, are
// drained, are killed and come back, and every answer is the right bytes or a miss with its reason. Method: real kvistd
// and kvist processes, a real etcd, ports chosen by the system; what nodes did is read from their logs, ports and exit
// statuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>

#include "services/cluster/view.h"
#include "tests/e2e/cluster_fixture.h"
#include "tests/e2e/process.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using nlohmann::json;
using testing::ClusterTest;
using ::testing::HasSubstr;
using testing::kBlocks;
using testing::Process;
using testing::WaitFor;

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
