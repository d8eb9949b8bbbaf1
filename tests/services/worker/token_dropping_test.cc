// Goal: the policies keep the tokens that their papers say, and what is kept is found by whoever has the same prompt and
// policy, and by nobody else.
// Method: choices against plain definitions of them; then KV of random bits, every row its own, through real nodes.
#include "services/worker/token_dropping.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/transport/miss_reason.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kSeed = 20261129;

TEST(StreamingPositions, AreTheFirstAndTheLast) {
  EXPECT_THAT(StreamingPositions({2, 3}, 10), ElementsAre(0, 1, 7, 8, 9));
  EXPECT_THAT(StreamingPositions({0, 2}, 3), ElementsAre(1, 2));
  EXPECT_THAT(StreamingPositions({4, 1}, 6), ElementsAre(0, 1, 2, 3, 5));
}

TEST(HeavyHitterPositions, AreTheLastAndThoseWithTheMostAttentionBefore) {
  // The last two are kept whatever they got; 5 and 9 are the largest before them.
  EXPECT_THAT(HeavyHitterPositions({2, 2}, {1, 5, 0, 9, 2, 100, 0}), ElementsAre(1, 3, 5, 6));
  EXPECT_THAT(HeavyHitterPositions({1, 0}, {1, 5, 0}), ElementsAre(2));
  EXPECT_THAT(HeavyHitterPositions({0, 2}, {1, 5, 7}), ElementsAre(1, 2));
}

TEST(HeavyHitterPositions, KeepTheEarlierOfEqualSums) {
  EXPECT_THAT(HeavyHitterPositions({1, 3}, std::vector<float>(9, 0.5f)), ElementsAre(0, 1, 2, 8));
}

TEST(HeavyHitterPositions, OfRandomSumsNoneThatWasDroppedHadMore) {
  std::mt19937 random(kSeed);
  std::exponential_distribution<float> sums;
  std::vector<float> attention(500);
  for (float& sum : attention) sum = sums(random);
  const std::vector<uint32_t> kept = HeavyHitterPositions({40, 60}, attention);
  ASSERT_EQ(kept.size(), 100u);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  const std::set<uint32_t> is_kept(kept.begin(), kept.end());
  ASSERT_EQ(is_kept.size(), 100u);
  float least_kept = INFINITY, most_dropped = 0;
  for (uint32_t t = 0; t < 460; ++t) {
    if (is_kept.contains(t)) least_kept = std::min(least_kept, attention[t]);
    if (!is_kept.contains(t)) most_dropped = std::max(most_dropped, attention[t]);
  }
  EXPECT_GE(least_kept, most_dropped) << "seed " << kSeed;
  for (uint32_t t = 460; t < 500; ++t) EXPECT_TRUE(is_kept.contains(t)) << t;
}

Namespace ModelNamespace() {
  Namespace ns;
  ns.model = "model";
  ns.layers = 2;
  ns.heads = 3;
  ns.head_dim = 64;
  ns.tokens_per_block = 16;
  return ns;
}

std::vector<uint32_t> Prompt(size_t tokens) {
  std::vector<uint32_t> prompt(tokens);
  for (size_t i = 0; i < tokens; ++i) prompt[i] = static_cast<uint32_t>(i * 31 + 7);
  return prompt;
}

TEST(KeptKeys, AreNoKeysOfTheSharedPrefixAndNameAllThatTheKvFollowsFrom) {
  const Namespace ns = ModelNamespace();
  const StreamingLlm policy = {4, 28}, other_policy = {8, 24};
  const std::vector<uint32_t> prompt = Prompt(64), positions = StreamingPositions(policy, 64);
  std::vector<uint32_t> other_prompt = prompt, other_positions = positions;
  ++other_prompt[40];     // which is dropped
  ++other_positions[20];  // in the second block
  std::set<std::string> keys;
  for (const Key& key : ChainKeys(NamespaceDigest(ns), 16, prompt)) keys.insert(key.Hex());
  // Not even the prompt's own prefix under the namespace that the policy names.
  for (const Key& key : ChainKeys(NamespaceDigest(KeptNamespace(ns, policy)), 16, prompt)) keys.insert(key.Hex());
  ASSERT_EQ(keys.size(), 8u);
  for (const auto& [of_policy, of_prompt] :
       {std::pair{policy, prompt}, {other_policy, prompt}, {policy, other_prompt}}) {
    for (const Key& key : KeptKeys(KeptNamespace(ns, of_policy), of_prompt, positions)) {
      EXPECT_TRUE(keys.insert(key.Hex()).second) << key.Hex();
    }
  }
  const auto chain = KeptKeys(KeptNamespace(ns, policy), prompt, positions);
  const auto other_chain = KeptKeys(KeptNamespace(ns, policy), prompt, other_positions);
  EXPECT_EQ(chain[0], other_chain[0]);
  EXPECT_NE(chain[1], other_chain[1]);
}

TEST(KeptNamespace, NamesThePolicyAndItsNumbers) {
  EXPECT_EQ(KeptNamespace(ModelNamespace(), StreamingLlm{4, 28}).model, "model kept: streaming sinks=4 window=28");
  EXPECT_EQ(KeptNamespace(ModelNamespace(), HeavyHitters{8, 24}).model, "model kept: h2o recent=8 heavy=24");
}

TEST(ValidatePolicy, TakesWholeBlocksOnly) {
  EXPECT_TRUE(ValidatePolicy(StreamingLlm{4, 28}, 16).ok());
  EXPECT_EQ(ValidatePolicy(StreamingLlm{4, 16}, 16).ToString(),
            "INVALID_ARGUMENT: streaming sinks=4 window=16 keeps 20 tokens, which do not fill blocks of 16");
  EXPECT_FALSE(ValidatePolicy(HeavyHitters{0, 0}, 16).ok());
  EXPECT_TRUE(ValidatePolicy(HeavyHitters{4096, 4096}, 16).ok());
  EXPECT_EQ(ValidatePolicy(HeavyHitters{4096, 4112}, 16).ToString(),
            "INVALID_ARGUMENT: h2o recent=4096 heavy=4112 keeps 8208 tokens; a block holds 8192 positions");
}

class KeptTokensTest : public ::testing::Test {
 protected:
  static constexpr size_t kTokens = 150;
  static constexpr StreamingLlm kStreaming = {4, 60};
  static constexpr HeavyHitters kHitters = {24, 40};
  static constexpr size_t kKept = 64;

  KeptTokensTest() {
    options_.ns = ModelNamespace();
    options_.codec = Codec::kRaw16;
    options_.transport = transport_.get();
    options_.deadline = absl::Seconds(20);
    options_.view.number.value = 1;
    for (size_t i = 0; i < 2; ++i) {
      nodes_.push_back(testing::StartNode(8 << 20));
      options_.view.nodes.push_back(Node{NodeId{absl::StrCat("n", i)}, nodes_[i]->data_address(), 1, 8 << 20});
    }
    std::mt19937 random(kSeed);
    kv_.resize(2 * 2 * 3 * kTokens * 64);
    for (uint16_t& value : kv_) value = static_cast<uint16_t>(random());
    for (float& sum : attention_) sum = static_cast<float>(random() % 1000);
  }

  std::unique_ptr<KeptTokens> Worker(const DropPolicy& policy) {
    auto worker = KeptTokens::Create(options_, policy);
    EXPECT_TRUE(worker.ok()) << worker.status();
    return *std::move(worker);
  }
  PutResult Put(KeptTokens& worker, const std::vector<uint32_t>& prompt, const std::vector<float>& attention) {
    const BlockShape shape = options_.ns.Shape();
    const auto put = worker.Put(prompt, attention, ContiguousPages<const uint16_t>(kv_.data(), shape, kTokens));
    EXPECT_TRUE(put.ok()) << put.status();
    return put.value_or(PutResult());
  }
  KeptGetResult Get(KeptTokens& worker, const std::vector<uint32_t>& prompt) {
    got_.assign(2 * 2 * 3 * kKept * 64, 0);
    auto got = worker.Get(prompt, ContiguousPages(got_.data(), options_.ns.Shape(), kKept));
    EXPECT_TRUE(got.ok()) << got.status();
    return got.value_or(KeptGetResult());
  }
  void ExpectRowsOf(const std::vector<uint32_t>& positions) {
    size_t different = 0;
    for (size_t row = 0; row < 2 * 2 * 3; ++row) {
      for (size_t i = 0; i < positions.size(); ++i) {
        const auto is = got_.begin() + (row * kKept + i) * 64, was = kv_.begin() + (row * kTokens + positions[i]) * 64;
        different += !std::equal(is, is + 64, was);
      }
    }
    EXPECT_EQ(different, 0u) << "rows, seed " << kSeed;
  }

  ClientOptions options_;
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::vector<std::unique_ptr<NodeServer>> nodes_;
  std::vector<uint16_t> kv_, got_;
  std::vector<float> attention_ = std::vector<float>(kTokens);
  const std::vector<uint32_t> prompt_ = Prompt(kTokens);
};

TEST_F(KeptTokensTest, StreamingComesBackWithThePositionsOfItsTokens) {
  const PutResult put = Put(*Worker(kStreaming), prompt_, {});
  EXPECT_EQ(put.stored, 4u) << put.failure;
  const KeptGetResult got = Get(*Worker(kStreaming), prompt_);
  EXPECT_EQ(got.got.blocks, 4u) << got.got.why;
  EXPECT_EQ(got.positions, StreamingPositions(kStreaming, kTokens));
  ExpectRowsOf(got.positions);
}

TEST_F(KeptTokensTest, HeavyHittersComeBackWithoutTheSumsThatChoseThem) {
  const PutResult put = Put(*Worker(kHitters), prompt_, attention_);
  EXPECT_EQ(put.stored, 4u) << put.failure;
  const KeptGetResult got = Get(*Worker(kHitters), prompt_);
  EXPECT_EQ(got.got.blocks, 4u) << got.got.why;
  EXPECT_EQ(got.positions, HeavyHitterPositions(kHitters, attention_));
  ExpectRowsOf(got.positions);
}

TEST_F(KeptTokensTest, ASecondChoiceForOnePromptStoresTheFirstOnesTokens) {
  EXPECT_EQ(Put(*Worker(kHitters), prompt_, attention_).stored, 4u);
  std::vector<float> other = attention_;
  std::reverse(other.begin(), other.end());
  ASSERT_NE(HeavyHitterPositions(kHitters, other), HeavyHitterPositions(kHitters, attention_));
  const PutResult again = Put(*Worker(kHitters), prompt_, other);
  EXPECT_EQ(again.present, 4u);
  EXPECT_EQ(again.stored, 0u);
  EXPECT_EQ(Get(*Worker(kHitters), prompt_).positions, HeavyHitterPositions(kHitters, attention_));
}

TEST_F(KeptTokensTest, AnotherPolicyOrPromptAndTheSharedPrefixFindNothing) {
  Put(*Worker(kStreaming), prompt_, {});
  Put(*Worker(kHitters), prompt_, attention_);
  std::vector<uint32_t> other_prompt = prompt_;
  ++other_prompt[70];  // dropped by both, most likely; its KV is in all that come after it
  for (const DropPolicy& policy : {DropPolicy(kStreaming), DropPolicy(kHitters)}) {
    const KeptGetResult got = Get(*Worker(policy), other_prompt);
    EXPECT_EQ(got.got.miss, v1::MISS_REASON_NEVER_STORED);
    EXPECT_TRUE(got.positions.empty());
  }
  EXPECT_EQ(Get(*Worker(StreamingLlm{8, 56}), prompt_).got.miss, v1::MISS_REASON_NEVER_STORED);
  EXPECT_EQ(Get(*Worker(HeavyHitters{32, 32}), prompt_).got.miss, v1::MISS_REASON_NEVER_STORED);
  const auto shared = Client::Create(options_);
  ASSERT_TRUE(shared.ok());
  const auto match = (*shared)->Match((*shared)->Keys(prompt_));
  ASSERT_TRUE(match.ok());
  EXPECT_EQ(match->blocks(), 0u);
}

TEST_F(KeptTokensTest, WithoutNodesAPutSaysThatThePositionsAreMissing) {
  options_.deadline = absl::Milliseconds(300);
  nodes_.clear();
  const PutResult put = Put(*Worker(kHitters), prompt_, attention_);
  EXPECT_EQ(put.failed, 4u);
  EXPECT_THAT(put.failure, HasSubstr("the positions were not stored: "));
}

TEST_F(KeptTokensTest, WhatIsWrongWithACallIsNamed) {
  const std::unique_ptr<KeptTokens> worker = Worker(kHitters);
  const ConstPages pages = ContiguousPages<const uint16_t>(kv_.data(), options_.ns.Shape(), kTokens);
  const auto error = [&](const std::vector<uint32_t>& prompt, const std::vector<float>& attention) {
    return std::string(worker->Put(prompt, attention, pages).status().message());
  };
  EXPECT_EQ(error(Prompt(64), std::vector<float>(64)),
            "a prompt of 64 tokens; h2o recent=24 heavy=40 drops nothing of it: put it under its own prefix");
  EXPECT_EQ(error(prompt_, {}), "0 attention sums for a prompt of 150 tokens");
  std::vector<float> not_sums = attention_;
  not_sums[3] = NAN;
  EXPECT_EQ(error(prompt_, not_sums), "an attention sum is NaN");
  EXPECT_THAT(KeptTokens::Create(options_, StreamingLlm{4, 16}).status().ToString(), HasSubstr("fill blocks of 16"));
  options_.codec = Codec::kQ;
  EXPECT_THAT(KeptTokens::Create(options_, kStreaming).status().ToString(), HasSubstr("codec q counts positions"));
}

}  // namespace
}  // namespace kvist
