// Goal: in a cluster of real processes each tenant's blocks are its own wherever they stand, copies and hand-overs included;
// who may not drain is told and recorded; who is put out is out without a restart. Method: kvistd with mutual TLS, an access
// file and a token file, and a real etcd; kvist as workers of two tenants and as an operator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "services/access/access_config.h"
#include "tests/e2e/cluster_fixture.h"
#include "tests/services/testing/certificates.h"

namespace kvist {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::kBlocks;
using testing::ReplaceFile;
using testing::WaitFor;

constexpr char kToken[] = "token-of-the-operators-0123456789";

class AccessClusterTest : public testing::ClusterTest {
 protected:
  void SetUp() override {
    ClusterTest::SetUp();
    ReplaceFile(Path("access.json"), Access().dump());
    const TokenHash hash = HashToken(kToken);
    const std::string hex =
        absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
    ReplaceFile(Path("tokens"), "ops sha256:" + hex + "\n");
    ReplaceFile(Path("token"), kToken);
    node_flags_ = Certificate("node", "IP:127.0.0.1,DNS:nodes.example");
    node_flags_.insert(node_flags_.end(), {"--tls-refresh", "50ms", "--access", Path("access.json"), "--tokens",
                                           Path("tokens"), "--access-refresh", "50ms"});
    team_a_ = Certificate("a", "DNS:worker.team-a.example");
    team_b_ = Certificate("b", "DNS:worker.team-b.example");
    operator_ = {"--tls-ca", Path("node.ca"), "--token-file", Path("token")};
    kvist_flags_ = operator_;
    StartThree();
  }
  static json Access() {
    return {{"tenants", {{"team-a", json::object()}, {"team-b", json::object()}}},
            {"identities",
             {{{"identity", "dns:nodes.example"}, {"role", "node"}},
              {{"identity", "dns:*.team-a.example"}, {"tenant", "team-a"}, {"role", "writer"}},
              {{"identity", "dns:*.team-b.example"}, {"tenant", "team-b"}, {"role", "writer"}},
              {{"identity", "token:ops"}, {"role", "admin"}}}}};
  }
  std::vector<std::string> Certificate(const std::string& name, const std::string& names) {
    const TlsOptions tls = testing::WriteTls(Path(name), ca_.Issue({.names = names}), ca_.pem());
    return {"--tls-cert", tls.cert_file, "--tls-key", tls.key_file, "--tls-ca", tls.ca_file};
  }
  // Of all tenants, which only an operator is told.
  int Blocks() {
    kvist_flags_ = operator_;
    int blocks = 0;
    for (const json& node : json::parse(Kvist({"stats", "--json"}).output, nullptr, false)) {
      if (node.is_object()) blocks += node.value("blocks", 0);
    }
    return blocks;
  }

  const testing::TestCa ca_;
  std::vector<std::string> team_a_, team_b_, operator_;
};

TEST_F(AccessClusterTest, CopiesAndWhatADrainHandsOverStayTheirTenants) {
  kvist_flags_ = team_a_;
  ASSERT_EQ(OnPrompt({"put", "--kv", Path("kv.bin"), "--codec", "raw16", "--replicas", "2"})["stored"], kBlocks);
  ASSERT_TRUE(WaitFor([&] { return Blocks() == 2 * kBlocks; }, 60)) << Kvist({"stats"}).output;
  const testing::Ended drained = Kvist({"drain", "n2", "--json"});
  EXPECT_EQ(drained.exit, 0) << drained.errors;
  EXPECT_EQ(nodes_["n2"]->Wait(30), 0);
  kvist_flags_ = team_a_;
  EXPECT_EQ(Get("n1", 2)["blocks"], kBlocks);
  kvist_flags_ = team_b_;
  const json match = OnPrompt({"match", "--replicas", "2"});
  EXPECT_EQ(match["blocks"], 0);
  EXPECT_EQ(match["miss_reason"], "never_stored");
  EXPECT_EQ(Put()["stored"], kBlocks) << "the same prompt, and blocks of its own";
}

TEST_F(AccessClusterTest, WhoMayNotDrainIsToldAndRecordedAndTheNodeStays) {
  kvist_flags_ = team_a_;
  const testing::Ended refused = Kvist({"drain", "n2"});
  EXPECT_EQ(refused.exit, 1);
  EXPECT_THAT(refused.errors, HasSubstr("'dns:worker.team-a.example' is a writer"));
  EXPECT_THAT(nodes_["n1"]->Errors() + nodes_["n2"]->Errors(), HasSubstr("\"event\":\"audit\""));
  kvist_flags_ = operator_;
  EXPECT_EQ(Serving(), 3);
}

TEST_F(AccessClusterTest, WhoIsPutOutIsOutWithoutARestart) {
  ASSERT_EQ(Kvist({"stats"}).exit, 0);
  json without = Access();
  without["identities"].erase(3);
  ReplaceFile(Path("access.json"), without.dump());
  EXPECT_TRUE(WaitFor([&] { return Kvist({"stats", "--deadline", "2s"}).exit == 1; }, 30));
  EXPECT_THAT(Kvist({"stats", "--deadline", "2s"}).errors, HasSubstr("does not know 'token:ops'"));
  kvist_flags_ = team_a_;
  EXPECT_EQ(Put()["stored"], kBlocks);
}

}  // namespace
}  // namespace kvist
