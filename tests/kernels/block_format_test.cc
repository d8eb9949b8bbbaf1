// Goal    A reader learns from a block what it is, and from a broken one what is broken; it never trusts a byte.
// Method  Good blocks of each codec are cut, changed and resealed (checksums made right again), so that each check is
//         the one that speaks; the message is part of the test.
#include "kernels/block_format.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/block_builder.h"

namespace kvist {
namespace {

constexpr BlockShape kShape = {3, 2, 32, 64, Dtype::kBf16};
constexpr size_t kPrefix = kHeaderBytes + 4 * 3 * kPlaneEntryBytes;  // of a ladder block of three layers

const std::vector<uint8_t>& LadderBlock() {
  static const auto& block = *new std::vector<uint8_t>(EncodeOrDie(kShape, NormalValues(kShape, 1), Codec::kLadder, 0));
  return block;
}

std::string ParseError(absl::Span<const uint8_t> bytes) {
  const auto view = BlockView::Parse(bytes);
  return view.ok() ? "accepted" : view.status().ToString();
}

// The error of a ladder block with one field overwritten and the checksums made right again.
std::string ErrorWithField(size_t at, int size_bytes, uint64_t value) {
  std::vector<uint8_t> bytes = LadderBlock();
  StoreLe(value, size_bytes, &bytes[at]);
  Reseal(bytes);
  return ParseError(bytes);
}

TEST(BlockFormat, AHeaderTellsWhatWasEncoded) {
  for (Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder, Codec::kX16, Codec::kTrellis}) {
    const std::vector<uint8_t> block = EncodeOrDie(kShape, NormalValues(kShape, 1), codec, 4096);
    const BlockView view = ParseOrDie(block);
    EXPECT_EQ(view.codec(), codec);
    EXPECT_EQ(view.codec_version(), 1);
    EXPECT_EQ(view.shape(), kShape);
    EXPECT_EQ(view.identity(), IdentityAt(4096));
    EXPECT_EQ(view.block_bytes(), block.size());
    EXPECT_EQ(view.planes(), TraitsOf(codec).planes);
    EXPECT_EQ(view.PlanesPresent(), view.planes());
    EXPECT_EQ(view.MaxPrecision(), TraitsOf(codec).code_bits);
    EXPECT_EQ(view.floor_db(), codec == Codec::kTrellis  ? 9
                               : codec == Codec::kLadder ? 15
                               : codec == Codec::kI8     ? 30
                                                         : 0);
    EXPECT_EQ(*BlockView::PrefixBytes(absl::MakeSpan(block).subspan(0, 128)), 128 + 16 * 3 * size_t(view.planes()));
    EXPECT_EQ(view.Verify(0, 3, 0).ToString(), "OK");
  }
}

TEST(BlockFormat, NamesOfCodecsAndDtypesAreReadBack) {
  for (Codec codec : kKnownCodecs) EXPECT_EQ(*ParseCodec(CodecName(codec)), codec);
  EXPECT_THAT(KnownCodecs(), testing::StartsWith("known are 1 (raw16), 2 (i8), 3 (ladder), 4 (x16)"));
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF8E4M3, Dtype::kF8E5M2, Dtype::kU8})
    EXPECT_EQ(*ParseDtype(DtypeName(dtype)), dtype);
  EXPECT_THAT(ParseCodec("q4").status().ToString(),
              testing::StartsWith("INVALID_ARGUMENT: unknown codec \"q4\"; known are raw16, i8, ladder, x16"));
  EXPECT_EQ(ParseDtype("f32").status().ToString(),
            "INVALID_ARGUMENT: unknown dtype \"f32\"; known are bf16, f16, f8e4m3, f8e5m2, u8");
}

TEST(BlockFormat, ABlockCutAnywhereIsRefusedOrHoldsFewerPlanes) {
  const std::vector<uint8_t>& block = LadderBlock();
  const BlockView whole = ParseOrDie(block);
  for (size_t size = 0; size < block.size(); ++size) {
    // A copy of exactly this length, so that reading past it is seen by a sanitizer.
    const std::vector<uint8_t> cut(block.begin(), block.begin() + size);
    const auto view = BlockView::Parse(cut);
    if (size < kPrefix) {
      const std::string expected =
          size < 128 ? "INVALID_ARGUMENT: block cut inside its header: " + std::to_string(size) + " bytes of 128"
                     : "INVALID_ARGUMENT: block cut inside its plane table: " + std::to_string(size) + " bytes of 320";
      ASSERT_EQ(view.status().ToString(), expected);
      continue;
    }
    ASSERT_TRUE(view.ok()) << size;
    int planes = 0;
    while (planes < 4 && whole.Plane(planes, 2).offset + whole.Plane(planes, 2).size_bytes <= size) ++planes;
    ASSERT_EQ(view->PlanesPresent(), planes) << size;
    ASSERT_EQ(view->MaxPrecision(), planes >= 2 ? planes : 0) << size;
    const absl::Status verified = view->Verify(0, 3, 4);
    ASSERT_EQ(verified.code(), absl::StatusCode::kFailedPrecondition) << size;
    if (planes >= 2) {
      ASSERT_TRUE(view->Verify(0, 3, planes).ok());
    }
  }
}

TEST(BlockFormat, ABlockThatIsTooLongIsRefused) {
  std::vector<uint8_t> bytes = LadderBlock();
  const std::string size = std::to_string(bytes.size());
  bytes.push_back(0);
  EXPECT_EQ(ParseError(bytes),
            "INVALID_ARGUMENT: " + std::to_string(bytes.size()) + " bytes given for a block of " + size);
}

TEST(BlockFormat, AForeignMagicVersionOrCodecIsNamed) {
  EXPECT_EQ(ErrorWithField(0, 1, 'k'), "INVALID_ARGUMENT: not a block: the first 8 bytes are not \"KVISTBLK\"");
  EXPECT_EQ(ErrorWithField(8, 2, 2), "UNIMPLEMENTED: block format version 2; this reader knows version 1");
  EXPECT_EQ(ErrorWithField(8, 2, 0), "INVALID_ARGUMENT: block format version 0; this reader knows version 1");
  for (const int codec : {0, 200}) {
    const std::string expected = "UNIMPLEMENTED: unknown codec " + std::to_string(codec) + "; " + KnownCodecs();
    EXPECT_EQ(ErrorWithField(10, 1, codec), expected);
  }
  EXPECT_EQ(ErrorWithField(11, 1, 2), "UNIMPLEMENTED: ladder codec version 2; this reader knows version 1");
}

TEST(BlockFormat, AFutureVersionIsNamedEvenWhereItsHeaderDiffers) {
  std::vector<uint8_t> bytes = LadderBlock();
  bytes[8] = 9;  // not resealed: a later version may keep its checksum elsewhere
  EXPECT_EQ(ParseError(bytes), "UNIMPLEMENTED: block format version 9; this reader knows version 1");
}

TEST(BlockFormat, FieldsOutOfRangeAreNamed) {
  EXPECT_EQ(ErrorWithField(12, 1, 6),
            "INVALID_ARGUMENT: header: shape: dtype 6; allowed are 1 (bf16), 2 (f16), 3 (f8e4m3), 4 (f8e5m2), 5 (u8)");
  EXPECT_EQ(ErrorWithField(12, 1, 3), "INVALID_ARGUMENT: header: ladder takes bf16 and f16, not f8e4m3");
  EXPECT_EQ(ErrorWithField(13, 1, 3), "INVALID_ARGUMENT: header: 3 planes of 4-bit codes; ladder has 4 of 4");
  EXPECT_EQ(ErrorWithField(14, 1, 8), "INVALID_ARGUMENT: header: 4 planes of 8-bit codes; ladder has 5 of 8");
  EXPECT_EQ(ErrorWithField(14, 1, 5), "INVALID_ARGUMENT: header: 4 planes of 5-bit codes; ladder has 4 of 4");
  EXPECT_EQ(ErrorWithField(15, 1, 0), "INVALID_ARGUMENT: header: flags 0, the other fields imply 1");
  EXPECT_EQ(ErrorWithField(15, 1, 0x81), "INVALID_ARGUMENT: header: flags 129, the other fields imply 1");
  EXPECT_EQ(ErrorWithField(16, 4, 0xffffffff).substr(0, 48), "INVALID_ARGUMENT: header: shape: 4294967295 laye");
  EXPECT_EQ(ErrorWithField(20, 2, 0), "INVALID_ARGUMENT: header: shape: 0 heads; allowed are 1 to 256");
  EXPECT_EQ(ErrorWithField(22, 2, 65),
            "INVALID_ARGUMENT: header: shape: head_dim 65; allowed are 64, 80, 96, 128 and 256");
  EXPECT_EQ(ErrorWithField(24, 4, 272),
            "INVALID_ARGUMENT: header: shape: 272 tokens; allowed are multiples of 16 from 16 to 256");
  EXPECT_EQ(ErrorWithField(28, 4, 16), "INVALID_ARGUMENT: header: flags 1, the other fields imply 0");
  EXPECT_EQ(ErrorWithField(104, 2, 100 * 256).substr(0, 40), "INVALID_ARGUMENT: header: worst tile at ");
  EXPECT_EQ(ErrorWithField(108, 4, 1), "INVALID_ARGUMENT: header: flags 1, the other fields imply 3");
}

TEST(BlockFormat, MoreRaisedTilesThanTilesAreRefused) {
  std::vector<uint8_t> bytes = LadderBlock();
  bytes[15] = 3;
  StoreLe(13, 4, &bytes[108]);
  Reseal(bytes);
  EXPECT_EQ(ParseError(bytes), "INVALID_ARGUMENT: header: 13 raised tiles in a ladder block of 12");
}

TEST(BlockFormat, EveryBrokenBitOfHeaderAndTableIsFound) {
  for (size_t bit = 0; bit < 8 * kPrefix; ++bit) {
    std::vector<uint8_t> bytes = LadderBlock();
    bytes[bit / 8] ^= uint8_t(1 << bit % 8);
    ASSERT_NE(ParseError(bytes), "accepted") << bit;
  }
  std::vector<uint8_t> bytes = LadderBlock();
  bytes[40] ^= 1;
  EXPECT_EQ(ParseError(bytes), "DATA_LOSS: header checksum does not match");
  bytes = LadderBlock();
  bytes[kPrefix - 1] ^= 1;
  EXPECT_EQ(ParseError(bytes), "DATA_LOSS: plane table checksum does not match");
}

TEST(BlockFormat, AHostileTableIsRefused) {
  const BlockView view = ParseOrDie(LadderBlock());
  const uint32_t offset = view.Plane(0, 1).offset, size_bytes = view.Plane(0, 1).size_bytes;
  const size_t entry = kHeaderBytes + kPlaneEntryBytes;  // plane 0, layer 1
  const uint32_t end_before = view.Plane(0, 0).offset + view.Plane(0, 0).size_bytes;
  for (uint32_t bad : {0u, offset + 64, offset - 64, offset + 1, 0xffffffffu}) {
    EXPECT_EQ(ErrorWithField(entry, 4, bad), "INVALID_ARGUMENT: plane table: entry 1 starts at " + std::to_string(bad) +
                                                 ", the one before it ends at " + std::to_string(end_before));
  }
  for (uint32_t bad : {0u, size_bytes + 64, 0xffffffffu}) {
    EXPECT_EQ(ErrorWithField(entry + 4, 4, bad).substr(0, 56),
              "INVALID_ARGUMENT: plane table: entry 2 starts at " + std::to_string(view.Plane(0, 2).offset) + ", t");
  }
  const uint64_t bytes = LadderBlock().size();
  EXPECT_EQ(ErrorWithField(96, 8, bytes + 64), "INVALID_ARGUMENT: plane table: planes end at " + std::to_string(bytes) +
                                                   ", the header says " + std::to_string(bytes + 64) + " bytes");
}

TEST(BlockFormat, EveryPlaneOfEveryLayerHasItsOwnChecksum) {
  for (int plane = 0; plane < 4; ++plane) {
    for (uint32_t layer = 0; layer < 3; ++layer) {
      std::vector<uint8_t> bytes = LadderBlock();
      const PlaneEntry entry = ParseOrDie(bytes).Plane(plane, layer);
      bytes[entry.offset + entry.size_bytes / 2] ^= 0x10;
      const BlockView view = ParseOrDie(bytes);
      EXPECT_EQ(view.Verify(0, 3, 4).ToString(), "DATA_LOSS: checksum of plane " + std::to_string(plane) +
                                                     " of layer " + std::to_string(layer) + " does not match");
      EXPECT_TRUE(view.Verify((layer + 1) % 3, (layer + 1) % 3 + 1, 4).ok());
      EXPECT_EQ(view.Verify(0, 3, 2).ok(), plane >= 2);
    }
  }
}

// Decode's error for a block with one byte of a side piece changed under a right checksum.
std::string DecodeErrorWithSideByte(size_t at, uint8_t value) {
  std::vector<uint8_t> bytes = LadderBlock();
  bytes[ParseOrDie(bytes).Plane(0, 1).offset + at] = value;
  ResealPiece(bytes, 1);
  const BlockView view = ParseOrDie(bytes);
  EXPECT_TRUE(view.Verify(0, 3, 4).ok());
  std::vector<uint16_t> out(kShape.Elements());
  return Decode(view, {0, 3}, 4, Basis::kOriginal, ContiguousPages(out.data(), kShape, kShape.tokens)).ToString();
}

TEST(BlockFormat, ASidePieceThatContradictsItselfIsRefusedByDecode) {
  EXPECT_EQ(DecodeErrorWithSideByte(0, 3), "DATA_LOSS: layer 1: tile 0 has mode 3");
  EXPECT_EQ(DecodeErrorWithSideByte(3, 2).substr(0, 32), "DATA_LOSS: layer 1: side piece o");
  EXPECT_EQ(DecodeErrorWithSideByte(8 + 28 + 5, 129), "DATA_LOSS: layer 1: tile 0 has a channel scale above 128");
  EXPECT_EQ(DecodeErrorWithSideByte(8 + 28 + 5, 128), "OK");
}

TEST(BlockFormat, RangesOfWholeBlocksAndLowerPrecisionsArePrefixes) {
  const BlockView view = ParseOrDie(LadderBlock());
  for (int precision : {2, 3, 4}) {
    const PlaneEntry last = view.Plane(precision - 1, 2);
    const auto ranges = view.RangesFor(0, 3, precision);
    ASSERT_EQ(ranges->size(), 1u) << precision;
    EXPECT_EQ((*ranges)[0].offset, 0u);
    EXPECT_EQ((*ranges)[0].size_bytes, last.offset + last.size_bytes);
  }
  EXPECT_EQ((*view.RangesFor(0, 3, 0))[0].size_bytes, view.block_bytes());
  EXPECT_EQ(view.RangesFor(0, 4, 4).status().ToString(), "INVALID_ARGUMENT: layers [0, 4) of a block of 3");
  EXPECT_EQ(view.RangesFor(2, 1, 4).status().ToString(), "INVALID_ARGUMENT: layers [2, 1) of a block of 3");
  EXPECT_EQ(view.RangesFor(0, 3, 5).status().ToString(), "INVALID_ARGUMENT: precision 5; ladder has 2, 3 and 4");
  EXPECT_EQ(view.Verify(0, 9, 4).ToString(), "INVALID_ARGUMENT: layers [0, 9) of a block of 3");
}

TEST(BlockFormat, TheRangesOfOneLayerAreEnoughToDecodeIt) {
  const std::vector<uint8_t>& block = LadderBlock();
  const std::vector<uint16_t> whole = DecodeOrDie(ParseOrDie(block), 3);
  for (uint32_t layer = 0; layer < 3; ++layer) {
    const auto ranges = *ParseOrDie(block).RangesFor(layer, layer + 1, 3);
    std::vector<uint8_t> sparse(ranges.back().offset + ranges.back().size_bytes, 0xee);
    for (const ByteRange& range : ranges) std::copy_n(&block[range.offset], range.size_bytes, &sparse[range.offset]);
    const BlockView view = ParseOrDie(sparse);
    EXPECT_EQ(view.Verify(layer, layer + 1, 3).ToString(), "OK");
    std::vector<uint16_t> out(kShape.Elements());
    ASSERT_EQ(Decode(view, {layer, layer + 1}, 3, Basis::kOriginal, ContiguousPages(out.data(), kShape, 32)).ToString(),
              "OK");
    for (size_t kv = 0; kv < 2; ++kv) {
      const size_t at = (kv * 3 + layer) * 2 * kShape.TileElements();
      EXPECT_TRUE(std::equal(&out[at], &out[at] + 2 * kShape.TileElements(), &whole[at]));
    }
  }
}

TEST(BlockFormat, IdentityMismatchNamesEachFieldAndBothValues) {
  const BlockView view = ParseOrDie(LadderBlock());
  EXPECT_EQ(view.IdentityMismatch(IdentityAt(0), kShape), "");
  BlockIdentity identity = IdentityAt(64);
  identity.profile_digest[0] = 0xff;
  BlockShape shape = kShape;
  shape.heads = 8;
  shape.dtype = Dtype::kF16;
  EXPECT_EQ(view.IdentityMismatch(identity, shape),
            "profile 00000000000000000000000000000000, expected ff000000000000000000000000000000; first_position 0, "
            "expected 64; heads 2, expected 8; dtype bf16, expected f16");
  identity = IdentityAt(0);
  identity.key[31] = 0;
  EXPECT_EQ(view.IdentityMismatch(identity, kShape).substr(0, 12), "key 01020304");
  identity = IdentityAt(0);
  identity.namespace_digest[0] = 0;
  EXPECT_EQ(view.IdentityMismatch(identity, kShape),
            "namespace a0a1a2a3a4a5a6a7a8a9aaabacadaeaf, expected 00a1a2a3a4a5a6a7a8a9aaabacadaeaf");
}

}  // namespace
}  // namespace kvist
