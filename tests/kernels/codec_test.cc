// Goal    What Encode promises: values come back within the codec's accuracy, the floor is kept, and a hard tile costs
//         only itself.
// Method  Blocks of known values are encoded and decoded; SQNR is compared with theory (16-level Lloyd-Max 20.2 dB,
//         int8 with an absmax scale about 43 dB) and with what the header says.
#include "kernels/codec.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "tests/kernels/block_builder.h"

namespace kvist {
namespace {

constexpr uint64_t kSeed = 20261123;

struct Case {
  uint32_t tokens, head_dim;
  Dtype dtype;
};

class CodecShapes : public testing::TestWithParam<Case> {
 protected:
  BlockShape Shape() const { return {2, 2, GetParam().tokens, GetParam().head_dim, GetParam().dtype}; }
};

TEST_P(CodecShapes, Raw16ComesBackBitByBit) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, Codec::kRaw16, 0);
  EXPECT_EQ(DecodeOrDie(ParseOrDie(block)), values);
  EXPECT_GT(ParseOrDie(block).min_sqnr_db(), 255.9f);
}

TEST_P(CodecShapes, I8StaysNearItsTheory) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, Codec::kI8, 0);
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(view.raised_tiles(), 0u);
  const double db = SqnrDb(Shape(), values, DecodeOrDie(view));
  EXPECT_GT(db, 40.5);
  EXPECT_LT(db, 46);
}

TEST_P(CodecShapes, LadderStaysNearItsTheoryAtEveryPrecision) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, Codec::kLadder, 4096);
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(view.raised_tiles(), 0u);
  EXPECT_GT(SqnrDb(Shape(), values, DecodeOrDie(view, 4)), 19.3);
  EXPECT_LT(SqnrDb(Shape(), values, DecodeOrDie(view, 4)), 21.5);
  EXPECT_NEAR(SqnrDb(Shape(), values, DecodeOrDie(view, 3)), 14.4, 0.6);
  EXPECT_NEAR(SqnrDb(Shape(), values, DecodeOrDie(view, 2)), 8.6, 0.7);
}

TEST_P(CodecShapes, LadderLevelsCarryNoBias) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, Codec::kLadder, 4096);
  for (int precision : {2, 3, 4}) {
    const std::vector<uint16_t> decoded = DecodeOrDie(ParseOrDie(block), precision);
    double product = 0, square = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = Widen(values[i], Shape().dtype);
      product += value * Widen(decoded[i], Shape().dtype);
      square += value * value;
    }
    EXPECT_NEAR(product / square, 1.0, 0.015) << "precision " << precision;
  }
}

TEST_P(CodecShapes, ALadderOfEightBitsHoldsThoseOfFewer) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const EncodeOptions eight = {.codec = Codec::kLadder, .key_bits = 8, .value_bits = 8};
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, eight, 4096);
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(view.raised_tiles(), 0u);
  EXPECT_EQ(view.MaxPrecision(), 8);
  EXPECT_GT(SqnrDb(Shape(), values, DecodeOrDie(view)), 40.5);
  for (int bits : {2, 3, 4}) {
    const EncodeOptions fewer = {.codec = Codec::kLadder, .key_bits = bits, .value_bits = bits};
    const std::vector<uint8_t> own = EncodeOrDie(Shape(), values, fewer, 4096);
    EXPECT_EQ(ParseOrDie(own).MaxPrecision(), bits);
    EXPECT_EQ(ParseOrDie(own).raised_tiles(), 0u);
    EXPECT_EQ(DecodeOrDie(view, bits), DecodeOrDie(ParseOrDie(own))) << bits << " bits";
  }
}

TEST_P(CodecShapes, DroppingPlanesIsTheBlockOfFewerBits) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const EncodeOptions options = {.codec = Codec::kLadder, .key_bits = 8, .value_bits = 3};
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, options, 0);
  for (int precision : {8, 4, 3, 2}) {
    const auto ranges = ParseOrDie(block).RangesFor(0, Shape().layers, precision);
    ASSERT_TRUE(ranges.ok());
    const std::vector<uint8_t> demoted(block.begin(),
                                       block.begin() + ranges->back().offset + ranges->back().size_bytes);
    EXPECT_EQ(demoted.size() == block.size(), precision == 8);
    EXPECT_EQ(ParseOrDie(demoted).MaxPrecision(), precision);
    EXPECT_EQ(DecodeOrDie(ParseOrDie(demoted)), DecodeOrDie(ParseOrDie(block), precision));
  }
}

// [sides][heads] from the bits of each side.
std::vector<uint8_t> TileBitsOf(std::initializer_list<int> sides, uint32_t heads) {
  std::vector<uint8_t> bits;
  for (int of_side : sides) bits.insert(bits.end(), heads, uint8_t(of_side));
  return bits;
}

TEST_P(CodecShapes, KeysAndValuesAndLayersHaveBitsOfTheirOwn) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const std::vector<uint8_t> bits = TileBitsOf({4, 3, 8, 0}, Shape().heads);
  const EncodeOptions options = {.codec = Codec::kLadder, .value_bits = 2, .tile_bits = bits};
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, options, 4096);
  EXPECT_EQ(block.size(), NominalBlockBytes(IdentityAt(4096), Shape(), options));
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(view.code_bits(), 8);
  EXPECT_TRUE(view.mixed_bits());
  EXPECT_EQ(view.floor_db(), kDefaultFloorDbLadder2);
  const std::vector<uint16_t> decoded = DecodeOrDie(view);
  const size_t tile = Shape().TileElements(), layer = tile * Shape().heads;
  const double least[2][2] = {{19, 13.5}, {40, 7.5}};
  for (size_t kv = 0; kv < 2; ++kv) {
    for (size_t l = 0; l < 2; ++l) {
      const double db = SqnrDb(Shape(), values, decoded, (kv * 2 + l) * layer, layer);
      EXPECT_GT(db, least[l][kv]) << kv << " " << l;
      EXPECT_LT(db, least[l][kv] + 6) << kv << " " << l;
    }
  }
}

TEST_P(CodecShapes, TrellisStaysNearItsTheory) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, Codec::kTrellis, 4096);
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(view.raised_tiles(), 0u);
  EXPECT_EQ(view.MaxPrecision(), 3);
  EXPECT_EQ(view.floor_db(), kDefaultFloorDbTrellis2);
  const std::vector<uint16_t> decoded = DecodeOrDie(view);
  const size_t half = Shape().Elements() / 2;
  // 16.6 and 11.0 dB; scales of few tokens follow the values, and the gain costs what the mean gets.
  EXPECT_NEAR(SqnrDb(Shape(), values, decoded, 0, half), 16.5, 0.9);
  EXPECT_NEAR(SqnrDb(Shape(), values, decoded, half, half), 10.8, 0.7);
}

TEST_P(CodecShapes, TrellisKeepsASideOfEightBitsInRows) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const std::vector<uint8_t> bits = TileBitsOf({8, 2, 3, 8}, Shape().heads);
  const EncodeOptions options = {.codec = Codec::kTrellis, .tile_bits = bits};
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, options, 4096);
  EXPECT_EQ(block.size(), NominalBlockBytes(IdentityAt(4096), Shape(), options));
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(view.code_bits(), 3);
  EXPECT_EQ(view.raised_tiles(), 2 * Shape().heads);
  const std::vector<uint16_t> decoded = DecodeOrDie(view);
  const size_t layer = Shape().TileElements() * Shape().heads;
  EXPECT_GT(SqnrDb(Shape(), values, decoded, 0, layer), 38);
  EXPECT_LT(SqnrDb(Shape(), values, decoded, layer, layer), 20);
  EXPECT_LT(SqnrDb(Shape(), values, decoded, 2 * layer, layer), 14);
  EXPECT_GT(SqnrDb(Shape(), values, decoded, 3 * layer, layer), 38);
}

TEST_P(CodecShapes, AHeadIsTheSameWhateverBitsItsNeighboursHave) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const size_t tile = Shape().TileElements(), tiles = 2 * Shape().layers * Shape().heads;
  for (const auto& [codec, one, other] : {std::tuple(Codec::kLadder, 2, 8), std::tuple(Codec::kTrellis, 3, 2)}) {
    std::vector<uint8_t> bits(tiles, uint8_t(other));
    for (size_t i = 0; i < tiles; i += 2) bits[i] = uint8_t(one);
    const EncodeOptions options = {.codec = codec, .tile_bits = bits};
    const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, options, 0);
    EXPECT_EQ(block.size(), NominalBlockBytes(IdentityAt(0), Shape(), options));
    const std::vector<uint16_t> mixed = DecodeOrDie(ParseOrDie(block));
    for (int of_all : {one, other}) {
      const EncodeOptions alike = {.codec = codec, .key_bits = of_all, .value_bits = of_all};
      const std::vector<uint16_t> same = DecodeOrDie(ParseOrDie(EncodeOrDie(Shape(), values, alike, 0)));
      for (size_t i = 0; i < tiles; ++i) {
        EXPECT_EQ(std::equal(&mixed[i * tile], &mixed[i * tile] + tile, &same[i * tile]), bits[i] == of_all) << i;
      }
    }
  }
}

TEST_P(CodecShapes, ExactHeadsComeBackBitForBitAndTheOthersAreCoded) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  for (Codec codec : {Codec::kLadder, Codec::kTrellis}) {
    const EncodeOptions options = {.codec = codec, .exact_heads = 1};
    const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, options, 0);
    EXPECT_EQ(block.size(), NominalBlockBytes(IdentityAt(0), Shape(), options));
    EXPECT_EQ(ParseOrDie(block).raised_tiles(), 2 * Shape().layers);
    const std::vector<uint16_t> decoded = DecodeOrDie(ParseOrDie(block));
    const size_t tile = Shape().TileElements();
    for (size_t i = 0; i < 2 * Shape().layers * Shape().heads; ++i) {
      const bool is_exact = i % Shape().heads == Shape().heads - 1;
      const bool is_equal = std::equal(&values[i * tile], &values[i * tile] + tile, &decoded[i * tile]);
      EXPECT_EQ(is_equal, is_exact) << i;
    }
  }
}

TEST_P(CodecShapes, TrellisPlanesAreNotToBeDropped) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(Shape(), values, Codec::kTrellis, 0);
  const BlockView view = ParseOrDie(block);
  EXPECT_EQ(MessageOf(view.PlanesFor(2).status()), "precision 2; trellis has 3");
  const std::vector<uint8_t> cut(block.begin(), block.begin() + view.Plane(2, 0).offset);
  EXPECT_EQ(ParseOrDie(cut).MaxPrecision(), 0);
}

TEST_P(CodecShapes, EncodeWritesTheNominalBytesWhenNoTileIsRaised) {
  const std::vector<uint16_t> values = NormalValues(Shape(), kSeed);
  for (const auto& [key, value] : {std::pair{8, 8}, {4, 3}, {2, 8}, {3, 2}}) {
    const EncodeOptions options = {.codec = Codec::kLadder, .key_bits = key, .value_bits = value};
    const size_t size = EncodeOrDie(Shape(), values, options, 0).size();
    EXPECT_EQ(size, NominalBlockBytes(IdentityAt(0), Shape(), options)) << key << " and " << value;
    EXPECT_LE(size, MaxBlockBytes(Shape(), Codec::kLadder));
  }
  for (Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder, Codec::kTrellis}) {
    for (uint32_t first : {0u, 128u}) {
      const size_t size = EncodeOrDie(Shape(), values, codec, first).size();
      EXPECT_EQ(size, NominalBlockBytes(IdentityAt(first), Shape(), codec)) << CodecName(codec);
      EXPECT_LE(size, MaxBlockBytes(Shape(), codec));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CodecShapes,
                         testing::Values(Case{128, 64, Dtype::kBf16}, Case{128, 64, Dtype::kF16},
                                         Case{64, 80, Dtype::kBf16}, Case{64, 96, Dtype::kF16},
                                         Case{256, 128, Dtype::kBf16}, Case{48, 256, Dtype::kBf16},
                                         Case{128, 256, Dtype::kF16}));

constexpr BlockShape kShape = {1, 2, 64, 128, Dtype::kBf16};
const size_t kTile = kShape.TileElements();

// Tile 0 is head 0 of K; the others hold N(0, 1).
std::vector<uint16_t> WithTileZero(const std::function<uint16_t(size_t token, size_t d)>& bits_of) {
  std::vector<uint16_t> values = NormalValues(kShape, kSeed);
  for (size_t i = 0; i < kTile; ++i) values[i] = bits_of(i / kShape.head_dim, i % kShape.head_dim);
  return values;
}

void ExpectOthersUntouched(const std::vector<uint16_t>& values, const std::vector<uint16_t>& decoded, double least_db) {
  for (size_t tile = 1; tile < 4; ++tile) {
    EXPECT_GT(SqnrDb(kShape, values, decoded, tile * kTile, kTile), least_db) << "tile " << tile;
  }
}

TEST(Codec, ATileWithNanOrInfIsKeptRawAndTouchesNoOther) {
  for (float odd : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    for (Codec codec : {Codec::kI8, Codec::kLadder, Codec::kTrellis}) {
      std::vector<uint16_t> values = NormalValues(kShape, kSeed);
      values[77] = Bf16FromFloat(odd);
      values[99] = 0x7fc1;  // a NaN with a payload
      const std::vector<uint8_t> block = EncodeOrDie(kShape, values, codec, 0);
      const std::vector<uint16_t> decoded = DecodeOrDie(ParseOrDie(block));
      EXPECT_EQ(ParseOrDie(block).raised_tiles(), 1u);
      EXPECT_TRUE(std::equal(values.begin(), values.begin() + kTile, decoded.begin()));
      ExpectOthersUntouched(values, decoded, codec == Codec::kTrellis ? 9 : 19);
    }
  }
}

TEST(Codec, ATileOfZerosIsExactAtTheCodecsOwnPrecision) {
  for (Codec codec : {Codec::kI8, Codec::kLadder, Codec::kTrellis}) {
    const std::vector<uint16_t> values = WithTileZero([](size_t, size_t) { return 0; });
    const std::vector<uint8_t> block = EncodeOrDie(kShape, values, codec, 0);
    const std::vector<uint16_t> decoded = DecodeOrDie(ParseOrDie(block));
    EXPECT_EQ(ParseOrDie(block).raised_tiles(), 0u);
    for (size_t i = 0; i < kTile; ++i) ASSERT_EQ(Widen(decoded[i], kShape.dtype), 0.0f) << i;
    ExpectOthersUntouched(values, decoded, codec == Codec::kTrellis ? 9 : 19);
  }
}

TEST(Codec, ABlockOfZerosIsExact) {
  const std::vector<uint16_t> zeros(kShape.Elements(), 0);
  for (Codec codec : {Codec::kI8, Codec::kLadder, Codec::kTrellis}) {
    const std::vector<uint8_t> block = EncodeOrDie(kShape, zeros, codec, 16);
    EXPECT_GT(ParseOrDie(block).min_sqnr_db(), 255.9f);
    for (uint16_t bits : DecodeOrDie(ParseOrDie(block))) ASSERT_EQ(Widen(bits, kShape.dtype), 0.0f);
  }
}

TEST(Codec, TilesThatNoScaleReachesAreKeptExactly) {
  const auto denormal = [](size_t t, size_t d) { return uint16_t(1 + (t + d) % 100); };
  const auto huge = [](size_t t, size_t d) { return uint16_t(0x7f00 + (t * 7 + d) % 0x70); };
  for (const auto& bits_of : {std::function<uint16_t(size_t, size_t)>(denormal), {huge}}) {
    for (Codec codec : {Codec::kI8, Codec::kLadder, Codec::kTrellis}) {
      const std::vector<uint16_t> values = WithTileZero(bits_of);
      const std::vector<uint8_t> block = EncodeOrDie(kShape, values, codec, 0);
      const std::vector<uint16_t> decoded = DecodeOrDie(ParseOrDie(block));
      EXPECT_EQ(ParseOrDie(block).raised_tiles(), 1u);
      EXPECT_TRUE(std::equal(values.begin(), values.begin() + kTile, decoded.begin()));
      ExpectOthersUntouched(values, decoded, codec == Codec::kTrellis ? 9 : 19);
    }
  }
}

TEST(Codec, ConstantRowsAndOutlierChannelsKeepTheFloor) {
  const auto constant = [](size_t, size_t d) { return Bf16FromFloat(float(d) - 60); };
  const auto outlier = [](size_t t, size_t d) {
    return Bf16FromFloat(d == 5 ? 300.0f : d == 17 ? -90.0f : std::sin(float(t * 131 + d * 7)));
  };
  const auto one_value = [](size_t t, size_t d) { return Bf16FromFloat(t == 9 && d == 9 ? 1000.0f : 0.0f); };
  for (const auto& bits_of : {std::function<uint16_t(size_t, size_t)>(constant), {outlier}, {one_value}}) {
    for (Codec codec : {Codec::kI8, Codec::kLadder, Codec::kTrellis}) {
      const std::vector<uint16_t> values = WithTileZero(bits_of);
      const std::vector<uint8_t> block = EncodeOrDie(kShape, values, codec, 16);
      const std::vector<uint16_t> decoded = DecodeOrDie(ParseOrDie(block));
      EXPECT_GE(SqnrDb(kShape, values, decoded, 0, kTile), codec == Codec::kI8       ? 30
                                                           : codec == Codec::kLadder ? 15
                                                                                     : 12);
      ExpectOthersUntouched(values, decoded, codec == Codec::kTrellis ? 9 : 19);
    }
  }
}

TEST(Codec, TheFloorIsAPromiseAtAnyHeight) {
  const std::vector<uint16_t> values = NormalValues(kShape, kSeed);
  for (Codec codec : {Codec::kI8, Codec::kLadder}) {
    for (float floor_db : {1.0f, 19.0f, 25.0f, 40.0f, 44.5f, 60.0f, 200.0f}) {
      const std::vector<uint8_t> block = EncodeOrDie(kShape, values, codec, 16, floor_db);
      const BlockView view = ParseOrDie(block);
      const std::vector<uint16_t> decoded = DecodeOrDie(view);
      double worst = INFINITY;
      for (size_t tile = 0; tile < 4; ++tile)
        worst = std::min(worst, SqnrDb(kShape, values, decoded, tile * kTile, kTile));
      EXPECT_EQ(view.floor_db(), floor_db);
      EXPECT_GE(view.min_sqnr_db(), floor_db);
      EXPECT_GE(worst, floor_db);
      if (std::isfinite(worst)) {
        EXPECT_NEAR(view.min_sqnr_db(), worst, 0.01);
      }
      EXPECT_EQ(view.raised_tiles(), worst > (codec == Codec::kI8 ? 50 : 25) ? 4u : 0u) << floor_db;
    }
  }
}

TEST(Codec, RaisedLadderTilesAreRotatedI8BeforeTheyAreRaw) {
  const std::vector<uint16_t> values = NormalValues(kShape, kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(kShape, values, Codec::kLadder, 16, 30.0f);
  EXPECT_EQ(ParseOrDie(block).raised_tiles(), 4u);
  EXPECT_LT(block.size(), kShape.PlainBytes() * 0.53);
  EXPECT_GT(SqnrDb(kShape, values, DecodeOrDie(ParseOrDie(block))), 40);
}

TEST(Codec, SinksOfAPromptKeepEightBits) {
  // The first tokens of a real prompt are unlike all others: here fifty times as large.
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  const std::vector<uint16_t> values =
      Values(kShape, [&](size_t, size_t, size_t, size_t t, size_t) { return normal(random) * (t < 4 ? 50.0f : 1.0f); });
  const std::vector<uint8_t> block = EncodeOrDie(kShape, values, Codec::kLadder, 0);
  for (int precision : {2, 4}) {
    const std::vector<uint16_t> decoded = DecodeOrDie(ParseOrDie(block), precision);
    for (size_t tile = 0; tile < 4; ++tile) {
      const size_t sinks = kSinkTokens * kShape.head_dim;
      EXPECT_GT(SqnrDb(kShape, values, decoded, tile * kTile, sinks), 38);
      EXPECT_GT(SqnrDb(kShape, values, decoded, tile * kTile + sinks, kTile - sinks), precision == 4 ? 19 : 8);
    }
  }
}

TEST(Codec, KeptRotatedIsTheOriginalTimesAnOrthonormalMatrix) {
  const std::vector<uint16_t> values = NormalValues(kShape, kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(kShape, values, Codec::kLadder, 0);
  const std::vector<uint16_t> original = DecodeOrDie(ParseOrDie(block));
  const std::vector<uint16_t> rotated = DecodeOrDie(ParseOrDie(block), 0, Basis::kKeptRotated);
  // Products between tokens of one tile, in either basis.
  for (size_t a = 0; a < kShape.tokens; a += 7) {
    double before = 0, after = 0;
    for (size_t d = 0; d < kShape.head_dim; ++d) {
      before += Widen(original[d], kShape.dtype) * Widen(original[a * kShape.head_dim + d], kShape.dtype);
      after += Widen(rotated[d], kShape.dtype) * Widen(rotated[a * kShape.head_dim + d], kShape.dtype);
    }
    EXPECT_NEAR(before, after, 0.5) << a;
  }
  EXPECT_NE(original, rotated);
}

TEST(Codec, StridesAreTheCallersOwn) {
  // Pages [layer][token][kv][head][d + 3], tokens of other blocks around them.
  const BlockShape shape = {3, 2, 32, 80, Dtype::kF16};
  const std::vector<uint16_t> values = NormalValues(shape, kSeed);
  const size_t row = shape.head_dim + 3, token = 4 * row, layer = (shape.tokens + 5) * token;
  std::vector<uint16_t> paged(shape.layers * layer, 0x1234);
  const Pages pages = {paged.data() + 2 * token, 2 * row, layer, row, token};
  const Pages plain = ContiguousPages(const_cast<uint16_t*>(values.data()), shape, shape.tokens);
  const auto for_each_row = [&](auto visit) {
    for (size_t i = 0; i < 2 * shape.layers * shape.heads * shape.tokens; ++i) {
      const size_t t = i % shape.tokens, head = i / shape.tokens % shape.heads;
      const size_t l = i / shape.tokens / shape.heads % shape.layers,
                   kv = i / shape.tokens / shape.heads / shape.layers;
      visit(pages.Row(kv, l, head, t), plain.Row(kv, l, head, t));
    }
  };
  for_each_row([&](uint16_t* to, const uint16_t* from) { std::copy_n(from, shape.head_dim, to); });
  for (Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder, Codec::kX16}) {
    std::vector<uint8_t> block(MaxBlockBytes(shape, codec));
    const ConstPages from = {pages.base, pages.kv_stride, pages.layer_stride, pages.head_stride, pages.token_stride};
    const auto size = Encode(IdentityAt(0), shape, from, {codec}, absl::MakeSpan(block));
    ASSERT_TRUE(size.ok());
    block.resize(*size);
    EXPECT_EQ(block, EncodeOrDie(shape, values, codec, 0));
    const std::vector<uint16_t> expected = DecodeOrDie(ParseOrDie(block));
    std::vector<uint16_t> before = paged;
    ASSERT_TRUE(Decode(ParseOrDie(block), {0, shape.layers}, 0, Basis::kOriginal, pages).ok());
    size_t differences = 0, rows_right = 0;
    for_each_row([&](uint16_t* got, const uint16_t* plain_row) {
      rows_right += std::equal(got, got + shape.head_dim, expected.data() + (plain_row - values.data()));
      std::copy_n(before.data() + (got - paged.data()), shape.head_dim, got);
    });
    for (size_t i = 0; i < paged.size(); ++i) differences += paged[i] != before[i];
    EXPECT_EQ(differences, 0u) << "bytes between the rows were written";
    EXPECT_EQ(rows_right, 2 * shape.layers * shape.heads * shape.tokens);
  }
}

TEST(Codec, ALayerRangeTouchesOnlyItsLayers) {
  const BlockShape shape = {4, 1, 16, 64, Dtype::kBf16};
  const std::vector<uint16_t> values = NormalValues(shape, kSeed);
  const std::vector<uint8_t> block = EncodeOrDie(shape, values, Codec::kLadder, 0);
  const std::vector<uint16_t> all = DecodeOrDie(ParseOrDie(block));
  std::vector<uint16_t> some(shape.Elements(), 7);
  ASSERT_TRUE(Decode(ParseOrDie(block), {1, 3}, 4, Basis::kOriginal, ContiguousPages(some.data(), shape, 16)).ok());
  for (size_t i = 0; i < some.size(); ++i) {
    const size_t layer = i / shape.TileElements() % shape.layers;
    ASSERT_EQ(some[i], layer == 1 || layer == 2 ? all[i] : 7) << i;
  }
}

TEST(Codec, EncodeNamesWhatIsWrong) {
  const std::vector<uint16_t> values = NormalValues(kShape, kSeed);
  const ConstPages pages = ContiguousPages(values.data(), kShape, kShape.tokens);
  std::vector<uint8_t> out(MaxBlockBytes(kShape, Codec::kRaw16));
  const auto message = [&](BlockShape shape, EncodeOptions options, size_t room) {
    const auto size = Encode(IdentityAt(0), shape, pages, options, absl::MakeSpan(out).subspan(0, room));
    return size.ok() ? "accepted" : size.status().ToString();
  };
  BlockShape shape = kShape;
  shape.tokens = 24;
  EXPECT_EQ(message(shape, {}, out.size()),
            "INVALID_ARGUMENT: shape: 24 tokens; allowed are multiples of 16 from 16 to 256");
  shape = kShape;
  shape.head_dim = 72;
  EXPECT_EQ(message(shape, {}, out.size()),
            "INVALID_ARGUMENT: shape: head_dim 72; allowed are 64, 80, 96, 128 and 256");
  shape = kShape;
  shape.layers = 0;
  EXPECT_EQ(message(shape, {}, out.size()), "INVALID_ARGUMENT: shape: 0 layers; allowed are 1 to 1024");
  shape = {1024, 256, 256, 256, Dtype::kBf16};
  EXPECT_EQ(message(shape, {}, out.size()),
            "INVALID_ARGUMENT: shape: 68719476736 plain bytes; allowed are at most 1073741824");
  EXPECT_EQ(message(kShape, {Codec(200)}, out.size()), "INVALID_ARGUMENT: codec 200; " + KnownCodecs());
  EXPECT_EQ(message(kShape, {Codec::kI8, -1.0f}, out.size()),
            "INVALID_ARGUMENT: floor_db -1; allowed are 0 (the codec's own) to 200");
  EXPECT_EQ(message(kShape, {Codec::kI8, NAN}, out.size()),
            "INVALID_ARGUMENT: floor_db nan; allowed are 0 (the codec's own) to 200");
  EXPECT_EQ(message(kShape, {.codec = Codec::kLadder, .key_bits = 5}, out.size()),
            "INVALID_ARGUMENT: key_bits 5; ladder has 0 (its own), 2, 3, 4, 8");
  EXPECT_EQ(message(kShape, {.codec = Codec::kI8, .value_bits = 4}, out.size()),
            "INVALID_ARGUMENT: value_bits 4; i8 has 0 (its own), 8");
  EXPECT_EQ(message(kShape, {.codec = Codec::kTrellis, .key_bits = 4}, out.size()),
            "INVALID_ARGUMENT: key_bits 4; trellis has 0 (its own), 2, 3, 8");
  EXPECT_EQ(message(kShape, {.codec = Codec::kTrellis, .key_bits = 8, .value_bits = 8}, out.size()),
            "INVALID_ARGUMENT: all tiles have 8 bits; trellis needs one with fewer, i8 is made for 8");
  EXPECT_EQ(message(kShape, {.codec = Codec::kI8, .exact_heads = 1}, out.size()),
            "INVALID_ARGUMENT: exact_heads 1; only ladder and trellis keep some heads as they are");
  EXPECT_EQ(message(kShape, {.exact_heads = 2}, out.size()),
            "INVALID_ARGUMENT: exact_heads 2 of 2; one must be left to code, raw16 keeps all as they are");
  const uint8_t bits[] = {4, 4, 4, 4, 5};
  EXPECT_EQ(message(kShape, {.tile_bits = bits}, out.size()),
            "INVALID_ARGUMENT: tile_bits of 5 tiles; the block has 4");
  EXPECT_EQ(message(kShape, {.tile_bits = absl::MakeConstSpan(bits).subspan(1)}, out.size()),
            "INVALID_ARGUMENT: tile_bits 5; ladder has 0 (its own), 2, 3, 4, 8");
  EXPECT_EQ(message(kShape, {Codec::kRaw16}, 1000),
            "RESOURCE_EXHAUSTED: block of at least 65728 bytes; the output holds 1000");
}

TEST(Codec, ATileMayOnlyLackPlanesWhereTheHeaderSaysSo) {
  const std::vector<uint16_t> values = NormalValues(kShape, kSeed);
  std::vector<uint16_t> out(kShape.Elements());
  const Pages pages = ContiguousPages(out.data(), kShape, kShape.tokens);
  const auto with_mode = [&](const EncodeOptions& options, uint8_t mode) {
    std::vector<uint8_t> block = EncodeOrDie(kShape, values, options, 16);
    block[ParseOrDie(block).Plane(0, 0).offset] = mode;
    ResealPiece(block, 0);
    return Decode(ParseOrDie(block), {0, 1}, 0, Basis::kOriginal, pages).ToString();
  };
  const EncodeOptions plain = {.codec = Codec::kLadder}, mixed = {.codec = Codec::kLadder, .value_bits = 3};
  EXPECT_EQ(with_mode(plain, 0x00), "OK");
  EXPECT_EQ(with_mode(plain, 0x10), "DATA_LOSS: layer 0: tile 0 has mode 16");
  EXPECT_EQ(with_mode(mixed, 0x00), "OK");
  EXPECT_EQ(with_mode(mixed, 0x30), "DATA_LOSS: layer 0: tile 0 has mode 48");
  EXPECT_EQ(with_mode(mixed, 0x12), "DATA_LOSS: layer 0: tile 0 has mode 18");
  EXPECT_EQ(with_mode(mixed, 0x10), "DATA_LOSS: layer 0: plane 3 of 2048 bytes; 1 tiles imply 1024");
}

TEST(Codec, DecodeNamesWhatIsWrong) {
  const std::vector<uint16_t> values = NormalValues(kShape, kSeed);
  std::vector<uint16_t> out(kShape.Elements());
  const Pages pages = ContiguousPages(out.data(), kShape, kShape.tokens);
  const std::vector<uint8_t> ladder = EncodeOrDie(kShape, values, Codec::kLadder, 0);
  const std::vector<uint8_t> i8 = EncodeOrDie(kShape, values, Codec::kI8, 0);
  const std::vector<uint8_t> raised = EncodeOrDie(kShape, values, Codec::kLadder, 0, 100);
  const auto message = [&](const std::vector<uint8_t>& block, LayerRange layers, int precision, Basis basis) {
    return Decode(ParseOrDie(block), layers, precision, basis, pages).ToString();
  };
  EXPECT_EQ(message(ladder, {0, 2}, 4, Basis::kOriginal), "INVALID_ARGUMENT: layers [0, 2) of a block of 1");
  EXPECT_EQ(message(ladder, {0, 0}, 4, Basis::kOriginal), "INVALID_ARGUMENT: layers [0, 0) of a block of 1");
  EXPECT_EQ(message(ladder, {0, 1}, 8, Basis::kOriginal), "INVALID_ARGUMENT: precision 8; ladder has 2, 3 and 4");
  EXPECT_EQ(message(i8, {0, 1}, 4, Basis::kOriginal), "INVALID_ARGUMENT: precision 4; i8 has 8");
  EXPECT_EQ(message(i8, {0, 1}, 8, Basis::kKeptRotated), "FAILED_PRECONDITION: i8 does not rotate: no kept basis");
  EXPECT_EQ(message(raised, {0, 1}, 4, Basis::kKeptRotated),
            "FAILED_PRECONDITION: layer 0: tile 0 is kept raw16, not rotated; a page must not mix two bases");
  const PlaneEntry p1 = ParseOrDie(ladder).Plane(2, 0);
  const std::vector<uint8_t> two_bits(ladder.begin(), ladder.begin() + p1.offset);
  EXPECT_EQ(message(two_bits, {0, 1}, 4, Basis::kOriginal),
            "FAILED_PRECONDITION: precision 4 needs 4 planes; the view holds 2");
  EXPECT_EQ(DecodeOrDie(ParseOrDie(two_bits)), DecodeOrDie(ParseOrDie(ladder), 2));
}

}  // namespace
}  // namespace kvist
