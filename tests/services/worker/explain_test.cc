// Goal: a worker can say of every block of a prompt where it is, or why it is not there. Method: a client over nodes in
// memory that are told what became of each block.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/worker/explain_json.h"
#include "tests/services/worker/client_fixture.h"

namespace kvist {
namespace {

using testing::HasSubstr;

class ExplainTest : public ClientTest {
 protected:
  ExplainResult Explain() {
    auto result = client().Explain(chain_);
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->blocks.size(), kBlocks);
    return result.value_or(ExplainResult());
  }
  void Lose(size_t block, v1::MissReason miss, const std::string& detail = "") {
    OwnerOf(block).blocks.erase(KeyBytes(block));
    v1::BlockFate& fate = OwnerOf(block).fates[KeyBytes(block)];
    fate.set_miss(miss);
    fate.set_detail(detail);
  }
};

TEST_F(ExplainTest, EveryReasonOfANodeIsToldWithWhenAndForWhat) {
  Put();
  Lose(3, v1::MISS_REASON_EVICTED);
  v1::BlockFate& evicted = OwnerOf(3).fates[KeyBytes(3)];
  evicted.set_gone_unix_ms(1793000000000);
  evicted.set_made_room_for(KeyBytes(7));
  Lose(5, v1::MISS_REASON_IDENTITY_MISMATCH, "dtype is f16, not bf16");
  Lose(6, v1::MISS_REASON_CHECKSUM, "plane 2 differs from its checksum");
  Lose(9, v1::MISS_REASON_EXPIRED);
  Lose(11, v1::MISS_REASON_ERASED);
  const ExplainResult result = Explain();
  EXPECT_EQ(result.leading, 3u);
  EXPECT_EQ(result.blocks[3].miss, v1::MISS_REASON_EVICTED);
  EXPECT_EQ(result.blocks[3].node, OwnerName(3));
  EXPECT_EQ(result.blocks[3].gone, absl::FromUnixMillis(1793000000000));
  EXPECT_EQ(result.blocks[3].made_room_for, chain_[7]);
  EXPECT_EQ(result.blocks[5].detail, "dtype is f16, not bf16");
  EXPECT_EQ(result.blocks[6].miss, v1::MISS_REASON_CHECKSUM);
  EXPECT_EQ(result.blocks[9].miss, v1::MISS_REASON_EXPIRED);
  EXPECT_EQ(result.blocks[11].miss, v1::MISS_REASON_ERASED);
  for (const size_t block : {0, 1, 2, 4, 7, 8, 10, 12, 19}) {
    EXPECT_EQ(result.blocks[block].miss, v1::MISS_REASON_UNSPECIFIED) << block;
    EXPECT_EQ(result.blocks[block].node, OwnerName(block));
    EXPECT_EQ(result.blocks[block].tier, v1::TIER_HOST);
    EXPECT_EQ(result.blocks[block].size_bytes, StoredBlock(block).size());
  }
}

TEST_F(ExplainTest, APresentBlockSaysWhenItExpires) {
  Put();
  OwnerOf(2).fates[KeyBytes(2)].set_expires_unix_ms(1793000000000);
  const ExplainResult result = Explain();
  EXPECT_EQ(result.leading, kBlocks);
  EXPECT_EQ(result.blocks[2].expires, absl::FromUnixMillis(1793000000000));
  EXPECT_EQ(result.blocks[3].expires, absl::InfiniteFuture());
  EXPECT_THAT(ExplainJson(result.blocks[2]).dump(), HasSubstr("\"expires\":\"2026-10-"));
  EXPECT_THAT(ExplainJson(result.blocks[3]).dump(), testing::Not(HasSubstr("expires")));
}

TEST_F(ExplainTest, APromptThatNobodyStoredIsNeverStored) {
  const ExplainResult result = Explain();
  EXPECT_EQ(result.leading, 0u);
  for (const BlockExplanation& block : result.blocks) EXPECT_EQ(block.miss, v1::MISS_REASON_NEVER_STORED);
}

TEST_F(ExplainTest, AnOwnerThatIsDownIsTheReasonOfItsBlocks) {
  Put();
  OwnerOf(0).down = true;
  const ExplainResult result = Explain();
  for (size_t block = 0; block < kBlocks; ++block) {
    const bool lost = owners_[block] == owners_[0];
    EXPECT_EQ(result.blocks[block].miss, lost ? v1::MISS_REASON_OWNER_DOWN : v1::MISS_REASON_UNSPECIFIED);
    if (lost) EXPECT_EQ(result.blocks[block].detail, "connection refused");
  }
}

TEST_F(ExplainTest, AnOwnerThatIsFullIsAskedAgainWhenItSaidAndIsOverloadedElse) {
  Put();
  FakeNode& full = OwnerOf(0);
  full.retry_hint = absl::Milliseconds(50);
  full.refuse_reads = 2;
  const absl::Time start = absl::Now();
  EXPECT_EQ(Explain().leading, kBlocks);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(100));
  EXPECT_EQ(client().counters().retries, 2u);
  full.retry_hint = std::nullopt;
  full.refuse_reads = 1;
  const ExplainResult result = Explain();
  for (size_t block = 0; block < kBlocks; ++block) {
    const bool lost = owners_[block] == owners_[0];
    EXPECT_EQ(result.blocks[block].miss, lost ? v1::MISS_REASON_OVERLOADED : v1::MISS_REASON_UNSPECIFIED);
    EXPECT_EQ(result.blocks[block].detail, lost ? "the node is full" : "");
  }
  EXPECT_THAT(ExplainJson(result).dump(), HasSubstr("\"miss_reason\":\"overloaded\""));
}

TEST_F(ExplainTest, ABlockWhereReadersLookSecondOrNoMoreSaysSo) {
  Put();
  const size_t away = (owners_[0] + 1) % 3;
  cluster_.node(away).blocks[KeyBytes(0)] = StoredBlock(0);
  Lose(0, v1::MISS_REASON_EVICTED);
  BlockExplanation block = Explain().blocks[0];
  EXPECT_EQ(block.miss, v1::MISS_REASON_OWNER_CHANGED);
  EXPECT_EQ(block.node, absl::StrCat("n", away));
  EXPECT_EQ(block.detail, absl::StrCat("at a node that readers do not ask: its owner ", OwnerName(0), " says evicted"));
  EXPECT_GT(block.size_bytes, 0u);

  options_.view.nodes[away].state = NodeState::kDraining;  // whatever it owned, it is asked second
  options_.replicas = 2;
  NewClient();
  client();
  const size_t previous = away;
  for (size_t i = 0; i < kBlocks; ++i) {
    const SegmentNodes nodes = Place(chain_[SegmentHead(i)], options_.view, 2);
    if (nodes.previous != previous) continue;
    cluster_.node(previous).blocks[KeyBytes(i)] = "bytes";
    Lose(i, v1::MISS_REASON_NEVER_STORED);
    for (const size_t owner : nodes.owners) cluster_.node(owner).blocks.erase(KeyBytes(i));
    block = Explain().blocks[i];
    EXPECT_EQ(block.miss, v1::MISS_REASON_OWNER_CHANGED);
    EXPECT_THAT(block.detail, HasSubstr("at the previous owner only: its owner "));
    return;
  }
  FAIL() << "no segment has a previous owner: the test is too small";
}

TEST_F(ExplainTest, ACopyIsPresentAndSaysWhatTheOwnerSays) {
  options_.replicas = 2;
  Put();
  const size_t replica = Owners(chain_[0], options_.view, 2)[1];
  cluster_.node(replica).blocks[KeyBytes(0)] = StoredBlock(0);
  Lose(0, v1::MISS_REASON_EVICTED);
  const ExplainResult result = Explain();
  EXPECT_EQ(result.leading, kBlocks);
  EXPECT_EQ(result.blocks[0].node, absl::StrCat("n", replica));
  EXPECT_EQ(result.blocks[0].detail, absl::StrCat("a copy: its owner ", OwnerName(0), " says evicted"));
}

TEST_F(ExplainTest, NamespacesThatAlmostMatchAreNamedOnce) {
  v1::NearNamespace near;
  near.set_digest(std::string(16, '\xab'));
  near.set_blocks(7);
  v1::FieldDifference& field = *near.add_fields();
  field.set_name("dtype");
  field.set_asked("bf16");
  field.set_stored("f16");
  for (size_t i = 0; i < 3; ++i) cluster_.node(i).near = {near};
  const ExplainResult result = Explain();
  ASSERT_EQ(result.near.size(), 1u);
  EXPECT_EQ(result.near[0].blocks, 21u);
  const std::string json = ExplainJson(result).dump();
  EXPECT_THAT(json, HasSubstr(R"("near_namespaces":[{"digest":"abababababababababababababababab","blocks":21,)"
                              R"("fields":[{"name":"dtype","asked":"bf16","stored":"f16"}]}])"));
  EXPECT_THAT(json, HasSubstr(R"({"present":false,"miss_reason":"never_stored","node":"n)"));
}

TEST_F(ExplainTest, AnEmptyPromptHasNothingToExplain) {
  const auto result = client().Explain({});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->blocks.empty());
}

}  // namespace
}  // namespace kvist
