// Goal    Everything wrong with a request that a host can see is refused before a launch, and the message says what.
// Method  A request that is right, with one thing changed at a time.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/plan_limits.h"
#include "tests/kernels/cuda/plan_fixture.h"

namespace kvist::cuda {
namespace {

using testing::HasSubstr;

constexpr BlockShape kShape = {2, 2, 32, 64, Dtype::kBf16};

class Plan : public testing::Test {
 protected:
  void ExpectRefused(absl::StatusCode code, const std::string& text, const std::string& more = "") {
    const absl::Status status = one_.MakeStatus();
    EXPECT_EQ(status.code(), code) << status.ToString();
    EXPECT_THAT(MessageOf(status), HasSubstr(text));
    EXPECT_THAT(MessageOf(status), HasSubstr(more));
    EXPECT_THAT(MessageOf(status), HasSubstr("request 0: "));
  }
  OneBlock one_{kShape, Codec::kLadder, {0, 1}};
};

TEST_F(Plan, IsMadeOfARequestThatIsRight) {
  const auto plan = DecodePlan::Make(one_.layout, {one_.request});
  ASSERT_TRUE(plan.ok()) << MessageOf(plan.status());
  EXPECT_EQ(plan->requests(), 1u);
  EXPECT_EQ(plan->layer_tasks(), 2u);
  EXPECT_EQ(plan->pieces(), 8u);
  EXPECT_EQ(plan->written_bytes(), kShape.PlainBytes());
}

TEST_F(Plan, OfNothingIsRefused) {
  EXPECT_EQ(DecodePlan::Make(one_.layout, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Plan, LeavesACodecWithoutAKernelToTheHost) {
  OneBlock x16(kShape, Codec::kX16, {0});
  const absl::Status status = x16.MakeStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(MessageOf(status), HasSubstr("request 0: no kernel decodes x16; the host does"));
  OneBlock bytes({2, 2, 32, 64, Dtype::kF8E4M3}, Codec::kFp8p, {});
  EXPECT_THAT(MessageOf(bytes.MakeStatus()), HasSubstr("request 0: no kernel decodes fp8p; the host does"));
  EXPECT_EQ(CheckPages(bytes.layout, {2, 2, 32, 64, Dtype::kF8E4M3}, bytes.request).ToString(),
            "UNIMPLEMENTED: pages hold f8e4m3: kernels write bf16 and f16");
}

TEST_F(Plan, NamesTheRequestThatIsWrong) {
  DecodeRequest wrong = one_.request;
  wrong.layers = {2, 2};
  EXPECT_THAT(MessageOf(DecodePlan::Make(one_.layout, {one_.request, wrong}).status()), HasSubstr("request 1: layers"));
}

TEST_F(Plan, RefusesAPageThatDoesNotExist) {
  one_.table[1] = one_.layout.pages;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "block table entry 1 is page 3; there are 3");
}

TEST_F(Plan, RefusesAPageThatARequestNamesTwice) {
  one_.table[1] = one_.table[0];
  ExpectRefused(absl::StatusCode::kInvalidArgument, "page 1 of the tensor at", "is written twice, from token 0 on");
}

TEST_F(Plan, RefusesAPageThatTwoRequestsWrite) {
  DecodeRequest other = one_.request;
  const std::vector<uint32_t> table = {0, one_.table[1]};
  other.block_table = table;
  const absl::Status status = DecodePlan::Make(one_.layout, {one_.request, other}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(status), HasSubstr("request 1: page 2 of the tensor at"));
  EXPECT_THAT(MessageOf(status), HasSubstr("is written by request 0 too"));
}

// The layers of a block in requests of their own, and one tensor that both have.
TEST_F(Plan, TakesAPageTwiceForDifferentTensorsAndNotForOneOfThem) {
  const std::vector<uint16_t*> first = {one_.request.layer_pages[0]}, second = {one_.request.layer_pages[1]};
  std::vector<DecodeRequest> requests(2, one_.request);
  requests[0].layers = {0, 1};
  requests[0].layer_pages = first;
  requests[1].layers = {1, 2};
  requests[1].layer_pages = second;
  EXPECT_TRUE(DecodePlan::Make(one_.layout, requests).ok());
  requests[1].layer_pages = first;
  EXPECT_EQ(DecodePlan::Make(one_.layout, requests).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Plan, TakesTwoBlocksInOnePageWhereverTheyDoNotMeet) {
  one_.layout.page_tokens = 128;
  const std::vector<uint32_t> table = {2};
  std::vector<DecodeRequest> requests(3, one_.request);
  for (uint32_t i = 0; i < 3; ++i) {
    requests[i].block_table = table;
    requests[i].first_page_token = 32 * i;
  }
  EXPECT_TRUE(DecodePlan::Make(one_.layout, requests).ok());
  requests[0].first_page_token = 63;
  const absl::Status status = DecodePlan::Make(one_.layout, requests).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(status), HasSubstr("page 2"));
}

TEST_F(Plan, BeyondAGridIsRefusedWithTheCountAndTheLimit) {
  PlanCounts counts;
  for (uint64_t PlanCounts::*const count :
       {&PlanCounts::requests, &PlanCounts::layers, &PlanCounts::tiles, &PlanCounts::pages, &PlanCounts::decode_blocks,
        &PlanCounts::pieces, &PlanCounts::sum_blocks}) {
    counts.*count = kMaxGrid;
    EXPECT_TRUE(CheckLimits(counts).ok());
    counts.*count = kMaxGrid + 1;
    const absl::Status status = CheckLimits(counts);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(MessageOf(status), HasSubstr("a plan of 2147483648 "));
    EXPECT_THAT(MessageOf(status), HasSubstr("the limit is 2147483647"));
    counts.*count = 0;
  }
}

TEST_F(Plan, RefusesABlockTableOfTheWrongLength) {
  one_.request.block_table = absl::MakeConstSpan(one_.table).subspan(0, 1);
  ExpectRefused(absl::StatusCode::kInvalidArgument, "block table of 1 pages; 32 tokens from token 0 on need 2");
}

TEST_F(Plan, RefusesAFirstTokenOutsideItsPage) {
  one_.request.first_page_token = 16;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "first_page_token 16 of a page of 16");
}

TEST_F(Plan, RefusesMisalignedPages) {
  const std::vector<uint16_t*> addresses = {one_.request.layer_pages[0], one_.request.layer_pages[1] + 4};
  one_.request.layer_pages = addresses;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "pages of layer 1 at");
}

TEST_F(Plan, RefusesPagesThatAreNull) {
  const std::vector<uint16_t*> addresses = {nullptr, one_.request.layer_pages[1]};
  one_.request.layer_pages = addresses;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "pages of layer 0 at 0");
}

TEST_F(Plan, RefusesTensorsThatDoNotMatchTheLayers) {
  one_.request.layers = {0, 1};
  ExpectRefused(absl::StatusCode::kInvalidArgument, "2 page tensors for layers [0, 1)");
}

TEST_F(Plan, RefusesAMisalignedBlock) {
  one_.request.device_bytes += 16;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "not an address aligned to 64 bytes");
}

TEST_F(Plan, RefusesLayersThatTheBlockDoesNotHave) {
  one_.request.layers = {1, 3};
  ExpectRefused(absl::StatusCode::kInvalidArgument, "layers [1, 3) of a block of 2");
}

TEST_F(Plan, RefusesHeadsThatTheBlockDoesNotHave) {
  one_.request.first_head = 1;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "heads [1, 3) of a block of 2");
}

TEST_F(Plan, RefusesAnotherDtype) {
  one_.layout.dtype = Dtype::kF16;
  ExpectRefused(absl::StatusCode::kUnimplemented, "pages hold f16, the block bf16");
}

TEST_F(Plan, RefusesAnotherHeadDim) {
  one_.layout.head_dim = 128;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "pages have head_dim 128, the block 64");
}

TEST_F(Plan, RefusesAnUnknownPageOrder) {
  one_.layout.order = PageOrder(4);
  ExpectRefused(absl::StatusCode::kUnimplemented, "page order 4");
}

TEST_F(Plan, RefusesALayoutOfNothing) {
  one_.layout.page_tokens = 0;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "0 tokens a page");
}

TEST_F(Plan, RefusesLatentPagesForBlocksThatAreNoLatent) {
  one_.layout.order = PageOrder::kMlaLatent;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "latent pages with 2 heads");
  one_.layout.heads = 1;
  ExpectRefused(absl::StatusCode::kUnimplemented, "the block has 2 heads with head_dim 64 as ladder");
}

TEST_F(Plan, TakesLaddersOfTwoToFourBits) {
  std::mt19937_64 random(7);
  for (int bits : {2, 3, 4}) {
    const OneBlock one(RandomBlock(kShape, Codec::kLadder, 0, {0, 1}, random, bits));
    EXPECT_EQ(one.MakeStatus().ToString(), "OK") << bits;
    EXPECT_EQ(one.Run(), 0u) << bits;
  }
}

TEST_F(Plan, TakesALadderOfEightBitsAtFewerOrWithoutItsLastPlane) {
  std::mt19937_64 random(7);
  OneBlock one(RandomBlock(kShape, Codec::kLadder, 0, {0, 1}, random, 8));
  for (int precision : {2, 3, 4}) {
    one.request.precision = precision;
    EXPECT_EQ(one.MakeStatus().ToString(), "OK") << precision;
  }
  one.request.precision = 0;
  EXPECT_EQ(MessageOf(one.MakeStatus()), "request 0: no kernel decodes ladder at 8 bits; the host does");
  const BlockView view = ParseOrDie(one.block);
  one.request.device_size_bytes = view.Plane(4, 0).offset;
  EXPECT_EQ(one.MakeStatus().ToString(), "OK");
}

TEST_F(Plan, LeavesWhatNoKernelDecodesToTheHost) {
  std::mt19937_64 random(7);
  const OneBlock trellis(RandomBlock(kShape, Codec::kTrellis, 0, {0, 0x10}, random));
  EXPECT_EQ(MessageOf(trellis.MakeStatus()), "request 0: no kernel decodes trellis; the host does");
  const OneBlock mixed(RandomBlock(kShape, Codec::kLadder, 0, {0, 0x10}, random));
  EXPECT_EQ(MessageOf(mixed.MakeStatus()), "request 0: no kernel decodes ladder at 4 and fewer bits; the host does");
}

TEST_F(Plan, RefusesAPrecisionThatTheCodecDoesNotHave) {
  one_.request.precision = 5;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "precision 5; ladder has 2, 3 and 4");
}

TEST_F(Plan, RefusesAPrecisionThatTheDevicesBytesDoNotHold) {
  one_.request.device_size_bytes = ParseOrDie(one_.block).Plane(3, 1).offset;
  one_.request.precision = 4;
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "precision 4 needs 4 planes");
  one_.request.precision = 0;
  EXPECT_TRUE(one_.MakeStatus().ok());
  one_.request.device_size_bytes = ParseOrDie(one_.block).Plane(1, 1).offset;
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "precision 2 needs 2 planes");
}

TEST_F(Plan, RefusesTheKeptBasisOfACodecThatDoesNotRotate) {
  OneBlock plain(kShape, Codec::kI8, {0});
  plain.request.basis = Basis::kKeptRotated;
  EXPECT_EQ(plain.MakeStatus().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Plan, RefusesABrokenHeaderAsTheParserDoes) {
  std::vector<uint8_t> prefix(one_.request.prefix.begin(), one_.request.prefix.end());
  prefix[40] ^= 1;
  one_.request.prefix = prefix;
  ExpectRefused(absl::StatusCode::kDataLoss, "header checksum does not match");
}

}  // namespace
}  // namespace kvist::cuda
