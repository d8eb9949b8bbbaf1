// Goal: what a node does with copies from other nodes and with blocks of its own that are damaged: a spare copy lasts
// once a real one comes, a damaged block makes way and is told of, and nobody is told "stored" too early.
// Method: CacheHandlers over a host tier on a manual clock, spoken to through LocalChannel; damage is made by flipping
// bits of resting blocks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

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

constexpr size_t kInTheHead = 40;  // an offset

class CopiesTest : public ::testing::Test {
 protected:
  CopiesTest() {
    hooks_.taking_blocks = [this] { return taking_; };
    hooks_.damaged = [this](const Key& key, const BlockTraits&) { mended_.push_back(key); };
    hooks_.adopt = [](TenantId, const v1::AdoptRequest&) { return 1u; };
    node_ = std::make_unique<LocalNode>(AdmissionLimits(), hooks_);
  }
  v1::PutReserve Copy(const Key& key, uint32_t replicas, uint64_t ttl_ms = 0) {
    v1::PutReserve reserve = ReserveFor(key, TestBlock(key, 10, 1).size());
    reserve.set_copy(true);
    reserve.set_replicas(replicas);
    reserve.set_ttl_ms(ttl_ms);
    return reserve;
  }
  absl::Status Put(const v1::PutReserve& reserve) { return node_->Put(reserve, TestBlock(TestKey(1), 10, 1)); }
  v1::MissReason Read() {
    const auto fetched = GetBlocks(node_->channel.get(), GetRequestFor({TestKey(1)}), node_->In(1));
    EXPECT_TRUE(fetched.ok()) << fetched.status();
    return fetched.ok() ? fetched->headers[0].miss() : v1::MISS_REASON_UNSPECIFIED;
  }
  double Damaged(const std::string& found_by) {
    return node_->Figure("kvist_damaged_blocks_total{found_by=\"" + found_by + "\"}");
  }

  Hooks hooks_;
  bool taking_ = true;
  std::vector<Key> mended_;
  std::unique_ptr<LocalNode> node_;
};

TEST_F(CopiesTest, ASpareCopyLastsOnceAKeepersCopyComes) {
  ASSERT_TRUE(Put(Copy(TestKey(1), 0, 60'000)).ok());
  EXPECT_TRUE(node_->tier->Get(TestKey(1))->traits.spare);
  EXPECT_EQ(Put(Copy(TestKey(1), 2)).code(), absl::StatusCode::kAlreadyExists);
  node_->runtime.Advance(absl::Seconds(61));
  EXPECT_EQ(Read(), v1::MISS_REASON_UNSPECIFIED);
}

TEST_F(CopiesTest, ASpareCopyLastsOnceAWorkerPutsTheBlock) {
  ASSERT_TRUE(Put(Copy(TestKey(1), 0, 60'000)).ok());
  EXPECT_EQ(Put(ReserveFor(TestKey(1), 50'000)).code(), absl::StatusCode::kAlreadyExists);
  node_->runtime.Advance(absl::Seconds(61));
  EXPECT_EQ(Read(), v1::MISS_REASON_UNSPECIFIED);
}

TEST_F(CopiesTest, ACopyThatAReplicaKeepsForATimeIsNoSpareOne) {
  ASSERT_TRUE(Put(Copy(TestKey(1), 2, 60'000)).ok());
  EXPECT_FALSE(node_->tier->Get(TestKey(1))->traits.spare);
  node_->runtime.Advance(absl::Seconds(61));
  EXPECT_EQ(Read(), v1::MISS_REASON_EXPIRED);
}

TEST_F(CopiesTest, ExplainTellsWhenABlockWillExpire) {
  ASSERT_TRUE(Put(Copy(TestKey(1), 0, 60'000)).ok());
  ASSERT_TRUE(node_->Put(TestKey(2)).ok());
  v1::ExplainRequest request;
  request.set_keys(GetRequestFor({TestKey(1), TestKey(2)}).keys());
  const auto answer = node_->channel->Explain(request, node_->In(1));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->fates(0).expires_unix_ms(), absl::ToUnixMillis(node_->runtime.Now()) + 60'000);
  EXPECT_EQ(answer->fates(1).expires_unix_ms(), 0);
}

TEST_F(CopiesTest, TheFirstReadOfABlockWhoseHeadIsDamagedDropsItCountsItAndHasItMended) {
  ASSERT_TRUE(node_->Put(TestKey(1), 10).ok());
  ASSERT_TRUE(node_->tier->FlipBitsForTest(TestKey(1), kInTheHead, 1));
  EXPECT_EQ(Read(), v1::MISS_REASON_CHECKSUM);
  EXPECT_EQ(Damaged("read"), 1);
  EXPECT_THAT(mended_, ElementsAre(TestKey(1)));
  v1::MatchRequest match;
  match.add_chains()->set_keys(KeyBytes(TestKey(1)));
  EXPECT_EQ(node_->channel->Match(match, node_->In(1))->chains(0).hits(), 0) << "it is no hit any more";
  EXPECT_TRUE(node_->Put(TestKey(1), 10).ok()) << "and can be stored again";
  EXPECT_EQ(Read(), v1::MISS_REASON_UNSPECIFIED);
}

TEST_F(CopiesTest, ACopyTakesThePlaceOfABlockWhoseHeadIsDamaged) {
  ASSERT_TRUE(node_->Put(TestKey(1), 10).ok());
  ASSERT_TRUE(node_->tier->FlipBitsForTest(TestKey(1), kInTheHead, 1));
  EXPECT_TRUE(Put(Copy(TestKey(1), 2)).ok());
  EXPECT_EQ(Damaged("copy"), 1);
  EXPECT_EQ(Read(), v1::MISS_REASON_UNSPECIFIED);
}

TEST_F(CopiesTest, ACopyOfABlockThatIsBeingWrittenIsToBeSentAgain) {
  const auto writer = node_->channel->Put(ReserveFor(TestKey(1), 50'000), node_->In(10));
  ASSERT_TRUE(writer.ok()) << writer.status();
  const absl::Status copied = Put(Copy(TestKey(1), 2));
  EXPECT_EQ(copied.code(), absl::StatusCode::kAborted) << copied;
  EXPECT_EQ(Put(ReserveFor(TestKey(1), 50'000)).code(), absl::StatusCode::kAlreadyExists) << "a worker need not wait";
}

TEST_F(CopiesTest, MoreThanThreeReplicasAreRefusedByASentence) {
  v1::PutReserve reserve = ReserveFor(TestKey(1), 50'000);
  reserve.set_replicas(4);
  const absl::Status status = Put(reserve);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("replicas is 4; a block stands on at most 3 nodes"));
}

TEST_F(CopiesTest, ADrainingNodeDropsDamageButAdoptsAndMendsNothing) {
  ASSERT_TRUE(node_->Put(TestKey(1), 10).ok());
  ASSERT_TRUE(node_->tier->FlipBitsForTest(TestKey(1), kInTheHead, 1));
  v1::AdoptRequest adopt;
  adopt.set_from("n1");
  adopt.set_keys(KeyBytes(TestKey(2)));
  adopt.set_segment_heads(KeyBytes(TestKey(2)));
  adopt.set_namespace_digest(kTestNamespace);
  EXPECT_EQ(node_->channel->Adopt(adopt, node_->In(1))->accepted(), 1);
  taking_ = false;
  EXPECT_EQ(node_->channel->Adopt(adopt, node_->In(1))->accepted(), 0);
  EXPECT_EQ(Read(), v1::MISS_REASON_CHECKSUM);
  EXPECT_EQ(Damaged("read"), 1);
  EXPECT_TRUE(mended_.empty());
}

TEST_F(CopiesTest, ACopyWithOtherBytesIsNamedInTheLog) {
  ASSERT_TRUE(node_->Put(TestKey(1), 10).ok());
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(node_->Put(Copy(TestKey(1), 2), TestBlock(TestKey(1), 10, 2)).code(), absl::StatusCode::kAlreadyExists);
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("a copy has other bytes than the stored block; the first is kept"));
  EXPECT_THAT(log, HasSubstr(TestKey(1).Hex()));
}

}  // namespace
}  // namespace kvist
