// Goal    The device's kernels write the reference's bits into an engine's pages, and nothing else anywhere.
// Method  Blocks of random bytes (every value that a hostile block could hold) through plan and emulated grid into
//         pages of every layout; all elements of all tensors are compared with what reference::Decode gives at the
//         places that the layouts' shapes say.
#include <tuple>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/engine_pages.h"
#include "tests/kernels/random_block.h"

namespace kvist::cuda {
namespace {

constexpr uint64_t kSeed = 42;
constexpr PageOrder kOrders[] = {PageOrder::kPackedHnd, PageOrder::kPackedNhd, PageOrder::kKeyValueFirst};

struct Choice {
  int precision = 0;
  Basis basis = Basis::kOriginal;
  PageOrder order = PageOrder::kPackedNhd;
  uint32_t page_tokens = 16, first_head = 0, heads = 0;  // heads 0: all of them
  LayerRange layers = {0, 0};                            // {0, 0}: all of them
};

void ExpectReferenceBits(const std::vector<uint8_t>& block, const Choice& choice, std::mt19937_64& random) {
  const BlockView view = ParseOrDie(block);
  const BlockShape& shape = view.shape();
  PageLayout layout = {choice.order,   0,          choice.page_tokens, choice.heads != 0 ? choice.heads : shape.heads,
                       shape.head_dim, shape.dtype};
  const uint32_t needed = (shape.tokens + layout.page_tokens - 1) / layout.page_tokens;
  layout.pages = needed + 2;
  DecodeRequest request;
  const DeviceBytes device(block);
  request.device_bytes = device.data();
  request.device_size_bytes = device.size();
  request.prefix = PrefixOf(block);
  request.layers = choice.layers.last != 0 ? choice.layers : LayerRange{0, shape.layers};
  request.precision = choice.precision;
  request.basis = choice.basis;
  request.first_head = choice.first_head;
  if (layout.page_tokens > shape.tokens) request.first_page_token = layout.page_tokens - shape.tokens;
  EnginePages pages(layout, request.layers.last - request.layers.first);
  std::vector<uint32_t> pool = AllPages(layout.pages);
  const std::vector<uint32_t> table = TakePages(pool, needed, random);
  request.layer_pages = pages.addresses();
  request.block_table = table;
  pages.Expect(view, request);
  const auto plan = DecodePlan::Make(layout, {request});
  ASSERT_TRUE(plan.ok()) << MessageOf(plan.status());
  EXPECT_EQ(RunDecode(*plan)[0], 0u);
  EXPECT_EQ(pages.Different(), 0u) << CodecName(view.codec()) << " tokens " << shape.tokens << " head_dim "
                                   << shape.head_dim << " " << DtypeName(shape.dtype) << " precision "
                                   << choice.precision << " basis " << int(choice.basis) << " order "
                                   << int(choice.order) << " seed " << kSeed;
}

class CudaDecode : public testing::TestWithParam<std::tuple<uint32_t, Dtype>> {
 protected:
  BlockShape Shape(uint32_t tokens) const { return {2, 3, tokens, std::get<0>(GetParam()), std::get<1>(GetParam())}; }
  std::mt19937_64 random_{kSeed};
};

TEST_P(CudaDecode, LadderAtEveryPrecisionInBothBasesGivesTheReferencesBits) {
  for (uint32_t tokens : {16, 48, 80, 128, 256}) {
    for (uint32_t first_position : {0, 512}) {
      const std::vector<uint8_t> block = RandomBlock(Shape(tokens), Codec::kLadder, first_position, {0, 0, 1}, random_);
      for (int precision : {2, 3, 4}) {
        for (Basis basis : {Basis::kOriginal, Basis::kKeptRotated}) {
          ExpectReferenceBits(block, {precision, basis, kOrders[random_() % 3]}, random_);
        }
      }
    }
  }
}

TEST_P(CudaDecode, I8GivesTheReferencesBits) {
  for (uint32_t tokens : {16, 48, 128, 256}) {
    const std::vector<uint8_t> block = RandomBlock(Shape(tokens), Codec::kI8, 0, {0, 0, 2}, random_);
    ExpectReferenceBits(block, {8, Basis::kOriginal, kOrders[random_() % 3]}, random_);
  }
}

TEST_P(CudaDecode, Raw16GivesTheReferencesBits) {
  for (uint32_t tokens : {16, 240}) {
    const std::vector<uint8_t> block = RandomBlock(Shape(tokens), Codec::kRaw16, 0, {}, random_);
    ExpectReferenceBits(block, {16, Basis::kOriginal, kOrders[random_() % 3]}, random_);
  }
}

TEST_P(CudaDecode, TilesOfAllModesInOneBlockGiveTheReferencesBits) {
  for (Codec codec : {Codec::kLadder, Codec::kI8}) {
    const std::vector<uint8_t> modes =
        codec == Codec::kLadder ? std::vector<uint8_t>{2, 0, 1, 2, 0} : std::vector<uint8_t>{2, 0, 0, 2};
    const std::vector<uint8_t> block = RandomBlock(Shape(112), codec, 0, modes, random_);
    ExpectReferenceBits(block, {}, random_);
  }
}

TEST_P(CudaDecode, ExtremeWideRowsGiveTheReferencesBits) {
  BlockShape shape = Shape(16);
  std::vector<uint8_t> block = RandomBlock(shape, Codec::kLadder, 0, {1}, random_);
  const PlaneEntry side = ParseOrDie(block).Plane(0, 0);
  // After modes and SQNRs: wide rows of -128, of 127, and of the one sum that comes nearest to 2^15.
  for (uint32_t row = 0; row < 3; ++row) {
    uint8_t* codes = &block[side.offset + 4 * shape.heads + row * (1 + shape.head_dim) + 1];
    for (uint32_t d = 0; d < shape.head_dim; ++d) codes[d] = row == 0 || (row == 2 && d % 2 == 1) ? 0x80 : 0x7f;
  }
  ResealPiece(block, 0);
  for (Basis basis : {Basis::kOriginal, Basis::kKeptRotated}) ExpectReferenceBits(block, {4, basis}, random_);
}

TEST_P(CudaDecode, EveryLayoutAndPageSizeAndHeadSlice) {
  BlockShape shape = Shape(96);
  shape.heads = 4;
  const std::vector<uint8_t> block = RandomBlock(shape, Codec::kLadder, 0, {0, 1, 2}, random_);
  for (PageOrder order : kOrders) {
    for (uint32_t page_tokens : {8, 16, 32, 96, 256}) {
      for (uint32_t heads : {1, 2, 4}) {
        for (uint32_t first = 0; first + heads <= 4; first += heads) {
          ExpectReferenceBits(block, {3, Basis::kOriginal, order, page_tokens, first, heads, {1, 2}}, random_);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaDecode,
                         testing::Combine(testing::Values(64, 80, 96, 128, 256),
                                          testing::Values(Dtype::kBf16, Dtype::kF16)));

TEST(CudaDecode, PagesThatDoNotDivideTheBlockAreServed) {
  std::mt19937_64 random(kSeed);
  const std::vector<uint8_t> block = RandomBlock({1, 1, 48, 64, Dtype::kBf16}, Codec::kI8, 0, {0}, random);
  ExpectReferenceBits(block, {.page_tokens = 20}, random);
}

TEST(CudaDecode, ManyQueryGroupsShareOneHeadOfPages) {
  std::mt19937_64 random(kSeed);
  const std::vector<uint8_t> block = RandomBlock({3, 1, 128, 128, Dtype::kBf16}, Codec::kLadder, 0, {0}, random);
  for (PageOrder order : kOrders) ExpectReferenceBits(block, {.order = order}, random);
}

TEST(CudaDecode, AsManyTilesAsABlockMayHave) {
  std::mt19937_64 random(kSeed);
  const std::vector<uint8_t> block =
      RandomBlock({1, 256, 16, 64, Dtype::kF16}, Codec::kLadder, 0, {0, 0, 0, 1, 0, 2}, random);
  ExpectReferenceBits(block, {}, random);
}

// A plan of blocks that differ in codec, precision, basis, tokens and layers, into the same tensors.
TEST(CudaDecode, ManyBlocksOfManyKindsInOnePlan) {
  std::mt19937_64 random(kSeed);
  const PageLayout layout = {PageOrder::kPackedNhd, 64, 16, 2, 128, Dtype::kBf16};
  EnginePages pages(layout, 3);
  std::vector<uint32_t> pool = AllPages(layout.pages);
  std::vector<std::vector<uint8_t>> blocks;
  std::vector<DeviceBytes> device;
  std::vector<std::vector<uint32_t>> tables;
  std::vector<DecodeRequest> requests;
  const Codec codecs[] = {Codec::kLadder, Codec::kI8, Codec::kRaw16, Codec::kLadder, Codec::kLadder, Codec::kI8};
  for (size_t i = 0; i < 6; ++i) {
    const BlockShape shape = {3, 2 + uint32_t(i % 2), 16 * (1 + uint32_t(i) % 5), 128, Dtype::kBf16};
    blocks.push_back(RandomBlock(shape, codecs[i], uint32_t(i) * 64, {0}, random));
    device.emplace_back(blocks.back());
    tables.push_back(TakePages(pool, shape.tokens / 16, random));
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    DecodeRequest request;
    request.device_bytes = device[i].data();
    request.device_size_bytes = device[i].size();
    request.prefix = PrefixOf(blocks[i]);
    request.layers = {0, 3};
    request.precision = i == 3 ? 2 : 0;
    request.basis = i == 4 ? Basis::kKeptRotated : Basis::kOriginal;
    request.first_head = uint32_t(i % 2);
    request.layer_pages = pages.addresses();
    request.block_table = tables[i];
    requests.push_back(request);
    pages.Expect(ParseOrDie(blocks[i]), request);
  }
  const auto plan = DecodePlan::Make(layout, requests);
  ASSERT_TRUE(plan.ok()) << MessageOf(plan.status());
  EXPECT_EQ(plan->groups().size(), 4u);
  EXPECT_EQ(RunDecode(*plan), std::vector<uint32_t>(6, 0));
  EXPECT_EQ(pages.Different(), 0u);
}

TEST(CudaDecode, APrefixOfTheBlockDecodesAtThePrecisionThatItHolds) {
  std::mt19937_64 random(kSeed);
  const std::vector<uint8_t> block = RandomBlock({2, 2, 64, 96, Dtype::kF16}, Codec::kLadder, 64, {0, 1}, random);
  const PlaneEntry p2 = ParseOrDie(block).Plane(3, 0);
  ExpectReferenceBits({block.begin(), block.begin() + p2.offset}, {.precision = 0}, random);
}

TEST(CudaDecode, ALatentAndItsPositionsFillTheSameRows) {
  std::mt19937_64 random(kSeed);
  for (Codec codec : {Codec::kLadder, Codec::kI8, Codec::kRaw16}) {
    const PageLayout layout = {PageOrder::kMlaLatent, 9, 16, 1, 0, Dtype::kBf16};
    EnginePages pages(layout, 2);
    const std::vector<std::vector<uint8_t>> blocks = {
        RandomBlock({2, 1, 128, 256, Dtype::kBf16}, codec, 0, {0}, random),
        RandomBlock({2, 1, 64, 64, Dtype::kBf16}, Codec::kRaw16, 0, {}, random)};
    const std::vector<DeviceBytes> device = [&] {
      std::vector<DeviceBytes> copies;
      for (const std::vector<uint8_t>& block : blocks) copies.emplace_back(block);
      return copies;
    }();
    const std::vector<uint32_t> table = {8, 3, 0, 5, 6, 1, 7, 2};
    std::vector<DecodeRequest> requests(2);
    for (size_t i = 0; i < 2; ++i) {
      requests[i].device_bytes = device[i].data();
      requests[i].device_size_bytes = device[i].size();
      requests[i].prefix = PrefixOf(blocks[i]);
      requests[i].layers = {0, 2};
      requests[i].layer_pages = pages.addresses();
      requests[i].block_table = table;
      pages.Expect(ParseOrDie(blocks[i]), requests[i]);
    }
    const auto plan = DecodePlan::Make(layout, requests);
    ASSERT_TRUE(plan.ok()) << MessageOf(plan.status());
    EXPECT_EQ(RunDecode(*plan), std::vector<uint32_t>(2, 0));
    EXPECT_EQ(pages.Different(), 0u);
    // Page 4 is in no table; every row of the others is full.
    for (size_t layer = 0; layer < 2; ++layer) {
      for (size_t i = 0; i < 16 * 576; ++i) EXPECT_EQ(pages.addresses()[layer][4 * 16 * 576 + i], kUntouched);
    }
  }
}

}  // namespace
}  // namespace kvist::cuda
