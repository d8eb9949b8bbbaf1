// Goal: a node's answers, free of any wire: what became of a block, which namespace was nearly meant, what is done
// about damage, copies that conflict, a stale view and a drain. Method: CacheHandlers over a host tier on a manual
// clock, spoken to through LocalChannel; damage is made by flipping bits of resting blocks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include <algorithm>
#include <string>
#include <vector>

#include "services/transport/retry_hint.h"
#include "tests/services/node/local_node.h"

namespace kvist {
namespace {

using ::testing::ElementsAre;
using testing::GetBlocks;
using testing::GetRequestFor;
using ::testing::HasSubstr;
using testing::KeyBytes;
using testing::kTestNamespace;
using testing::LocalNode;
using testing::ReserveFor;
using testing::TestBlock;
using testing::TestKey;

constexpr char kOtherNamespace[] = "another name....";

std::string Message(const absl::Status& status) { return std::string(status.message()); }

v1::ExplainResponse Explain(LocalNode& node, const std::vector<Key>& keys, const std::string& digest = "",
                            const std::string& text = "") {
  v1::ExplainRequest request;
  request.set_keys(GetRequestFor(keys).keys());
  request.set_namespace_digest(digest);
  request.set_namespace_text(text);
  const auto response = node.channel->Explain(request, node.In(1));
  EXPECT_TRUE(response.ok()) << response.status();
  return response.ok() ? *response : v1::ExplainResponse();
}

absl::Status Describe(LocalNode& node, const std::string& digest, const std::string& text) {
  v1::DescribeRequest request;
  request.set_namespace_digest(digest);
  request.set_namespace_text(text);
  return node.channel->Describe(request, node.In(1)).status();
}

v1::MatchRequest MatchOf(const std::vector<std::vector<Key>>& chains, uint32_t lease_ms = 0) {
  v1::MatchRequest request;
  for (const std::vector<Key>& chain : chains) request.add_chains()->set_keys(GetRequestFor(chain).keys());
  request.set_lease_ms(lease_ms);
  return request;
}

std::shared_ptr<const View> ViewNumbered(uint64_t number) {
  View view;
  view.number.value = number;
  for (const char* id : {"n0", "n1"}) {
    Node node;
    node.id.value = id;
    node.address = {"127.0.0.1", static_cast<uint16_t>(7000 + view.nodes.size())};
    node.state = view.nodes.empty() ? NodeState::kJoining : NodeState::kServing;
    node.ramp = view.nodes.empty() ? 0.5 : 1;
    view.nodes.push_back(node);
  }
  return std::make_shared<const View>(view);
}

TEST(HandlersTest, WhatIsPutIsReadBackAndNothingStaysHeld) {
  LocalNode node;
  const std::string block = TestBlock(TestKey(1), 600, 1);  // 2.4 MB: three parts
  ASSERT_TRUE(node.Put(ReserveFor(TestKey(1), block.size()), block).ok());
  const auto fetched = GetBlocks(node.channel.get(), GetRequestFor({TestKey(1), TestKey(2)}), node.In(10));
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->bytes[0], block);
  EXPECT_EQ(fetched->headers[1].miss(), v1::MISS_REASON_NEVER_STORED);
  EXPECT_EQ(node.Stats().pinned_bytes, 0);
  EXPECT_EQ(node.Stats().reserved_bytes, 0);
  EXPECT_EQ(node.handlers->load().streams(), 0);
  EXPECT_EQ(node.handlers->load().queued_bytes(), 0);
  EXPECT_EQ(node.Figure("kvist_rpcs_total{code=\"ok\",method=\"get\"}"), 1);
}

TEST(HandlersTest, LookupsAreCountedInBlocksTokensAndBytes) {
  LocalNode node;
  const std::string block = TestBlock(TestKey(1), 2, 1);  // of 16 tokens
  const double bytes = block.size();
  ASSERT_TRUE(node.Put(ReserveFor(TestKey(1), block.size()), block).ok());
  v1::MatchRequest match;
  match.set_lease_ms(1000);
  match.add_chains()->set_keys(KeyBytes(TestKey(1)) + KeyBytes(TestKey(2)) + KeyBytes(TestKey(3)));
  ASSERT_TRUE(node.handlers->Match(Caller::Anyone(), match).ok());
  match.set_lease_ms(0);  // a writer's probe is no lookup
  ASSERT_TRUE(node.handlers->Match(Caller::Anyone(), match).ok());
  ASSERT_TRUE(GetBlocks(node.channel.get(), GetRequestFor({TestKey(1), TestKey(2)}), node.In(10)).ok());
  for (const auto& [name, value] : std::map<std::string, double>{
           {"kvist_lookup_blocks_total{op=\"match\"}", 3},
           {"kvist_lookup_tokens_total{op=\"match\"}", 48},
           {"kvist_lookup_bytes_total{op=\"match\"}", 3 * bytes},
           {"kvist_hit_blocks_total{op=\"match\"}", 1},
           {"kvist_hit_tokens_total{op=\"match\"}", 16},
           {"kvist_hit_bytes_total{op=\"match\"}", bytes},
           {"kvist_missed_blocks_total{op=\"match\",reason=\"never_stored\"}", 2},
           {"kvist_missed_tokens_total{op=\"match\",reason=\"never_stored\"}", 32},
           {"kvist_missed_bytes_total{op=\"match\",reason=\"never_stored\"}", 2 * bytes},
           {"kvist_hit_tokens_total{op=\"get\"}", 16},
           {"kvist_missed_blocks_total{op=\"get\",reason=\"never_stored\"}", 1},
           {"kvist_missed_blocks_total{op=\"get\",reason=\"tier_lost\"}", 0},
           {"kvist_match_depth_blocks_count", 1},
           {"kvist_match_depth_blocks_sum", 1},
           {"kvist_saved_tokens_total", 16},
           {"kvist_stored_blocks_total{codec=\"raw16\"}", 1},
           {"kvist_stored_bytes_total{codec=\"raw16\"}", bytes},
           {"kvist_stored_logical_bytes_total{codec=\"raw16\"}", 2 * 2 * 16 * 64 * 2},
           {"kvist_stored_sqnr_decibels_count{codec=\"raw16\"}", 1},
           {"kvist_tokens{tier=\"host\"}", 16},
           {"kvist_logical_bytes{tier=\"host\"}", 2 * 2 * 16 * 64 * 2},
       }) {
    EXPECT_EQ(node.Figure(name), value) << name;
  }
}

TEST(HandlersTest, AReaderWhoBeginsBehindTheFirstLayerSavesNoTokensTwice) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 2).ok());
  for (const uint32_t first : {0, 1}) {
    v1::GetRequest request = GetRequestFor({TestKey(1)});
    request.set_first_layer(first);
    request.set_last_layer(first + 1);
    ASSERT_TRUE(GetBlocks(node.channel.get(), request, node.In(10)).ok());
  }
  EXPECT_EQ(node.Figure("kvist_saved_tokens_total"), 16);
  EXPECT_EQ(node.Figure("kvist_hit_blocks_total{op=\"get\"}"), 2);
}

TEST(HandlersTest, ASessionLeftInTheMiddleGivesItsPinAndItsSpaceBack) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 600).ok());
  auto get = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node.In(10));
  ASSERT_TRUE(get.ok()) << get.status();
  ASSERT_TRUE((*get)->Next().ok());
  auto put = node.handlers->OpenPut(Caller::Anyone(), node.In(10));
  ASSERT_TRUE(put.ok()) << put.status();
  ASSERT_TRUE(*(*put)->Reserve(ReserveFor(TestKey(2), 1 << 20)));
  EXPECT_GT(node.Stats().pinned_bytes, 0);
  EXPECT_GT(node.Stats().reserved_bytes, 0);
  EXPECT_EQ(node.handlers->load().streams(), 1);
  EXPECT_GT(node.handlers->load().queued_bytes(), 2'000'000);
  get->reset();
  put->reset();
  EXPECT_EQ(node.Stats().pinned_bytes, 0);
  EXPECT_EQ(node.Stats().reserved_bytes, 0);
  EXPECT_EQ(node.handlers->load().queued_bytes(), 0);
  EXPECT_EQ(node.Figure("kvist_rpcs_total{code=\"cancelled\",method=\"get\"}"), 1);
}

TEST(HandlersTest, APartKeepsItsBlockWhenTheSessionAndTheStoreAreGone) {
  auto node = std::make_unique<LocalNode>();
  const std::string block = TestBlock(TestKey(1), 2, 1);
  ASSERT_TRUE(node->Put(ReserveFor(TestKey(1), block.size()), block).ok());
  auto get = node->handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node->In(10));
  ASSERT_TRUE((*get)->Next().ok());
  auto message = (*get)->Next();
  ASSERT_TRUE(message.ok()) << message.status();
  PinnedPart part = std::get<PinnedPart>(*std::move(message));
  node = nullptr;
  EXPECT_EQ((*get)->Next().status().code(), absl::StatusCode::kAborted);
  std::string bytes;
  for (absl::Span<const uint8_t> span : part.data) bytes.append(span.begin(), span.end());
  EXPECT_EQ(bytes, block);
}

TEST(HandlersTest, SessionsEndAtTheirDeadline) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 600).ok());
  auto get = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node.In(5));
  auto put = node.handlers->OpenPut(Caller::Anyone(), node.In(5));
  ASSERT_TRUE((*get)->Next().ok());
  ASSERT_TRUE(*(*put)->Reserve(ReserveFor(TestKey(2), 1 << 20)));
  bool told = false;
  (*put)->OnEnd([&] { told = true; });
  node.runtime.Advance(absl::Seconds(5));
  node.handlers->Sweep();
  EXPECT_EQ(node.Stats().pinned_bytes, 0);
  EXPECT_EQ(node.Stats().reserved_bytes, 0);
  EXPECT_TRUE(told);
  EXPECT_EQ((*get)->Next().status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*put)->Commit(1 << 20).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(node.Figure("kvist_ended_streams_total{cause=\"deadline\"}"), 2);
}

TEST(HandlersTest, LaterChainsAreLeasedFirstSoThatLeavesGoBeforeParents) {
  LocalNode node;
  // One chain 1..4, asked as two: the parents first.
  for (uint8_t i = 1; i <= 4; ++i) ASSERT_TRUE(node.Put(TestKey(i), 240).ok());  // 1 MB each
  const auto match =
      node.channel->Match(MatchOf({{TestKey(1), TestKey(2)}, {TestKey(3), TestKey(4)}}, 1'000), node.In(1));
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->chains(0).hits(), 2);
  EXPECT_EQ(match->chains(1).hits(), 2);
  v1::ReleaseRequest release;
  for (const v1::ChainMatch& chain : match->chains()) {
    if (chain.lease() != 0) release.add_leases(chain.lease());
  }
  ASSERT_TRUE(node.channel->Release(release, node.In(1)).ok());
  std::vector<uint8_t> gone;  // in the order of eviction
  for (uint8_t fill = 101; gone.size() < 4 && fill < 120; ++fill) {
    ASSERT_TRUE(node.Put(TestKey(fill), 240).ok());
    for (uint8_t i = 1; i <= 4; ++i) {
      if (std::find(gone.begin(), gone.end(), i) == gone.end() && !node.tier->Get(TestKey(i), false)->block) {
        gone.push_back(i);
      }
    }
  }
  EXPECT_THAT(gone, ElementsAre(4, 3, 2, 1));
}

TEST(HandlersTest, AnOlderViewBringsTheNewerOneAndNoViewBringsNone) {
  LocalNode node;
  node.view = ViewNumbered(7);
  v1::MatchRequest request = MatchOf({{TestKey(1)}});
  EXPECT_FALSE(node.channel->Match(request, node.In(1))->has_newer_view());
  request.set_view(7);
  EXPECT_FALSE(node.channel->Match(request, node.In(1))->has_newer_view());
  request.set_view(6);
  const auto stale = node.channel->Match(request, node.In(1));
  EXPECT_EQ(stale->view(), 7);
  EXPECT_EQ(stale->newer_view().number(), 7);
  EXPECT_EQ(stale->newer_view().nodes(0).state(), v1::NODE_STATE_JOINING);
  EXPECT_EQ(stale->newer_view().nodes(0).ramp(), 0.5);
  EXPECT_EQ(stale->newer_view().nodes(1).address(), "127.0.0.1:7001");
  EXPECT_EQ(node.channel->GetView(node.In(1))->view().nodes_size(), 2);
  EXPECT_EQ(Explain(node, {TestKey(1)}).view(), 7);
  v1::EraseRequest erase;
  erase.set_keys(testing::KeyBytes(TestKey(1)));
  EXPECT_EQ(node.channel->Erase(erase, node.In(1))->view(), 7);
  node.view = nullptr;
  EXPECT_FALSE(node.channel->GetView(node.In(1))->has_view());
  EXPECT_EQ(node.channel->Match(request, node.In(1))->view(), 0);
}

TEST(HandlersTest, HotSegmentsAreNamedAndReadsAndCommitsAreTold) {
  std::vector<std::string> events;
  Hooks hooks;
  hooks.hot_nodes = [](const Key& group) {
    return group == TestKey(1) ? std::vector<NodeId>{{"n2"}, {"n3"}} : std::vector<NodeId>();
  };
  hooks.read = [&](const Key& group, uint64_t bytes) {
    events.push_back("read " + group.Hex().substr(0, 2) + (bytes > 4000 ? " of a block" : ""));
  };
  hooks.stored = [&](const Key& key, const BlockTraits& traits, std::string_view ns, uint32_t replicas) {
    events.push_back("stored " + key.Hex().substr(0, 2) + " of " + traits.group.Hex().substr(0, 2) + " " +
                     std::string(ns) + " x" + std::to_string(replicas));
  };
  LocalNode node({}, hooks);
  const auto put = [&](uint8_t key, bool copy) {
    const std::string block = TestBlock(TestKey(key), 2, 1);
    v1::PutReserve reserve = ReserveFor(TestKey(key), block.size());
    reserve.set_segment_head(KeyBytes(TestKey(1)));
    reserve.set_replicas(copy ? 0 : 2);
    reserve.set_copy(copy);
    return node.Put(reserve, block);
  };
  ASSERT_TRUE(put(1, false).ok());
  ASSERT_TRUE(put(2, true).ok());  // a copy is sent on to nobody
  ASSERT_TRUE(GetBlocks(node.channel.get(), GetRequestFor({TestKey(2), TestKey(9)}), node.In(1)).ok());
  EXPECT_THAT(events, ElementsAre("stored 01 of 01 test namespace.. x2", "read 01 of a block"));
  const auto match = node.channel->Match(MatchOf({{TestKey(1), TestKey(2)}}), node.In(1));
  ASSERT_EQ(match->hot_size(), 1);
  EXPECT_EQ(match->hot(0).head(), KeyBytes(TestKey(1)));
  EXPECT_THAT(match->hot(0).nodes(), ElementsAre("n2", "n3"));
}

TEST(HandlersTest, ABlockWithATimeToLiveExpires) {
  LocalNode node;
  const std::string block = TestBlock(TestKey(1), 2, 1);
  v1::PutReserve reserve = ReserveFor(TestKey(1), block.size());
  reserve.set_ttl_ms(3'000);
  ASSERT_TRUE(node.Put(reserve, block).ok());
  reserve.set_key(KeyBytes(TestKey(2)));
  reserve.set_ttl_ms(UINT64_MAX);  // as good as never
  const std::string other = TestBlock(TestKey(2), 2, 1);
  ASSERT_TRUE(node.Put(reserve, other).ok());
  EXPECT_EQ(Explain(node, {TestKey(1)}).fates(0).miss(), v1::MISS_REASON_UNSPECIFIED);
  node.runtime.Advance(absl::Seconds(4));
  EXPECT_EQ(Explain(node, {TestKey(1)}).fates(0).miss(), v1::MISS_REASON_EXPIRED);
  EXPECT_EQ(Explain(node, {TestKey(2)}).fates(0).miss(), v1::MISS_REASON_UNSPECIFIED);
}

TEST(HandlersTest, ExplainTellsWhatBecameOfEachBlock) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 1020).ok());  // 4.2 MB, the first to go
  ASSERT_TRUE(node.Put(TestKey(2)).ok());
  ASSERT_TRUE(node.Put(TestKey(3), 2, kOtherNamespace).ok());
  ASSERT_TRUE(node.Put(TestKey(4), 1020).ok());  // takes block 1's room
  v1::EraseRequest erase;
  erase.set_keys(KeyBytes(TestKey(2)));
  ASSERT_TRUE(node.channel->Erase(erase, node.In(1)).ok());
  const int64_t then_ms = absl::ToUnixMillis(node.runtime.Now());
  const auto writer = node.channel->Put(ReserveFor(TestKey(5), 1000), node.In(60));
  ASSERT_TRUE(writer.ok()) << writer.status();
  node.runtime.Advance(absl::Seconds(12));
  const v1::ExplainResponse answer =
      Explain(node, {TestKey(1), TestKey(2), TestKey(3), TestKey(4), TestKey(5), TestKey(6)}, kTestNamespace);
  ASSERT_EQ(answer.fates_size(), 6);
  EXPECT_EQ(answer.fates(0).miss(), v1::MISS_REASON_EVICTED);
  EXPECT_EQ(answer.fates(0).made_room_for(), KeyBytes(TestKey(4)));
  EXPECT_EQ(answer.fates(0).gone_unix_ms(), then_ms);
  EXPECT_EQ(answer.fates(0).detail(), "evicted 12s ago for block " + TestKey(4).Hex());
  EXPECT_EQ(answer.fates(1).miss(), v1::MISS_REASON_ERASED);
  EXPECT_EQ(answer.fates(1).detail(), "erased by request 12s ago");
  EXPECT_EQ(answer.fates(2).miss(), v1::MISS_REASON_IDENTITY_MISMATCH);
  EXPECT_THAT(answer.fates(2).detail(), HasSubstr("stored under this key for namespace 616e6f74"));
  EXPECT_EQ(answer.fates(3).miss(), v1::MISS_REASON_UNSPECIFIED);
  EXPECT_EQ(answer.fates(3).tier(), v1::TIER_HOST);
  EXPECT_GT(answer.fates(3).size_bytes(), 4'000'000);
  EXPECT_THAT(answer.fates(3).detail(), HasSubstr("raw16"));
  EXPECT_EQ(answer.fates(4).miss(), v1::MISS_REASON_BEING_WRITTEN);
  EXPECT_EQ(answer.fates(5).miss(), v1::MISS_REASON_NEVER_STORED);
  EXPECT_EQ(node.Stats().pinned_bytes, 0);
}

TEST(HandlersTest, ExplainDoesNotSaveABlockFromEviction) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 1000).ok());
  ASSERT_TRUE(node.Put(TestKey(2), 900).ok());
  Explain(node, {TestKey(1)});
  ASSERT_TRUE(node.Put(TestKey(3), 900).ok());
  EXPECT_EQ(Explain(node, {TestKey(1)}).fates(0).miss(), v1::MISS_REASON_EVICTED);
}

TEST(HandlersTest, AMismatchNamesTheFieldOnceBothNamespacesAreDescribed) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 2, kOtherNamespace).ok());
  ASSERT_TRUE(Describe(node, kOtherNamespace, R"({"model": "m", "layers": 32, "dtype": "f16"})").ok());
  const v1::ExplainResponse answer =
      Explain(node, {TestKey(1)}, kTestNamespace, R"({"model": "m", "layers": 32, "dtype": "bf16"})");
  EXPECT_THAT(answer.fates(0).detail(), HasSubstr(": dtype is f16, asked bf16"));
}

TEST(HandlersTest, NearNamespacesAreNamedTheSameModelFirst) {
  LocalNode node;
  const auto digest = [](char c) { return std::string(16, c); };
  const auto store = [&](char c, const std::string& text, int blocks) {
    ASSERT_TRUE(Describe(node, digest(c), text).ok());
    for (int i = 0; i < blocks; ++i) ASSERT_TRUE(node.Put(TestKey(c + i), 1, digest(c)).ok());
  };
  store('a', R"({"model": "m", "layers": 32, "rank": 1, "dtype": "f16"})", 2);               // two fields
  store('d', R"({"model": "x", "layers": 32, "rank": 0, "dtype": "bf16"})", 1);              // one field, another model
  store('g', R"({"model": "m", "layers": 32, "rank": 0, "dtype": "f16"})", 1);               // one field
  store('j', R"({"model": "m", "layers": 32, "rank": 3, "dtype": "f16"})", 0);               // no block of it
  store('m', R"({"model": "m", "layers": 16, "rank": 3, "dtype": "f16", "salt": "s"})", 1);  // four fields
  const v1::ExplainResponse answer =
      Explain(node, {}, digest('z'), R"({"model": "m", "layers": 32, "rank": 0, "dtype": "bf16"})");
  ASSERT_EQ(answer.near_size(), 3);
  EXPECT_EQ(answer.near(0).digest(), digest('g'));
  ASSERT_EQ(answer.near(0).fields_size(), 1);
  EXPECT_EQ(answer.near(0).fields(0).name(), "dtype");
  EXPECT_EQ(answer.near(0).fields(0).asked(), "bf16");
  EXPECT_EQ(answer.near(0).fields(0).stored(), "f16");
  EXPECT_EQ(answer.near(1).digest(), digest('a'));
  EXPECT_EQ(answer.near(1).blocks(), 2);
  EXPECT_EQ(answer.near(2).digest(), digest('d'));
}

TEST(HandlersTest, OnlyFourNearNamespacesAreNamedAndTheTableOfThemIsBounded) {
  LocalNode node;
  const auto text = [](int i) { return "{\"model\": \"m\", \"salt\": " + std::to_string(i) + "}"; };
  const auto digest = [](int i) {
    std::string digest(16, '\0');
    std::memcpy(digest.data(), &i, sizeof(i));
    return digest;
  };
  ASSERT_TRUE(Describe(node, digest(0), text(0)).ok());
  ASSERT_TRUE(node.Put(TestKey(0), 1, digest(0)).ok());
  for (int i = 1; i <= 1024; ++i) {
    ASSERT_TRUE(Describe(node, digest(i), text(i)).ok());
    if (i % 100 != 0) continue;
    ASSERT_TRUE(node.Put(TestKey(static_cast<uint8_t>(i / 100)), 1, digest(i)).ok());
  }
  const v1::ExplainResponse answer = Explain(node, {}, digest(5000), text(5000));
  EXPECT_EQ(answer.near_size(), 4);
  for (const v1::NearNamespace& near : answer.near()) EXPECT_NE(near.digest(), digest(0));  // pushed out by the 1,024
}

TEST(HandlersTest, WrongDescriptionsAreNamed) {
  LocalNode node;
  EXPECT_THAT(Message(Describe(node, "short", "{}")), HasSubstr("it is 16 bytes"));
  EXPECT_THAT(Message(Describe(node, kTestNamespace, "[1]")), HasSubstr("no JSON object"));
  EXPECT_THAT(Message(Describe(node, kTestNamespace, "{\"a\": ")), HasSubstr("no JSON object"));
  EXPECT_THAT(Message(Describe(node, kTestNamespace, "{\"a\": " + std::string(9000, '['))),
              HasSubstr("no JSON object"));
  const std::string deep = "{\"a\": " + std::string(5000, '[') + std::string(5000, ']') + "}";
  EXPECT_THAT(Message(Describe(node, kTestNamespace, deep)), HasSubstr("no JSON object"));
  EXPECT_THAT(Message(Describe(node, kTestNamespace, "{\"a\": \"" + std::string(17 << 10, 'x') + "\"}")),
              HasSubstr("at most 16384"));
}

TEST(HandlersTest, AReportedBlockIsVerifiedDroppedIfDamagedAndTold) {
  std::vector<Key> damaged;
  Hooks hooks;
  hooks.damaged = [&](const Key& key, const BlockTraits& traits) {
    EXPECT_EQ(traits.group, key);
    damaged.push_back(key);
  };
  LocalNode node({}, hooks);
  ASSERT_TRUE(node.Put(TestKey(1), 10).ok());
  ASSERT_TRUE(node.Put(TestKey(2), 10).ok());
  ASSERT_TRUE(node.tier->FlipBitsForTest(TestKey(1), 20'000, 0x10));
  v1::ReportRequest report;
  report.set_keys(GetRequestFor({TestKey(1), TestKey(2), TestKey(3)}).keys());
  const auto response = node.channel->Report(report, node.In(1));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->damaged(), 1);
  EXPECT_THAT(damaged, ElementsAre(TestKey(1)));
  EXPECT_EQ(node.Figure("kvist_damaged_blocks_total{found_by=\"report\"}"), 1);
  const v1::ExplainResponse answer = Explain(node, {TestKey(1), TestKey(2)});
  EXPECT_EQ(answer.fates(0).miss(), v1::MISS_REASON_CHECKSUM);
  EXPECT_EQ(answer.fates(1).miss(), v1::MISS_REASON_UNSPECIFIED);
  report.set_keys(std::string(65 * 32, 'k'));
  EXPECT_THAT(Message(node.channel->Report(report, node.In(1)).status()), HasSubstr("at most 64 are allowed"));
}

TEST(HandlersTest, ADamagedHeadIsAChecksumMissForReadersAndExplained) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 10).ok());
  ASSERT_TRUE(node.tier->FlipBitsForTest(TestKey(1), 40, 1));
  const auto fetched = GetBlocks(node.channel.get(), GetRequestFor({TestKey(1)}), node.In(1));
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->headers[0].miss(), v1::MISS_REASON_CHECKSUM);
  const v1::ExplainResponse answer = Explain(node, {TestKey(1)});
  EXPECT_EQ(answer.fates(0).miss(), v1::MISS_REASON_CHECKSUM);
  EXPECT_THAT(answer.fates(0).detail(), HasSubstr("checksum"));
}

class ConflictTest : public ::testing::Test {
 protected:
  ConflictTest() {
    hooks_.conflict = [this](const Key& key) { conflicts_.push_back(key); };
    node_ = std::make_unique<LocalNode>(AdmissionLimits(), hooks_);
    first_ = TestBlock(TestKey(1), 600, 1);
    EXPECT_TRUE(node_->Put(ReserveFor(TestKey(1), first_.size()), first_).ok());
  }
  absl::Status PutCopy(const std::string& block) {
    v1::PutReserve reserve = ReserveFor(TestKey(1), block.size());
    reserve.set_copy(true);
    return node_->Put(reserve, block);
  }
  std::string Stored() { return GetBlocks(node_->channel.get(), GetRequestFor({TestKey(1)}), node_->In(1))->bytes[0]; }

  Hooks hooks_;
  std::vector<Key> conflicts_;
  std::unique_ptr<LocalNode> node_;
  std::string first_;
};

TEST_F(ConflictTest, ACopyWithOtherBytesIsCountedAndToldAndTheFirstIsKept) {
  const absl::Status status = PutCopy(TestBlock(TestKey(1), 600, 2));
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << status;
  EXPECT_THAT(conflicts_, ElementsAre(TestKey(1)));
  EXPECT_EQ(node_->Figure("kvist_conflicting_blocks_total"), 1);
  EXPECT_EQ(Stored(), first_);
  EXPECT_EQ(node_->Stats().reserved_bytes, 0);
}

TEST_F(ConflictTest, TheSameBytesAreNoConflictNorAreBytesThatAreNoBlock) {
  EXPECT_EQ(PutCopy(first_).code(), absl::StatusCode::kAlreadyExists);
  std::string broken = TestBlock(TestKey(1), 600, 2);
  broken[40] ^= 1;
  EXPECT_EQ(PutCopy(broken).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(PutCopy(TestBlock(TestKey(7), 600, 2)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(node_->Figure("kvist_conflicting_blocks_total"), 0);
  EXPECT_EQ(Stored(), first_);
}

TEST_F(ConflictTest, ACopyThatEndsBeforeItsHeadIsWholeIsNotStored) {
  v1::PutReserve reserve = ReserveFor(TestKey(1), first_.size());
  reserve.set_copy(true);
  auto session = node_->handlers->OpenPut(Caller::Anyone(), node_->In(10));
  ASSERT_TRUE(*(*session)->Reserve(reserve));
  const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(first_.data()), 100);
  ASSERT_TRUE((*session)->Write(0, bytes).ok());
  EXPECT_FALSE((*session)->over());
  const auto response = (*session)->Commit(first_.size());
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_FALSE(response->stored());
  EXPECT_TRUE(conflicts_.empty());
}

TEST_F(ConflictTest, AWriterWhoIsNoCopierIsTurnedAwayAtOnce) {
  EXPECT_EQ(node_->channel->Put(ReserveFor(TestKey(1), first_.size()), node_->In(1)).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(HandlersTest, ADrainingNodeTakesNothingNewAndServesWhatItHas) {
  bool taking = true;
  Hooks hooks;
  hooks.taking_blocks = [&] { return taking; };
  LocalNode node({}, hooks);
  node.view = ViewNumbered(9);
  ASSERT_TRUE(node.Put(TestKey(1)).ok());
  taking = false;
  const absl::Status refused = node.Put(TestKey(2));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Message(refused), "this node is draining: the view 9 names its successor");
  EXPECT_EQ(node.channel->Match(MatchOf({{TestKey(1)}}), node.In(1))->chains(0).hits(), 1);
}

TEST(HandlersTest, AdoptionsAreCheckedAndPassedOn) {
  std::vector<v1::AdoptRequest> passed;
  Hooks hooks;
  hooks.adopt = [&](TenantId, const v1::AdoptRequest& request) {
    passed.push_back(request);
    return 1;
  };
  LocalNode node({}, hooks);
  v1::AdoptRequest request;
  request.set_from("n1");
  request.set_keys(KeyBytes(TestKey(1)) + KeyBytes(TestKey(2)));
  request.set_segment_heads(KeyBytes(TestKey(1)));
  request.set_namespace_digest(kTestNamespace);
  EXPECT_THAT(Message(node.channel->Adopt(request, node.In(1)).status()), HasSubstr("one head for each of the 2 keys"));
  request.set_segment_heads(request.keys());
  EXPECT_EQ(node.channel->Adopt(request, node.In(1))->accepted(), 1);
  request.set_from("n0");
  EXPECT_THAT(Message(node.channel->Adopt(request, node.In(1)).status()), HasSubstr("cannot fetch from itself"));
  EXPECT_EQ(passed.size(), 1);
}

TEST(HandlersTest, ACallAfterItsDeadlineOrWithOneTooFarIsRefused) {
  LocalNode node;
  EXPECT_EQ(node.channel->ServerInfo(node.runtime.Now()).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Message(node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node.In(3600)).status()),
              HasSubstr("need a deadline of at most 10m"));
  EXPECT_THAT(Message(node.handlers->OpenPut(Caller::Anyone(), absl::InfiniteFuture()).status()),
              HasSubstr("need a deadline"));
}

}  // namespace
}  // namespace kvist
