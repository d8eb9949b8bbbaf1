// Goal    x16 gives back every bit of every value, in about twelve bits a value, and no bytes make its readers look outside.
// Method  Tiles of all 65,536 values, of values like real KV, of noise; then records, counts and codes of a good block are
//         changed, with right checksums, in memory of exactly the block's size.
#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/decode.h"
#include "kernels/x16.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/random_block.h"
#include "tests/kernels/targets.h"

namespace kvist {
namespace {

using testing::HasSubstr;

constexpr uint64_t kSeed = 20261129;
constexpr BlockShape kShape = {1, 1, 64, 64, Dtype::kBf16};
constexpr size_t kSide = 0, kLow = 1, kCodes = 2;  // pieces of a block of one layer

void ExpectSameBits(const BlockShape& shape, const std::vector<uint16_t>& values, const std::vector<uint8_t>& block) {
  ForEachTarget([&] { EXPECT_EQ(DecodeOrDie(ParseOrDie(block)), values) << "seed " << kSeed; });
  std::vector<uint16_t> oracle(shape.Elements());
  const Pages pages = ContiguousPages(oracle.data(), shape, shape.tokens);
  ASSERT_TRUE(reference::Decode(ParseOrDie(block), {0, shape.layers}, 0, Basis::kOriginal, pages).ok());
  EXPECT_EQ(oracle, values);
}

TEST(X16, GivesBackEveryValueThatSixteenBitsCanHold) {
  // One value in 32 is one of them; the others have a common exponent, so that these are kept beside them.
  for (const BlockShape& shape : {BlockShape{4, 4, 256, 256, Dtype::kBf16}, BlockShape{11, 4, 256, 96, Dtype::kF16}}) {
    std::vector<uint16_t> values(shape.Elements());
    for (size_t i = 0; i < values.size(); ++i) values[i] = i % 32 == 31 ? uint16_t(i / 32) : uint16_t(0x3f80 | i % 128);
    ASSERT_GE(values.size(), size_t{32} << 16);
    const std::vector<uint8_t> block = EncodeOrDie(shape, values, Codec::kX16, 0);
    EXPECT_EQ(ParseOrDie(block).raised_tiles(), 0u);
    EXPECT_GT(ParseOrDie(block).min_sqnr_db(), 255.9f);
    ExpectSameBits(shape, values, block);
  }
}

TEST(X16, NeedsTwelveBitsAndALittleForValuesOfManySizes) {
  for (const uint32_t head_dim : {64, 80, 96, 128, 256}) {
    const BlockShape shape = {2, 2, 128, head_dim, Dtype::kBf16};
    const std::vector<uint16_t> values = NormalValues(shape, kSeed);
    const std::vector<uint8_t> block = EncodeOrDie(shape, values, Codec::kX16, 0);
    EXPECT_EQ(ParseOrDie(block).raised_tiles(), 0u);
    EXPECT_LE(8.0 * block.size() / shape.Elements(), 12.2);
    EXPECT_LE(block.size(), NominalBlockBytes(IdentityAt(0), shape, Codec::kX16));
    ExpectSameBits(shape, values, block);
  }
}

TEST(X16, ATileWhoseExponentsAreTooManyIsKeptAsItIs) {
  std::mt19937_64 random(kSeed);
  std::vector<uint16_t> noise(kShape.Elements());
  for (uint16_t& value : noise) value = uint16_t(random());
  const std::vector<uint8_t> block = EncodeOrDie(kShape, noise, Codec::kX16, 0);
  EXPECT_EQ(ParseOrDie(block).raised_tiles(), 2u);
  EXPECT_LE(block.size(), MaxBlockBytes(kShape, Codec::kX16));
  ExpectSameBits(kShape, noise, block);

  std::vector<uint16_t> half = NormalValues(kShape, kSeed);  // K as it should be, V noise
  std::copy(noise.begin() + kShape.TileElements(), noise.end(), half.begin() + kShape.TileElements());
  const std::vector<uint8_t> mixed = EncodeOrDie(kShape, half, Codec::kX16, 0);
  EXPECT_EQ(ParseOrDie(mixed).raised_tiles(), 1u);
  ExpectSameBits(kShape, half, mixed);
}

TEST(X16, KeepsF16AsItIs) {
  const BlockShape shape = {1, 1, 64, 64, Dtype::kF16};
  const std::vector<uint16_t> values = NormalValues(shape, kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(shape, values, Codec::kX16, 0);
  EXPECT_EQ(ParseOrDie(block).raised_tiles(), 2u);
  ExpectSameBits(shape, values, block);
}

TEST(X16, TakesItsOwnFormOnlyWhereEscapesAreFew) {
  const size_t values_of_tile = kShape.TileElements(), most = values_of_tile / kX16MostEscapes;
  for (const size_t escapes : {most, most + 1}) {
    std::vector<uint16_t> values(kShape.Elements());
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t at = i % values_of_tile;
      values[i] = uint16_t((at < escapes ? 30 + at % 50 : at % 15) << 7);
    }
    const std::vector<uint8_t> block = EncodeOrDie(kShape, values, Codec::kX16, 0);
    EXPECT_EQ(ParseOrDie(block).raised_tiles(), escapes > most ? 2u : 0u) << escapes;
    ExpectSameBits(kShape, values, block);
  }
}

// A block with 30 escapes in its K tile and none in V, one thing of it changed, then sealed again.
class HostileX16 : public testing::Test {
 protected:
  HostileX16() {
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = uint16_t((i < 30 ? 100 + i : i % 15) << 7 | i % 128);
    block_ = EncodeOrDie(kShape, values_, Codec::kX16, 0);
    EXPECT_EQ(ParseOrDie(block_).raised_tiles(), 0u);
  }
  uint8_t* Piece(size_t piece) { return &block_[0] + ParseOrDie(block_).Plane(int(piece), 0).offset; }
  uint8_t* Records() { return Piece(kSide) + 4; }

  void ExpectRefused(const std::string& text) {
    for (size_t i = 0; i < 3; ++i) ResealPiece(block_, i);
    const std::vector<uint8_t> exact(block_.begin(), block_.end());  // a sanitizer sees what lies behind it
    std::vector<uint16_t> out(kShape.Elements());
    const Pages pages = ContiguousPages(out.data(), kShape, kShape.tokens);
    const auto expect = [&](const absl::Status& status) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status.ToString();
      EXPECT_THAT(MessageOf(status), HasSubstr(text));
    };
    const BlockView view = ParseOrDie(exact);
    expect(reference::Decode(view, {0, 1}, 0, Basis::kOriginal, pages));
    ForEachTarget([&] { expect(Decode(view, {0, 1}, 0, Basis::kOriginal, pages)); });
  }

  std::vector<uint16_t> values_ = std::vector<uint16_t>(kShape.Elements());
  std::vector<uint8_t> block_;
};

TEST_F(HostileX16, AnEscapeTooManyIsRefused) {
  uint8_t& pair = Piece(kCodes)[kShape.TileElements() / 2];  // of V
  pair |= 15;
  ExpectRefused("layer 0: tile 1 has 0 escaped exponents; its codes name 1");
}

TEST_F(HostileX16, AnEscapeTooFewIsRefused) {
  Piece(kCodes)[0] &= 0xf0;
  ExpectRefused("layer 0: tile 0 has 30 escaped exponents; its codes name 29");
}

TEST_F(HostileX16, ATileOfEscapesAloneIsRefused) {
  std::fill_n(Piece(kCodes), kShape.TileElements(), 0xff);
  ExpectRefused("tile 0 has 30 escaped exponents; its codes name 4096");
}

TEST_F(HostileX16, ACountThatRunsPastThePieceIsRefused) {
  StoreLe(65535, 2, Records() + kX16Exponents);
  ExpectRefused("layer 0: tile 0 needs 65552 bytes of its side piece; 64 are left");
}

TEST_F(HostileX16, ACountThatLeavesTheNextRecordNoRoomIsRefused) {
  StoreLe(31, 2, Records() + kX16Exponents);
  ExpectRefused("layer 0: tile 1 needs 17 bytes of its side piece; 16 are left");
}

TEST_F(HostileX16, BytesBehindTheLastRecordAreRefused) {
  StoreLe(29, 2, Records() + kX16Exponents);
  // The next record begins a byte early: its count is then made of other bytes.
  const uint8_t* second = Records() + kX16RecordBytes + 29;
  StoreLe(0, 2, const_cast<uint8_t*>(second) + kX16Exponents);
  ExpectRefused("layer 0: 1 bytes behind the last record");
}

TEST_F(HostileX16, AModeThatDoesNotExistIsRefused) {
  Piece(kSide)[1] = 1;
  ExpectRefused("layer 0: tile 1 has mode 1");
}

TEST_F(HostileX16, AModeThatWantsMoreBytesThanThereAreIsRefused) {
  Piece(kSide)[1] = 2;
  ExpectRefused("layer 0: tile 1 needs 8192 bytes of its side piece; 17 are left");
}

TEST(X16, PlanesOfAnotherSizeThanTheTilesImplyAreRefused) {
  std::mt19937_64 random(kSeed);
  std::vector<uint8_t> block = RandomBlock(kShape, Codec::kX16, 0, {0, 2}, random);
  const PlaneEntry side = ParseOrDie(block).Plane(kSide, 0);
  // Two own tiles and no values: the planes hold one.
  std::vector<uint8_t> records(block.begin() + side.offset, block.begin() + side.offset + side.size_bytes);
  block[side.offset + 1] = 0;
  StoreLe(side.size_bytes - 4 - 2 * kX16RecordBytes - LoadLe(&records[4 + kX16Exponents], 2), 2,
          &block[side.offset + side.size_bytes - 2 * kShape.TileElements() + kX16Exponents]);
  for (size_t i = 0; i < 3; ++i) ResealPiece(block, i);
  std::vector<uint16_t> out(kShape.Elements());
  const absl::Status status =
      Decode(ParseOrDie(block), {0, 1}, 0, Basis::kOriginal, ContiguousPages(out.data(), kShape, kShape.tokens));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(MessageOf(status), HasSubstr("plane 1 of 4096 bytes; 2 tiles imply 8192"));
}

TEST(X16, HasOnePrecisionAndNoOtherBasis) {
  const std::vector<uint8_t> block = EncodeOrDie(kShape, NormalValues(kShape, kSeed), Codec::kX16, 0);
  std::vector<uint16_t> out(kShape.Elements());
  const Pages pages = ContiguousPages(out.data(), kShape, kShape.tokens);
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(view.MaxPrecision(), 16);
  EXPECT_EQ(Decode(view, {0, 1}, 8, Basis::kOriginal, pages).ToString(), "INVALID_ARGUMENT: precision 8; x16 has 16");
  EXPECT_EQ(Decode(view, {0, 1}, 16, Basis::kKeptRotated, pages).ToString(),
            "FAILED_PRECONDITION: x16 does not rotate: no kept basis");
  const std::vector<uint8_t> cut(block.begin(), block.begin() + view.Plane(kCodes, 0).offset);
  EXPECT_EQ(ParseOrDie(cut).MaxPrecision(), 0);
}

}  // namespace
}  // namespace kvist
