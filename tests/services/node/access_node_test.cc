// Goal: over real connections a node knows its callers: by certificate, by token, revoked ones no more; copies of a
// tenant's blocks stay that tenant's; and how long an answer takes tells nothing of another tenant's blocks.
// Method: nodes of this process with mutual TLS, or in plaintext on loopback, and an access file that is read every 10 ms.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/access/access_config.h"
#include "services/transport/bearer_token.h"
#include "services/transport/tls.h"
#include "tests/services/testing/certificates.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using testing::GetBlocks;
using testing::GetRequestFor;
using ::testing::HasSubstr;
using testing::In;
using testing::PutBlock;
using testing::TestBlock;
using testing::TestKey;

constexpr char kAccess[] = R"({"tenants": {"a": {}, "b": {}}, "identities": [
    {"identity": "spiffe://corp/sa/a", "tenant": "a", "role": "writer"},
    {"identity": "dns:b.example", "tenant": "b", "role": "writer"},
    {"identity": "token:a", "tenant": "a", "role": "writer"},
    {"identity": "token:b", "tenant": "b", "role": "writer"},
    {"identity": "dns:node.example", "role": "node"}]})";

std::string TokenOf(const std::string& name) { return absl::StrCat("the-secret-token-of-", name); }

void WritePrivately(const std::string& path, const std::string& text) {
  const std::string next = path + ".next";
  std::ofstream(next) << text;
  ASSERT_EQ(chmod(next.c_str(), 0600), 0);
  ASSERT_EQ(std::rename(next.c_str(), path.c_str()), 0);
}

std::string Lines(const std::vector<std::string>& names) {
  std::string lines;
  for (const std::string& name : names) {
    const TokenHash hash = HashToken(TokenOf(name));
    const absl::string_view bytes(reinterpret_cast<const char*>(hash.data()), hash.size());
    absl::StrAppend(&lines, name, " sha256:", absl::BytesToHexString(bytes), "\n");
  }
  return lines;
}

class AccessNodeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    stem_ = ::testing::TempDir() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    config_ = testing::TestConfig(64 << 20);
    config_.access.access_file = stem_ + ".json";
    config_.access.token_file = stem_ + ".tokens";
    config_.access.refresh = absl::Milliseconds(10);
    WritePrivately(config_.access.access_file, kAccess);
    WritePrivately(config_.access.token_file, Lines({"a", "b"}));
  }
  void WithTls() {
    config_.tls = testing::WriteTls(stem_ + ".node", ca_.Issue({.names = "IP:127.0.0.1,DNS:node.example"}), ca_.pem());
  }
  void Start() {
    node_ = testing::StartNode(config_);
    address_ = node_->data_address().ToString();
  }
  std::unique_ptr<Channel> ByToken(const std::string& name, std::shared_ptr<TlsIdentity> tls = nullptr) {
    const std::string path = absl::StrCat(stem_, ".", name, ".token");
    WritePrivately(path, TokenOf(name) + "\n");
    return NewGrpcTransport(std::move(tls), *BearerToken::Load(path))->Connect(address_);
  }
  std::unique_ptr<Channel> ByCertificate(const std::string& names) {
    const TlsOptions files = testing::WriteTls(stem_ + ".worker", ca_.Issue({.names = names}), ca_.pem());
    return NewGrpcTransport(*TlsIdentity::Load(files))->Connect(address_);
  }
  std::shared_ptr<TlsIdentity> CaAlone() {
    TlsOptions files;
    files.ca_file = testing::WriteTls(stem_ + ".ca", ca_.Issue(), ca_.pem()).ca_file;
    return *TlsIdentity::Load(files);
  }

  testing::TestCa ca_;
  std::string stem_, address_;
  NodeConfig config_;
  std::unique_ptr<NodeServer> node_;
};

bool Has(Channel* channel, const Key& key) {
  const auto got = GetBlocks(channel, GetRequestFor({key}));
  EXPECT_TRUE(got.ok()) << got.status();
  return got.ok() && got->headers[0].miss() == v1::MISS_REASON_UNSPECIFIED;
}

TEST_F(AccessNodeTest, ATokenLeadsToItsTenantAndNoneLeadsNowhere) {
  Start();
  const auto a = ByToken("a"), b = ByToken("b");
  ASSERT_TRUE(PutBlock(a.get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
  EXPECT_TRUE(Has(a.get(), TestKey(1)));
  EXPECT_FALSE(Has(b.get(), TestKey(1)));
  const auto nobody = NewGrpcTransport()->Connect(address_);
  const absl::Status info = nobody->ServerInfo(In(5)).status();
  const absl::Status put = PutBlock(nobody.get(), TestKey(2), TestBlock(TestKey(2), 2, 1));
  const absl::Status get = GetBlocks(nobody.get(), GetRequestFor({TestKey(1)})).status();
  for (const absl::Status& status : {info, put, get}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("show a token, or a certificate with a name"));
  }
  const std::string metrics = testing::HttpGet(node_->http_address(), "/metrics");
  EXPECT_THAT(metrics, HasSubstr(R"(kvist_rpcs_total{code="unauthenticated",method="put"} 1)"));
}

TEST_F(AccessNodeTest, ARevokedTokenIsRefusedWhileOthersGoOn) {
  Start();
  const auto a = ByToken("a"), b = ByToken("b");
  ASSERT_TRUE(PutBlock(a.get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
  ASSERT_TRUE(b->ServerInfo(In(5)).ok());
  WritePrivately(config_.access.access_file, R"({"tenants": {"a": {}}, "identities": [
      {"identity": "token:a", "tenant": "a", "role": "writer"}]})");
  WritePrivately(config_.access.token_file, Lines({"a"}));
  ASSERT_TRUE(testing::WaitFor([&] { return absl::IsUnauthenticated(b->ServerInfo(In(5)).status()); }));
  EXPECT_TRUE(absl::IsUnauthenticated(GetBlocks(b.get(), GetRequestFor({TestKey(1)})).status()));
  EXPECT_TRUE(Has(a.get(), TestKey(1)));
}

TEST_F(AccessNodeTest, ANewTokenInTheCallersFileIsShownSoon) {
  Start();
  const auto a = ByToken("a");
  ASSERT_TRUE(a->ServerInfo(In(5)).ok());
  WritePrivately(stem_ + ".a.token", TokenOf("b"));
  WritePrivately(config_.access.token_file, "a sha256:" + std::string(64, '0') + "\n" + Lines({"b"}));
  ASSERT_TRUE(testing::WaitFor([&] { return absl::IsUnauthenticated(a->ServerInfo(In(5)).status()); }));
  EXPECT_TRUE(testing::WaitFor([&] { return a->ServerInfo(In(5)).ok(); })) << "it is b by now";
}

TEST_F(AccessNodeTest, ACertificatesNameLeadsToItsTenant) {
  WithTls();
  Start();
  const auto a = ByCertificate("URI:spiffe://corp/sa/a,DNS:whoever.example"), b = ByCertificate("DNS:b.example");
  ASSERT_TRUE(PutBlock(a.get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
  EXPECT_TRUE(Has(a.get(), TestKey(1)));
  EXPECT_FALSE(Has(b.get(), TestKey(1)));
  const absl::Status unknown = ByCertificate("DNS:c.example")->ServerInfo(In(5)).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kUnauthenticated) << unknown;
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("does not know 'dns:c.example'"));
}

TEST_F(AccessNodeTest, WithATokenNoCertificateIsNeededAndABadOneIsRefusedStill) {
  WithTls();
  Start();
  ASSERT_TRUE(PutBlock(ByToken("a", CaAlone()).get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
  const auto nobody = NewGrpcTransport(CaAlone())->Connect(address_);
  EXPECT_TRUE(absl::IsUnauthenticated(nobody->ServerInfo(In(5)).status()));
  const testing::TestCa other;
  const TlsOptions files = testing::WriteTls(stem_ + ".other", other.Issue({.names = "DNS:b.example"}), ca_.pem());
  const auto impostor = NewGrpcTransport(*TlsIdentity::Load(files))->Connect(address_);
  EXPECT_TRUE(absl::IsUnavailable(impostor->ServerInfo(In(5)).status())) << "its name is not taken on trust";
}

// Without a token file every caller needs a certificate, as before.
TEST_F(AccessNodeTest, WithoutTokensACertificateIsRequired) {
  WithTls();
  config_.access.token_file.clear();
  WritePrivately(
      config_.access.access_file,
      R"({"tenants": {"b": {}}, "identities": [{"identity": "dns:b.example", "tenant": "b", "role": "reader"}]})");
  Start();
  EXPECT_TRUE(ByCertificate("DNS:b.example")->ServerInfo(In(5)).ok());
  EXPECT_TRUE(absl::IsUnavailable(NewGrpcTransport(CaAlone())->Connect(address_)->ServerInfo(In(5)).status()));
}

TEST_F(AccessNodeTest, CopiesOfATenantsBlockAreThatTenantsOnTheOtherNode) {
  WithTls();
  config_.cluster_file = stem_ + ".cluster.json";
  std::ofstream(config_.cluster_file) << R"({"view": 1, "nodes": [
      {"id": "n0", "address": "127.0.0.1:0", "capacity": "8MiB"},
      {"id": "n1", "address": "127.0.0.1:0", "capacity": "8MiB"}]})";
  std::vector<std::unique_ptr<NodeServer>> nodes;
  std::vector<std::unique_ptr<Channel>> as_a, as_b;
  for (const char* id : {"n0", "n1"}) {
    config_.id.value = id;
    nodes.push_back(testing::StartNode(config_));
    address_ = nodes.back()->data_address().ToString();
    as_a.push_back(ByCertificate("URI:spiffe://corp/sa/a"));
    as_b.push_back(ByCertificate("DNS:b.example"));
  }
  const std::string block = TestBlock(TestKey(1), 2, 1);
  v1::PutReserve reserve = testing::ReserveFor(TestKey(1), block.size());
  reserve.set_replicas(2);
  ASSERT_TRUE(testing::WaitFor([&] { return as_a[0]->GetView(In(5))->view().nodes_size() == 2; }));
  absl::StatusOr<std::unique_ptr<PutStream>> stream = as_a[0]->Put(reserve, In(5));
  ASSERT_TRUE(stream.ok()) << stream.status();
  ASSERT_TRUE((*stream)->Write(0, {reinterpret_cast<const uint8_t*>(block.data()), block.size()}).ok());
  ASSERT_TRUE((*stream)->Commit(block.size()).ok());
  ASSERT_TRUE(testing::WaitFor([&] { return Has(as_a[1].get(), TestKey(1)); }));
  EXPECT_FALSE(Has(as_b[1].get(), TestKey(1)));
}

// --- Timing ---

// The chance that a probe of `x` takes longer than one of `y`: 0.5 if the two cannot be told apart (Mann-Whitney's U).
double Separation(const std::vector<double>& x, const std::vector<double>& y) {
  std::vector<std::pair<double, bool>> all;
  for (const double value : x) all.push_back({value, true});
  for (const double value : y) all.push_back({value, false});
  std::sort(all.begin(), all.end());
  double ranks = 0;
  for (size_t i = 0; i < all.size(); ++i) ranks += all[i].second ? static_cast<double>(i + 1) : 0;
  const double n = static_cast<double>(x.size()), m = static_cast<double>(y.size());
  return (ranks - n * (n + 1) / 2) / (n * m);
}

TEST_F(AccessNodeTest, HowLongAnAnswerTakesTellsNothingOfAnothersBlocks) {
  constexpr int kKeys = 80, kProbes = 10'000;  // three times kKeys are the keys that TestKey makes
  Start();
  const auto a = ByToken("a"), b = ByToken("b");
  // [0, kKeys) are a's, then come those that nobody stored, then b's own.
  for (int i = 0; i < kKeys; ++i) {
    ASSERT_TRUE(PutBlock(a.get(), TestKey(i), TestBlock(TestKey(i), 16, 1)).ok());
    ASSERT_TRUE(PutBlock(b.get(), TestKey(2 * kKeys + i), TestBlock(TestKey(2 * kKeys + i), 16, 1)).ok());
  }
  std::mt19937 random(1);
  std::vector<double> took[3];
  while (std::min(took[0].size(), took[1].size()) < kProbes) {
    const int kind = took[2].size() < kProbes / 20 ? static_cast<int>(random() % 3) : static_cast<int>(random() % 2);
    const v1::GetRequest request = GetRequestFor({TestKey(kind * kKeys + static_cast<int>(random() % kKeys))});
    const absl::Time start = absl::Now();
    ASSERT_TRUE(GetBlocks(b.get(), request).ok());
    took[kind].push_back(absl::ToDoubleMicroseconds(absl::Now() - start));
  }
  // Of two samples of 10,000 that are alike the figure's standard deviation is 0.0041.
  EXPECT_NEAR(Separation(took[0], took[1]), 0.5, 0.02) << "a foreign key against an unknown one";
  EXPECT_GT(Separation(took[2], took[1]), 0.6) << "a difference would be seen: a block of its own takes longer";
}

}  // namespace
}  // namespace kvist
