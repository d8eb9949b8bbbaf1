// Goal: at a node's face tenants are apart: a key of another's is a key that nobody stored, byte for byte, whatever is
// asked; roles are kept; quotas and requests in flight are each tenant's own.
// Method: CacheHandlers with an access file over a host tier, one LocalChannel for each caller. The foreign key is asked
// about beside a key that nobody ever stored, and whole answers are compared.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "services/access/access.h"
#include "services/transport/retry_hint.h"
#include "tests/services/node/local_node.h"

namespace kvist {
namespace {

using testing::GetBlocks;
using testing::GetRequestFor;
using ::testing::HasSubstr;
using testing::KeyBytes;
using testing::kTestNamespace;
using testing::LocalNode;
using testing::ReserveFor;
using testing::TestBlock;
using testing::TestKey;

constexpr char kAccess[] = R"({"tenants": {"a": {"requests": 2}, "b": {"host_bytes": "1MiB"}}, "identities": [
    {"identity": "dns:a", "tenant": "a", "role": "writer"}, {"identity": "dns:b", "tenant": "b", "role": "writer"},
    {"identity": "dns:b-reader", "tenant": "b", "role": "reader"},
    {"identity": "dns:b-admin", "tenant": "b", "role": "admin"},
    {"identity": "dns:node", "role": "node"}, {"identity": "dns:ops", "role": "admin"}]})";

class NodeTenantsTest : public ::testing::Test {
 protected:
  NodeTenantsTest() : access_(*Access::Of(*ParseAccess(kAccess))), node_({}, MakeHooks(), access_) {
    node_.metrics->SetTenants([this] {
      std::vector<TenantReading> readings;
      for (const TenantInfo& tenant : access_->tenants()) readings.push_back({.id = tenant.id, .name = tenant.name});
      return readings;
    });
  }
  Hooks MakeHooks() {
    Hooks hooks;
    hooks.drain = [this](const v1::DrainRequest&) { return ++drains_, v1::DrainResponse(); };
    hooks.hot_nodes = [](const Key& group) {  // all that tenant a has is hot
      return group.tenant == 1 ? std::vector<NodeId>{{"n7"}} : std::vector<NodeId>();
    };
    return hooks;
  }
  std::unique_ptr<Channel> As(const std::string& name) {
    return NewLocalChannel(node_.handlers.get(), &node_.runtime, *access_->Identify({{"dns:" + name}, "", ""}));
  }
  absl::Status Put(const std::string& name, const Key& key, int seed = 1, const std::string& tenant = "",
                   bool copy = false) {
    const std::string block = TestBlock(key, 2, seed);
    v1::PutReserve reserve = ReserveFor(key, block.size());
    reserve.set_tenant(tenant);
    reserve.set_copy(copy);
    const auto channel = As(name);
    absl::StatusOr<std::unique_ptr<PutStream>> stream = channel->Put(reserve, node_.In(10));
    if (!stream.ok()) return stream.status();
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(block.data()), block.size());
    if (absl::Status status = (*stream)->Write(0, bytes); !status.ok()) return status;
    return (*stream)->Commit(block.size()).status();
  }
  bool Reads(const std::string& name, const Key& key, const std::string& tenant = "") {
    v1::GetRequest request = GetRequestFor({key});
    request.set_tenant(tenant);
    const auto channel = As(name);
    const auto got = GetBlocks(channel.get(), request, node_.In(10));
    EXPECT_TRUE(got.ok()) << got.status();
    return got.ok() && got->headers[0].miss() == v1::MISS_REASON_UNSPECIFIED;
  }

  const std::shared_ptr<Access> access_;
  int drains_ = 0;
  LocalNode node_;
};

// Every way to ask `b` about a key, each answer as bytes, the status included.
std::vector<std::string> AllAnswers(Channel* channel, const Key& key, absl::Time deadline) {
  std::vector<std::string> answers;
  const auto add = [&](const auto& answer) {
    answers.push_back(answer.ok() ? answer->SerializeAsString() : answer.status().ToString());
  };
  v1::MatchRequest match;
  match.add_chains()->set_keys(KeyBytes(key));
  match.set_explain(true);
  match.set_lease_ms(1000);
  add(channel->Match(match, deadline));
  v1::ExplainRequest explain;
  explain.set_keys(KeyBytes(key));
  explain.set_namespace_digest(kTestNamespace);
  explain.set_namespace_text(R"({"model": "m", "rope": "x"})");
  add(channel->Explain(explain, deadline));
  const auto got = GetBlocks(channel, GetRequestFor({key}), deadline);
  answers.push_back(got.ok() ? got->headers[0].SerializeAsString() : got.status().ToString());
  v1::ReportRequest report;
  report.set_keys(KeyBytes(key));
  add(channel->Report(report, deadline));
  v1::EraseRequest erase;
  erase.set_keys(KeyBytes(key));
  add(channel->Erase(erase, deadline));
  return answers;
}

TEST_F(NodeTenantsTest, AForeignKeyAnswersExactlyAsAnUnknownOne) {
  ASSERT_TRUE(Put("a", TestKey(1)).ok());
  v1::DescribeRequest describe;
  describe.set_namespace_digest(kTestNamespace);
  describe.set_namespace_text(R"({"model": "m"})");
  ASSERT_TRUE(As("a")->Describe(describe, node_.In(1)).ok());
  for (const char* name : {"b-reader", "b", "b-admin"}) {
    const auto channel = As(name);
    EXPECT_EQ(AllAnswers(channel.get(), TestKey(1), node_.In(1)), AllAnswers(channel.get(), TestKey(2), node_.In(1)));
  }
  EXPECT_TRUE(Reads("a", TestKey(1))) << "and nothing that others did has touched it";
  v1::MatchRequest match;
  match.add_chains()->set_keys(KeyBytes(TestKey(1)));
  EXPECT_EQ(As("a")->Match(match, node_.In(1))->hot_size(), 1) << "its own tenant is told what is hot";
  EXPECT_NE(AllAnswers(As("a").get(), TestKey(1), node_.In(1)), AllAnswers(As("a").get(), TestKey(2), node_.In(1)));
}

// Whether a key was stored, evicted or erased by its owner: another tenant sees no difference either.
TEST_F(NodeTenantsTest, NorDoesWhatBecameOfAForeignBlockShow) {
  ASSERT_TRUE(Put("b", TestKey(1)).ok());
  v1::EraseRequest erase;
  erase.set_keys(KeyBytes(TestKey(1)));
  ASSERT_TRUE(As("b-admin")->Erase(erase, node_.In(1))->erased(0));
  EXPECT_EQ(AllAnswers(As("a").get(), TestKey(1), node_.In(1)), AllAnswers(As("a").get(), TestKey(2), node_.In(1)));
}

TEST_F(NodeTenantsTest, TwoTenantsStoreTheSameKeyAndEachReadsItsOwn) {
  ASSERT_TRUE(Put("a", TestKey(1), /*seed=*/1).ok());
  ASSERT_TRUE(Put("b", TestKey(1), /*seed=*/2).ok());
  const auto a = GetBlocks(As("a").get(), GetRequestFor({TestKey(1)}), node_.In(1));
  const auto b = GetBlocks(As("b").get(), GetRequestFor({TestKey(1)}), node_.In(1));
  EXPECT_EQ(a->bytes[0], TestBlock(TestKey(1), 2, 1));
  EXPECT_EQ(b->bytes[0], TestBlock(TestKey(1), 2, 2));
}

TEST_F(NodeTenantsTest, ALeaseCannotBeEndedByAnotherTenant) {
  ASSERT_TRUE(Put("a", TestKey(1)).ok());
  v1::MatchRequest match;
  match.add_chains()->set_keys(KeyBytes(TestKey(1)));
  match.set_lease_ms(10000);
  v1::ReleaseRequest release;
  release.add_leases(As("a")->Match(match, node_.In(1))->chains(0).lease());
  ASSERT_NE(release.leases(0), 0);
  EXPECT_TRUE(As("b")->Release(release, node_.In(1)).ok());
  EXPECT_EQ(node_.Stats().leases, 1u);
  EXPECT_TRUE(As("a")->Release(release, node_.In(1)).ok());
  EXPECT_EQ(node_.Stats().leases, 0u);
}

TEST_F(NodeTenantsTest, ARoleThatIsTooLowIsToldWhichIsNeeded) {
  const auto denied = [](const absl::Status& status, const char* sentence) {
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(sentence));
  };
  denied(Put("b-reader", TestKey(1)),
         "'dns:b-reader' is a reader of tenant 'b'; writing needs the role writer or admin");
  denied(As("b")->Erase({}, node_.In(1)).status(), "erasing needs the role admin");
  denied(As("node")->Erase({}, node_.In(1)).status(), "erasing needs the role admin");
  v1::DrainRequest start;
  start.set_start(true);
  for (const char* name : {"b-reader", "b", "b-admin", "node"}) {
    denied(As(name)->Drain(start, node_.In(1)).status(), "needs the role admin, and an identity of no tenant");
  }
  EXPECT_EQ(drains_, 0);
  EXPECT_TRUE(As("ops")->Drain(start, node_.In(1)).ok());
  EXPECT_EQ(drains_, 1);
  denied(Put("b", TestKey(1), 1, "", /*copy=*/true), "copies come from nodes only");
  denied(Put("b", TestKey(1), 1, "a"), "may not act for a tenant by name");
  EXPECT_EQ(node_.Stats().blocks, 0u);
}

TEST_F(NodeTenantsTest, ANodeActsForTheTenantThatItNames) {
  ASSERT_TRUE(Put("node", TestKey(1), 1, "a", /*copy=*/true).ok());
  EXPECT_TRUE(Reads("a", TestKey(1)));
  EXPECT_TRUE(Reads("node", TestKey(1), "a"));
  EXPECT_FALSE(Reads("node", TestKey(1), "b"));
  EXPECT_FALSE(Reads("node", TestKey(1)));
  EXPECT_TRUE(Reads("ops", TestKey(1), "a"));
  EXPECT_THAT(std::string(Put("node", TestKey(2), 1, "z", true).message()), HasSubstr("all nodes need the same"));
}

TEST_F(NodeTenantsTest, AtItsQuotaATenantPushesOutItsOwn) {
  const uint64_t block_bytes = TestBlock(TestKey(1), 2, 1).size();
  ASSERT_TRUE(Put("a", TestKey(0)).ok());
  const int fit = static_cast<int>((1 << 20) / block_bytes);
  for (int i = 1; i <= fit + 5; ++i) ASSERT_TRUE(Put("b", TestKey(i)).ok());
  EXPECT_FALSE(Reads("b", TestKey(1)));
  EXPECT_TRUE(Reads("b", TestKey(fit + 5)));
  EXPECT_TRUE(Reads("a", TestKey(0)));
  const auto info = As("b")->ServerInfo(node_.In(1));
  EXPECT_EQ(info->store().capacity_bytes(), 1u << 20);
  EXPECT_LE(info->store().used_bytes(), 1u << 20);
  EXPECT_GT(info->store().used_bytes(), (1u << 20) - 2 * block_bytes);
  EXPECT_EQ(info->store().blocks(), node_.Stats().blocks - 1) << "its own, and not what all hold together";
  EXPECT_EQ(info->store().evicted_blocks(), 0u);
  v1::ExplainRequest explain;
  explain.set_keys(KeyBytes(TestKey(1)));
  EXPECT_EQ(As("b")->Explain(explain, node_.In(1))->fates(0).made_room_for().size(), Key::kBytes);
}

TEST_F(NodeTenantsTest, RequestsInFlightAreEachTenantsOwn) {
  std::vector<std::unique_ptr<GetSession>> open;
  const Caller a = *access_->Identify({{"dns:a"}, "", ""}), b = *access_->Identify({{"dns:b"}, "", ""});
  for (int i = 0; i < 2; ++i) open.push_back(*node_.handlers->OpenGet(a, GetRequestFor({TestKey(1)}), node_.In(60)));
  const absl::Status third = node_.handlers->OpenGet(a, GetRequestFor({TestKey(1)}), node_.In(60)).status();
  EXPECT_EQ(third.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(third.message()), HasSubstr("2 requests of this tenant are under way"));
  EXPECT_TRUE(RetryHint(third).has_value());
  EXPECT_EQ(As("a")->Match({}, node_.In(1)).status().code(), absl::StatusCode::kResourceExhausted);
  for (int i = 0; i < 9; ++i) open.push_back(*node_.handlers->OpenGet(b, GetRequestFor({TestKey(1)}), node_.In(60)));
  EXPECT_EQ(node_.Figure(R"(kvist_tenant_refusals_total{tenant="a",limit="requests"})"), 2);
  EXPECT_EQ(node_.Figure(R"(kvist_tenant_refusals_total{tenant="b",limit="requests"})"), 0);
  EXPECT_EQ(node_.Figure(R"(kvist_overload_refusals_total{limit="tenant_requests"})"), 2);
  open.clear();
  EXPECT_TRUE(As("a")->Match({}, node_.In(1)).ok());
}

TEST_F(NodeTenantsTest, WhatTenantsFindAndStoreIsCountedForEach) {
  ASSERT_TRUE(Put("a", TestKey(1)).ok());
  EXPECT_TRUE(Reads("a", TestKey(1)));
  EXPECT_FALSE(Reads("b", TestKey(1)));
  EXPECT_EQ(node_.Figure(R"(kvist_tenant_hit_blocks_total{tenant="a",op="get"})"), 1);
  EXPECT_EQ(node_.Figure(R"(kvist_tenant_missed_blocks_total{tenant="b",op="get"})"), 1);
  EXPECT_EQ(node_.Figure(R"(kvist_tenant_stored_blocks_total{tenant="a"})"), 1);
  EXPECT_EQ(node_.Figure(R"(kvist_tenant_stored_blocks_total{tenant="b"})"), 0);
  EXPECT_EQ(node_.Figure(R"(kvist_tenant_sent_bytes_total{tenant="a"})"), TestBlock(TestKey(1), 2, 1).size());
}

}  // namespace
}  // namespace kvist
