// Goal    Head groups are models of their own: a block of several is, tile by tile and byte by byte, the blocks of its groups;
//         wide models fit; a table of streams that lies is refused.
// Method  Profiles of several groups, and one for each group alone; the same values, all heads together and each group's.
#include <cmath>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/header.h"
#include "kernels/q/profile.h"
#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/q/synthetic_profile.h"
#include "tests/kernels/targets.h"

namespace kvist {
namespace {

using testing::HasSubstr;

constexpr SyntheticProfile kLocal = {.layers = 3, .heads = 4, .groups = 2};
constexpr SyntheticProfile kDeep = {
    .layers = 4, .heads = 6, .layers_between_resets = 0, .layers_before = 2, .groups = 3};
constexpr SyntheticProfile kResets = {
    .layers = 5, .heads = 4, .layers_between_resets = 2, .layers_before = 1, .groups = 2};
constexpr uint32_t kTokens = 32;

BlockShape ShapeOf(const ProfileFacts& facts) {
  return {facts.layers, facts.heads, kTokens, facts.head_dim, Dtype::kBf16};
}

ConstPages PagesOf(const std::vector<uint16_t>& values, const BlockShape& shape) {
  return ContiguousPages(values.data(), shape, shape.tokens);
}

std::vector<uint8_t> EncodeQ(const Profile& profile, const ConstPages& pages, uint32_t first_position,
                             float floor_db = 0) {
  const BlockShape shape = ShapeOf(profile.facts());
  BlockIdentity identity = IdentityAt(first_position);
  identity.profile_digest = profile.digest();
  std::vector<uint8_t> bytes(MaxBlockBytes(shape, Codec::kQ));
  const EncodeOptions options = {.codec = Codec::kQ, .floor_db = floor_db, .profile = &profile};
  bytes.resize(Encode(identity, shape, pages, options, absl::MakeSpan(bytes)).value());
  return bytes;
}

// By the oracle; every target must give the same.
std::vector<uint16_t> DecodeQ(const Profile& profile, const std::vector<uint8_t>& block, LayerRange layers) {
  const BlockView view = ParseOrDie(block);
  const BlockShape& shape = view.shape();
  std::vector<uint16_t> oracle(shape.Elements(), 0x5555);
  const Pages pages = ContiguousPages(oracle.data(), shape, shape.tokens);
  EXPECT_EQ(reference::Decode(view, layers, 0, Basis::kOriginal, pages, &profile).ToString(), "OK");
  ForEachTarget([&] {
    std::vector<uint16_t> values(shape.Elements(), 0x5555);
    const Pages own = ContiguousPages(values.data(), shape, shape.tokens);
    EXPECT_EQ(Decode(view, layers, 0, Basis::kOriginal, own, &profile).ToString(), "OK");
    EXPECT_EQ(values, oracle);
  });
  return oracle;
}

std::vector<uint16_t> DecodeQ(const Profile& profile, const std::vector<uint8_t>& block) {
  return DecodeQ(profile, block, {0, profile.facts().layers});
}

Profile ProfileOfGroup(const ProfileFile& file, size_t group) {
  ProfileFile alone;
  alone.facts = file.facts.OfGroup();
  alone.groups = {file.groups[group]};
  return ParseProfileOrDie(WriteOrDie(alone));
}

// A part of the values that a profile is made for; a loud head is raised, one with infinity is kept as it is.
std::vector<uint16_t> MixedValues(const BlockShape& shape) {
  std::mt19937_64 random(20261129);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values = Values(shape, [&](size_t kv, size_t layer, size_t head, size_t, size_t d) {
    const bool loud = kv == 1 && layer == 1 && head == shape.heads - 1;
    return (loud ? 1e5f : 1.0f) * normal(random) * std::exp2(-2 * float(d) / float(shape.head_dim));
  });
  values[ContiguousPages(values.data(), shape, shape.tokens).Row(0, 2, 1, 3) - values.data()] = 0x7f80;
  return values;
}

uint64_t StreamBytes(const std::vector<uint8_t>& block, uint32_t layer) {
  return ParseOrDie(block).Plane(1, layer).size_bytes;
}

TEST(HeadGroups, EachIsCodedAsAModelOfItsOwnBitForBit) {
  for (const SyntheticProfile& wanted : {kLocal, kDeep, kResets}) {
    const ProfileFile file = MakeProfileFile(wanted);
    const Profile together = ParseProfileOrDie(WriteOrDie(file));
    const BlockShape shape = ShapeOf(file.facts);
    const size_t each = wanted.heads / wanted.groups;
    std::vector<uint16_t> values = MixedValues(shape);
    for (const uint32_t first_position : {0, 4096}) {
      const std::vector<uint8_t> block = EncodeQ(together, PagesOf(values, shape), first_position, 20);
      std::vector<uint16_t> decoded = DecodeQ(together, block);
      const Pages all = ContiguousPages(decoded.data(), shape, shape.tokens);
      std::vector<uint64_t> stream_bytes(shape.layers, 4 * wanted.groups);
      uint32_t raised = 0;
      for (size_t group = 0; group < wanted.groups; ++group) {
        const Profile alone = ProfileOfGroup(file, group);
        ConstPages pages = PagesOf(values, shape);
        pages.base += group * each * pages.head_stride;
        const std::vector<uint8_t> own = EncodeQ(alone, pages, first_position, 20);
        std::vector<uint16_t> expected = DecodeQ(alone, own);
        raised += ParseOrDie(own).raised_tiles();
        const BlockShape own_shape = ShapeOf(alone.facts());
        const Pages of_group = ContiguousPages(expected.data(), own_shape, own_shape.tokens);
        for (uint32_t layer = 0; layer < shape.layers; ++layer) {
          stream_bytes[layer] += StreamBytes(own, layer);
          for (size_t tile = 0; tile < 2 * each; ++tile) {
            const size_t kv = tile / each, head = tile % each;
            const uint16_t* got = all.Row(kv, layer, group * each + head, 0);
            EXPECT_TRUE(std::equal(got, got + shape.TileElements(), of_group.Row(kv, layer, head, 0)))
                << "group " << group << ", layer " << layer << ", tile " << tile;
          }
        }
      }
      EXPECT_GT(raised, 1u);
      EXPECT_EQ(ParseOrDie(block).raised_tiles(), raised);
      for (uint32_t layer = 0; layer < shape.layers; ++layer) EXPECT_EQ(StreamBytes(block, layer), stream_bytes[layer]);
    }
  }
}

TEST(HeadGroups, ModelsOfAThousandChannelsAndMoreAreTaken) {
  for (const SyntheticProfile& wanted : {SyntheticProfile{.layers = 2, .heads = 8, .head_dim = 128, .groups = 4},
                                         {.layers = 1, .heads = 4, .head_dim = 256, .groups = 2},
                                         {.layers = 1, .heads = 32, .head_dim = 64, .groups = 8}}) {
    const Profile profile = MakeProfile(wanted);
    const BlockShape shape = ShapeOf(profile.facts());
    const std::vector<uint16_t> values = Values(
        shape,
        [random = std::mt19937_64(1), normal = std::normal_distribution<float>()](
            size_t, size_t, size_t, size_t, size_t d) mutable { return normal(random) * std::exp2(-float(d) / 64); });
    const std::vector<uint8_t> block = EncodeQ(profile, PagesOf(values, shape), 64);
    EXPECT_EQ(ParseOrDie(block).raised_tiles(), 0u);
    EXPECT_LT(block.size(), shape.PlainBytes() / 2);
    EXPECT_GT(SqnrDb(shape, values, DecodeQ(profile, block)), 25);
  }
}

TEST(HeadGroups, ARangeOfLayersNeedsOnlyWhatRangesForNames) {
  const Profile profile = MakeProfile(kResets);  // resets at layers 0, 2 and 4
  const BlockShape shape = ShapeOf(profile.facts());
  const std::vector<uint8_t> block = EncodeQ(profile, PagesOf(MixedValues(shape), shape), 0);
  const std::vector<uint16_t> all = DecodeQ(profile, block);
  const size_t layer_elements = shape.heads * shape.TileElements();
  for (const LayerRange range : {LayerRange{0, 1}, {1, 2}, {2, 3}, {3, 5}, {1, 4}, {4, 5}}) {
    std::vector<uint8_t> some(block.size(), 0xee);
    const auto ranges = ParseOrDie(block).RangesFor(range.first, range.last, 1);
    for (const ByteRange& bytes : *ranges) {
      std::copy_n(block.begin() + bytes.offset, bytes.size_bytes, some.begin() + bytes.offset);
    }
    EXPECT_TRUE(ParseOrDie(some).Verify(range.first, range.last, 0).ok());
    const std::vector<uint16_t> got = DecodeQ(profile, some, range);
    for (size_t i = 0; i < got.size(); ++i) {
      const size_t layer = i / layer_elements % shape.layers;
      ASSERT_EQ(got[i], layer >= range.first && layer < range.last ? all[i] : 0x5555) << "element " << i;
    }
  }
}

TEST(HeadGroups, ALayerThatNoGroupHasInItsStreamHasNoTable) {
  const Profile profile = MakeProfile(kLocal);
  const BlockShape shape = ShapeOf(profile.facts());
  std::vector<uint16_t> values = NormalValues(shape, 1);
  for (size_t head = 0; head < shape.heads; ++head) {
    for (size_t kv = 0; kv < 2; ++kv) {
      if (kv == 0 || head < 2) values[PagesOf(values, shape).Row(kv, 1, head, 0) - values.data()] = 0x7f80;
    }
  }
  std::vector<uint8_t> block = EncodeQ(profile, PagesOf(values, shape), 16);
  EXPECT_GT(StreamBytes(block, 1), 8u);  // V of the second group
  EXPECT_EQ(LoadLe(&block[ParseOrDie(block).Plane(1, 1).offset], 4), 0u);
  for (size_t head : {2, 3}) values[PagesOf(values, shape).Row(1, 1, head, 0) - values.data()] = 0x7f80;
  block = EncodeQ(profile, PagesOf(values, shape), 16);
  EXPECT_EQ(StreamBytes(block, 1), 0u);
  const std::vector<uint16_t> decoded = DecodeQ(profile, block);
  const Pages pages = ContiguousPages(values.data(), shape, shape.tokens);
  const uint16_t* row = pages.Row(1, 1, 3, 0);
  EXPECT_TRUE(std::equal(row, row + shape.TileElements(), &decoded[row - values.data()]));
}

class WrongTable : public testing::Test {
 protected:
  // What the oracle and every target say of the block with other first bytes of layer 1's stream.
  std::string With(size_t at, uint32_t size) {
    std::vector<uint8_t> changed = block_;
    StoreLe(size, 4, &changed[ParseOrDie(block_).Plane(1, 1).offset + at]);
    ResealPiece(changed, shape_.layers + 1);
    const std::vector<uint8_t> exact(changed.begin(), changed.end());  // a sanitizer sees what lies behind it
    std::vector<uint16_t> out(shape_.Elements());
    const Pages pages = ContiguousPages(out.data(), shape_, shape_.tokens);
    const BlockView view = ParseOrDie(exact);
    const std::string got =
        reference::Decode(view, {0, shape_.layers}, 0, Basis::kOriginal, pages, &profile_).ToString();
    ForEachTarget([&] {
      EXPECT_EQ(Decode(view, {0, shape_.layers}, 0, Basis::kOriginal, pages, &profile_).ToString(), got);
    });
    return got;
  }

  const Profile profile_ = MakeProfile(kLocal);
  const BlockShape shape_ = ShapeOf(profile_.facts());
  const std::vector<uint8_t> block_ = EncodeQ(profile_, PagesOf(NormalValues(shape_, 1), shape_), 16);
};

TEST_F(WrongTable, SizesThatDoNotFillThePieceAreRefused) {
  const uint32_t first = uint32_t(LoadLe(&block_[ParseOrDie(block_).Plane(1, 1).offset], 4));
  for (const uint32_t size : {0u, first - 1, first + 2, 1u << 31, ~0u}) {
    EXPECT_THAT(With(0, size), HasSubstr("DATA_LOSS: layer 1: a stream piece of ")) << size;
    EXPECT_THAT(With(4, size), HasSubstr("bytes; its table says ")) << size;
  }
}

TEST_F(WrongTable, SizesThatCutOneStreamForAnotherAreRefusedWithTheHeadsThatAreHit) {
  const size_t at = ParseOrDie(block_).Plane(1, 1).offset;
  std::vector<uint8_t> changed = block_;
  StoreLe(LoadLe(&changed[at], 4) + 2, 4, &changed[at]);
  StoreLe(LoadLe(&changed[at + 4], 4) - 2, 4, &changed[at + 4]);
  ResealPiece(changed, shape_.layers + 1);
  std::vector<uint16_t> out(shape_.Elements());
  const Pages pages = ContiguousPages(out.data(), shape_, shape_.tokens);
  const std::string got =
      Decode(ParseOrDie(changed), {0, shape_.layers}, 0, Basis::kOriginal, pages, &profile_).ToString();
  EXPECT_EQ(got, "DATA_LOSS: heads 0 to 1: layer 1: its stream has 2 bytes too many");
}

TEST_F(WrongTable, APieceThatIsSmallerThanItsTableIsRefused) {
  // A profile of more groups than the block was written with: its digest in the header, four streams' table in two's piece.
  const Profile more = MakeProfile({.layers = 3, .heads = 4, .groups = 4});
  std::vector<uint16_t> values = NormalValues(shape_, 1);
  for (uint16_t& value : values) value = 0x7f80;
  std::vector<uint8_t> block = EncodeQ(profile_, PagesOf(values, shape_), 16);
  ASSERT_EQ(StreamBytes(block, 2), 0u);
  block.resize(block.size() + 12);
  uint8_t* entry = &block[kHeaderBytes + (2 * shape_.layers - 1) * kPlaneEntryBytes];
  StoreLe(ParseOrDie(EncodeQ(profile_, PagesOf(values, shape_), 16)).Plane(1, 2).offset, 4, entry);
  StoreLe(12, 4, entry + 4);
  StoreLe(LoadLe(entry, 4) + 12, 8, &block[96]);
  block.resize(LoadLe(entry, 4) + 12);
  std::copy(more.digest().begin(), more.digest().end(), &block[80]);
  ResealPiece(block, 2 * shape_.layers - 1);
  std::vector<uint16_t> out(shape_.Elements());
  const Pages pages = ContiguousPages(out.data(), shape_, shape_.tokens);
  EXPECT_EQ(Decode(ParseOrDie(block), {0, shape_.layers}, 0, Basis::kOriginal, pages, &more).ToString(),
            "DATA_LOSS: layer 2: a stream piece of 12 bytes; the table of its 4 has 16");
}

}  // namespace
}  // namespace kvist
