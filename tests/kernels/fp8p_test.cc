// Goal    fp8p gives back an engine's own bytes, in rows of any allowed length, and no codec takes another's dtypes.
// Method  Random bytes in pages of several layouts, through Encode, Verify and both decoders.
#include <algorithm>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/targets.h"

namespace kvist {
namespace {

using testing::HasSubstr;

constexpr uint64_t kSeed = 20261129;

std::vector<uint16_t> RandomUnits(size_t count) {
  std::mt19937_64 random(kSeed);
  std::vector<uint16_t> units(count);
  for (uint16_t& unit : units) unit = uint16_t(random());
  return units;
}

class Fp8pShapes : public testing::TestWithParam<BlockShape> {};

TEST_P(Fp8pShapes, BytesComeBackAsTheyWere) {
  const BlockShape& shape = GetParam();
  const std::vector<uint16_t> units = RandomUnits(shape.PlainBytes() / 2);
  const std::vector<uint8_t> block = EncodeOrDie(shape, units, Codec::kFp8p, 0);
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(view.shape(), shape);
  EXPECT_EQ(view.Verify(0, shape.layers, 0).ToString(), "OK");
  EXPECT_EQ(view.MaxPrecision(), 8);
  EXPECT_GT(view.min_sqnr_db(), 255.9f);
  EXPECT_EQ(block.size(), NominalBlockBytes(IdentityAt(0), shape, Codec::kFp8p));
  EXPECT_LT(block.size(), shape.PlainBytes() + 4096);
  ForEachTarget([&] { EXPECT_EQ(DecodeOrDie(view), units) << "seed " << kSeed; });
  std::vector<uint16_t> oracle(units.size());
  const Pages pages = ContiguousPages(oracle.data(), shape, shape.tokens);
  ASSERT_TRUE(reference::Decode(view, {0, shape.layers}, 8, Basis::kOriginal, pages).ok());
  EXPECT_EQ(oracle, units);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Fp8pShapes,
                         testing::Values(BlockShape{3, 2, 128, 64, Dtype::kF8E4M3},
                                         BlockShape{1, 1, 16, 80, Dtype::kF8E5M2},
                                         BlockShape{2, 4, 256, 256, Dtype::kF8E4M3},
                                         BlockShape{1, 1, 16, 16, Dtype::kU8}, BlockShape{2, 1, 64, 328, Dtype::kU8},
                                         BlockShape{1, 1, 256, 1024, Dtype::kU8}));

TEST(Fp8p, RowsOfAnMlaLayerAreKeptAsTwoHalves) {
  // One row of 656 bytes a token and layer, [layers][tokens][656] with tokens of other blocks around them.
  constexpr size_t kRowUnits = 656 / 2;
  const BlockShape shape = {2, 1, 32, 328, Dtype::kU8};
  const size_t layer = (shape.tokens + 9) * kRowUnits;
  const std::vector<uint16_t> engine = RandomUnits(shape.layers * layer);
  const ConstPages rows = {engine.data() + 4 * kRowUnits, kRowUnits / 2, layer, 0, kRowUnits};
  std::vector<uint8_t> block(MaxBlockBytes(shape, Codec::kFp8p));
  const auto size = Encode(IdentityAt(0), shape, rows, {Codec::kFp8p}, absl::MakeSpan(block));
  ASSERT_TRUE(size.ok()) << MessageOf(size.status());
  block.resize(*size);
  std::vector<uint16_t> restored(engine.size(), 0x1234), expected = restored;
  const Pages pages = {restored.data() + 4 * kRowUnits, kRowUnits / 2, layer, 0, kRowUnits};
  ASSERT_TRUE(Decode(ParseOrDie(block), {0, shape.layers}, 0, Basis::kOriginal, pages).ok());
  for (size_t l = 0; l < shape.layers; ++l) {
    const size_t first = l * layer + 4 * kRowUnits;
    std::copy_n(engine.begin() + first, shape.tokens * kRowUnits, expected.begin() + first);
  }
  EXPECT_EQ(restored, expected) << "whole rows, and nothing around them";
}

TEST(Fp8p, ACodecTakesItsOwnDtypesAndNoOther) {
  const std::vector<uint16_t> units = RandomUnits(2 * 16 * 256);
  std::vector<uint8_t> out(1 << 16);
  for (const Codec codec : kUncalibratedCodecs) {
    for (const Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF8E4M3, Dtype::kF8E5M2, Dtype::kU8}) {
      const BlockShape shape = {1, 1, 16, 64, dtype};
      const auto size =
          Encode(IdentityAt(0), shape, ContiguousPages(units.data(), shape, 16), {codec}, absl::MakeSpan(out));
      EXPECT_EQ(size.ok(), (codec == Codec::kFp8p) == (ElementBytes(dtype) == 1))
          << CodecName(codec) << DtypeName(dtype);
      if (size.ok()) continue;
      EXPECT_EQ(size.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(MessageOf(size.status()), HasSubstr(", not " + std::string(DtypeName(dtype))));
    }
  }
}

// The header's dtype under another codec's, with right checksums.
TEST(Fp8p, ABlockWhoseDtypeIsNotItsCodecsIsRefused) {
  const BlockShape bytes = {1, 1, 16, 64, Dtype::kF8E4M3}, values = {1, 1, 16, 64, Dtype::kBf16};
  std::vector<uint8_t> fp8p = EncodeOrDie(bytes, RandomUnits(bytes.PlainBytes() / 2), Codec::kFp8p, 0);
  std::vector<uint8_t> raw16 = EncodeOrDie(values, RandomUnits(values.PlainBytes() / 2), Codec::kRaw16, 0);
  fp8p[12] = uint8_t(Dtype::kBf16);
  raw16[12] = uint8_t(Dtype::kU8);
  Reseal(fp8p);
  Reseal(raw16);
  EXPECT_EQ(BlockView::Parse(fp8p).status().ToString(),
            "INVALID_ARGUMENT: header: fp8p takes f8e4m3, f8e5m2 and u8, not bf16");
  EXPECT_EQ(BlockView::Parse(raw16).status().ToString(), "INVALID_ARGUMENT: header: raw16 takes bf16 and f16, not u8");
}

TEST(Fp8p, APieceOfAnotherSizeThanTheShapeImpliesIsRefused) {
  const BlockShape shape = {1, 1, 16, 64, Dtype::kU8};
  std::vector<uint8_t> block = EncodeOrDie(shape, RandomUnits(shape.PlainBytes() / 2), Codec::kFp8p, 0);
  block[22] = 72;  // head_dim
  Reseal(block);
  std::vector<uint16_t> out(2 * 16 * 72 / 2);
  const BlockView view = ParseOrDie(block);
  const absl::Status status =
      Decode(view, {0, 1}, 0, Basis::kOriginal, ContiguousPages(out.data(), view.shape(), shape.tokens));
  EXPECT_EQ(status.ToString(), "DATA_LOSS: layer 0: values of 2048 bytes; the shape implies 2304");
}

TEST(Fp8p, RowsOfAnOddLengthAreNoShape) {
  for (const uint32_t head_dim : {0, 8, 20, 327, 1032}) {
    const absl::Status status = ValidateShape({1, 1, 16, head_dim, Dtype::kU8});
    EXPECT_THAT(MessageOf(status), HasSubstr("allowed for u8 are multiples of 8 from 16 to 1024"));
  }
  EXPECT_FALSE(ValidateShape({1, 1, 16, 328, Dtype::kF8E4M3}).ok());
  EXPECT_FALSE(ValidateShape({1, 1, 16, 64, Dtype(6)}).ok());
}

}  // namespace
}  // namespace kvist
