// Goal    Codec q keeps its promises whatever the profile and the values: what is read is near what was written, the same
//         bits from vectors and the oracle, any range of layers alike; a wrong profile or stream is refused with a word.
// Method  Synthetic profiles, LOCAL and DEEP; values that their matrices were made for, turned as an engine turns keys.
#include <algorithm>
#include <cmath>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/q/profile.h"
#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/q/synthetic_profile.h"
#include "tests/kernels/targets.h"

namespace kvist {
namespace {

using testing::HasSubstr;

constexpr uint64_t kSeed = 20261129;
constexpr SyntheticProfile kLocal = {.layers = 3};
constexpr SyntheticProfile kDeep = {.layers = 4, .layers_between_resets = 0, .layers_before = 2};
constexpr SyntheticProfile kResets = {.layers = 5, .heads = 2, .layers_between_resets = 2, .layers_before = 1};
constexpr SyntheticProfile kGroups = {
    .layers = 5, .heads = 4, .layers_between_resets = 2, .layers_before = 1, .groups = 2};

BlockShape ShapeOf(const Profile& profile, uint32_t tokens = 32, Dtype dtype = Dtype::kBf16) {
  const ProfileFacts& facts = profile.facts();
  return {facts.layers, facts.heads, tokens, facts.head_dim, dtype};
}

BlockIdentity IdentityOf(const Profile& profile, uint32_t first_position) {
  BlockIdentity identity = IdentityAt(first_position);
  identity.profile_digest = profile.digest();
  return identity;
}

absl::StatusOr<std::vector<uint8_t>> TryEncode(const Profile& profile, const BlockShape& shape,
                                               const std::vector<uint16_t>& values, uint32_t first_position,
                                               float floor_db = 0) {
  std::vector<uint8_t> bytes(MaxBlockBytes(shape, Codec::kQ));
  const EncodeOptions options = {.codec = Codec::kQ, .floor_db = floor_db, .profile = &profile};
  const auto size = Encode(IdentityOf(profile, first_position), shape,
                           ContiguousPages(values.data(), shape, shape.tokens), options, absl::MakeSpan(bytes));
  if (!size.ok()) return size.status();
  bytes.resize(*size);
  return bytes;
}

std::vector<uint8_t> EncodeQOrDie(const Profile& profile, const BlockShape& shape, const std::vector<uint16_t>& values,
                                  uint32_t first_position, float floor_db = 0) {
  auto bytes = TryEncode(profile, shape, values, first_position, floor_db);
  EXPECT_TRUE(bytes.ok()) << bytes.status().ToString();
  return bytes.value_or(std::vector<uint8_t>());
}

std::vector<uint16_t> Oracle(const Profile& profile, const BlockView& view, LayerRange layers) {
  std::vector<uint16_t> values(view.shape().Elements(), 0x5555);
  const absl::Status status = reference::Decode(
      view, layers, 0, Basis::kOriginal, ContiguousPages(values.data(), view.shape(), view.shape().tokens), &profile);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return values;
}

// Decodes with every target, and expects the oracle's bits.
std::vector<uint16_t> DecodeQOrDie(const Profile& profile, absl::Span<const uint8_t> block) {
  const BlockView view = ParseOrDie(block);
  const BlockShape& shape = view.shape();
  EXPECT_TRUE(view.Verify(0, shape.layers, 0).ok());
  const std::vector<uint16_t> oracle = Oracle(profile, view, {0, shape.layers});
  ForEachTarget([&] {
    std::vector<uint16_t> values(shape.Elements(), 0x5555);
    const absl::Status status = Decode(view, {0, shape.layers}, 0, Basis::kOriginal,
                                       ContiguousPages(values.data(), shape, shape.tokens), &profile);
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_EQ(values, oracle);
  });
  return oracle;
}

// Channels fall as the classes of a synthetic profile do; K is turned from `first_position` on.
std::vector<uint16_t> ModelValues(const Profile& profile, const BlockShape& shape, uint32_t first_position) {
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values;
  const ProfileFacts of_group = profile.facts().OfGroup();
  for (size_t kv = 0; kv < 2; ++kv) {
    for (size_t layer = 0; layer < shape.layers; ++layer) {
      for (size_t head = 0; head < shape.heads; ++head) {
        for (size_t t = 0; t < shape.tokens; ++t) {
          std::vector<float> row(shape.head_dim);
          for (size_t d = 0; d < shape.head_dim; ++d) {
            const HeadGroup& group = profile.groups()[head / of_group.heads];
            const size_t channel = head % of_group.heads * shape.head_dim + d;
            row[d] = group.layer(layer).sides[kv].mean[channel] +
                     normal(random) * std::exp2(-2 * float(channel) / float(of_group.Width()));
          }
          std::vector<CosSin> angles;
          for (uint64_t turns : profile.facts().turns) {
            angles.push_back(CosSinAt(first_position + uint32_t(t), turns, profile.facts().rope_factor));
          }
          if (profile.facts().rope == RopeStyle::kNone) angles.clear();
          if (kv == 0) Turn(profile.facts().rope, angles, absl::MakeSpan(row));
          for (float value : row) values.push_back(Narrow(value, shape.dtype));
        }
      }
    }
  }
  return values;
}

TEST(Q, IsNearItsValuesInAFractionOfTheirBytesForEveryShapeAndKindOfProfile) {
  for (SyntheticProfile wanted : {kLocal, kDeep, kResets, kGroups}) {
    for (const uint32_t head_dim : {64, 80, 96, 128}) {
      for (const uint32_t tokens : {16, 48}) {
        wanted.head_dim = head_dim;
        wanted.rope = head_dim == 80 ? RopeStyle::kInterleaved : head_dim == 96 ? RopeStyle::kNone : RopeStyle::kHalves;
        const Profile profile = MakeProfile(wanted);
        const BlockShape shape = ShapeOf(profile, tokens, tokens == 16 ? Dtype::kF16 : Dtype::kBf16);
        for (const uint32_t first_position : {0, 4096}) {
          const std::vector<uint16_t> values = ModelValues(profile, shape, first_position);
          const std::vector<uint8_t> block = EncodeQOrDie(profile, shape, values, first_position);
          EXPECT_EQ(ParseOrDie(block).raised_tiles(), 0u);
          const std::vector<uint16_t> decoded = DecodeQOrDie(profile, block);
          EXPECT_GT(SqnrDb(shape, values, decoded), 28) << head_dim << ", " << tokens;
          EXPECT_LE(ParseOrDie(block).min_sqnr_db(), SqnrDb(shape, values, decoded));
          EXPECT_LT(block.size(), shape.PlainBytes() / 2) << head_dim << ", " << tokens;
        }
      }
    }
  }
}

TEST(Q, TakesTwoHundredAndFiftySixTokens) {
  const Profile profile = MakeProfile({.layers = 1});
  const BlockShape shape = ShapeOf(profile, 256);
  const std::vector<uint16_t> values = ModelValues(profile, shape, 512);
  const std::vector<uint16_t> decoded = DecodeQOrDie(profile, EncodeQOrDie(profile, shape, values, 512));
  EXPECT_GT(SqnrDb(shape, values, decoded), 28);
}

TEST(Q, PredictionFromOtherLayersSavesBytes) {
  SyntheticProfile wanted = kDeep;
  ProfileFile file = MakeProfileFile(wanted);
  for (ProfileLayer& layer : file.groups[0].layers) {  // K as V, V as the V of the layer before
    for (ProfileSide& side : layer.sides) std::fill(side.predictor.codes.begin(), side.predictor.codes.end(), 0);
  }
  const std::vector<uint8_t> without = WriteOrDie(file);
  for (uint32_t layer = 0; layer < wanted.layers; ++layer) {
    for (size_t kv : kSideOrder) {
      ProfileMatrix& matrix = file.groups[0].layers[layer].sides[kv].predictor;
      const size_t rows = matrix.row_scales.size(), first = kv == 0 ? rows - 64 : 64;
      if (rows < 64) continue;
      for (size_t i = 0; i < 64; ++i) matrix.codes[(first + i) * 64 + i] = 64;
      std::fill(matrix.row_scales.begin(), matrix.row_scales.end(), uint8_t(128 - 48));  // 2^-6
    }
  }
  const Profile alone = ParseProfileOrDie(without), together = ParseProfileOrDie(WriteOrDie(file));
  const BlockShape shape = ShapeOf(alone);
  // All layers and sides are alike but for their means: what they have beyond these is known from the first.
  std::vector<uint16_t> values(shape.Elements());
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  const size_t tile = shape.TileElements();
  for (size_t i = 0; i < tile; ++i) {
    const float value = normal(random);
    for (size_t kv = 0; kv < 2; ++kv) {
      for (size_t layer = 0; layer < shape.layers; ++layer) {
        values[(kv * shape.layers + layer) * tile + i] =
            Narrow(value + alone.groups()[0].layer(layer).sides[kv].mean[i % 64], shape.dtype);
      }
    }
  }
  for (size_t layer = 0; layer < shape.layers; ++layer) {  // keys as an engine has them
    for (size_t t = 0; t < shape.tokens; ++t) {
      uint16_t* at = &values[layer * tile + t * 64];
      std::vector<float> row(64);
      for (size_t d = 0; d < 64; ++d) row[d] = Widen(at[d], shape.dtype);
      std::vector<CosSin> angles;
      for (uint64_t turns : alone.facts().turns) angles.push_back(CosSinAt(64 + uint32_t(t), turns, 1));
      Turn(RopeStyle::kHalves, angles, absl::MakeSpan(row));
      for (size_t d = 0; d < 64; ++d) at[d] = Narrow(row[d], shape.dtype);
    }
  }
  const std::vector<uint8_t> plain = EncodeQOrDie(alone, shape, values, 64);
  const std::vector<uint8_t> deep = EncodeQOrDie(together, shape, values, 64);
  EXPECT_LT(deep.size(), plain.size() * 6 / 10);
  EXPECT_GT(SqnrDb(shape, values, DecodeQOrDie(together, deep)), 25);
}

TEST(Q, ARangeOfLayersIsDecodedFromTheBytesThatRangesForNames) {
  const Profile profile = MakeProfile(kResets);  // resets at layers 0, 2 and 4
  const BlockShape shape = ShapeOf(profile);
  const std::vector<uint8_t> block = EncodeQOrDie(profile, shape, ModelValues(profile, shape, 0), 0);
  const std::vector<uint16_t> all = DecodeQOrDie(profile, block);
  const size_t layer_elements = shape.heads * shape.TileElements();
  for (uint32_t first = 0; first < shape.layers; ++first) {
    for (uint32_t last = first + 1; last <= shape.layers; ++last) {
      const auto ranges = ParseOrDie(block).RangesFor(first, last, 1);
      ASSERT_TRUE(ranges.ok());
      std::vector<uint8_t> some(block.size(), 0xee);
      for (const ByteRange& range : *ranges) {
        std::copy_n(block.begin() + range.offset, range.size_bytes, some.begin() + range.offset);
      }
      const BlockView view = ParseOrDie(some);
      EXPECT_TRUE(view.Verify(first, last, 0).ok());
      const std::vector<uint16_t> got = Oracle(profile, view, {first, last});
      for (size_t i = 0; i < got.size(); ++i) {
        const size_t layer = i / layer_elements % shape.layers;
        const uint16_t expected = layer >= first && layer < last ? all[i] : 0x5555;
        ASSERT_EQ(got[i], expected) << "layers " << first << " to " << last << ", element " << i;
      }
    }
  }
  std::vector<uint8_t> broken = block;
  broken[ParseOrDie(block).Plane(1, 2).offset] ^= 1;
  EXPECT_FALSE(ParseOrDie(broken).Verify(3, 4, 0).ok()) << "layer 3 is predicted from layer 2";
  EXPECT_TRUE(ParseOrDie(broken).Verify(4, 5, 0).ok());
}

TEST(Q, TheFirstTokenOfAPromptIsKeptApart) {
  const Profile profile = MakeProfile(kDeep);
  const BlockShape shape = ShapeOf(profile);
  std::vector<uint16_t> values = ModelValues(profile, shape, 0);
  for (size_t tile = 0; tile < values.size() / shape.TileElements(); ++tile) {
    for (size_t d = 0; d < shape.head_dim; ++d) {
      uint16_t& value = values[tile * shape.TileElements() + d];
      value = Narrow(1000 * Widen(value, shape.dtype), shape.dtype);
    }
  }
  const std::vector<uint8_t> block = EncodeQOrDie(profile, shape, values, 0);
  EXPECT_EQ(ParseOrDie(block).raised_tiles(), 0u);
  const std::vector<uint16_t> decoded = DecodeQOrDie(profile, block);
  for (size_t tile = 0; tile < values.size() / shape.TileElements(); ++tile) {
    const size_t at = tile * shape.TileElements();
    EXPECT_GT(SqnrDb(shape, values, decoded, at, shape.head_dim), 38);
    EXPECT_GT(SqnrDb(shape, values, decoded, at + shape.head_dim, shape.TileElements() - shape.head_dim), 25);
  }
}

TEST(Q, NanAndInfinityComeBackAndTouchNoOtherTile) {
  SyntheticProfile wanted = kResets;
  const Profile profile = MakeProfile(wanted);
  const BlockShape shape = ShapeOf(profile);
  std::vector<uint16_t> values = ModelValues(profile, shape, 64);
  const size_t tile = shape.TileElements(), nan_tile = 2 * 1 + 1, infinite_tile = 2 * 5 + 2 * 3;  // K 1.1, V 3.0
  values[nan_tile * tile + 5] = 0x7fc1;
  values[infinite_tile * tile + 77] = 0xff80;
  const std::vector<uint8_t> block = EncodeQOrDie(profile, shape, values, 64);
  EXPECT_EQ(ParseOrDie(block).raised_tiles(), 2u);
  const std::vector<uint16_t> decoded = DecodeQOrDie(profile, block);
  for (size_t i = 0; i < values.size() / tile; ++i) {
    if (i == nan_tile || i == infinite_tile) {
      EXPECT_TRUE(std::equal(&values[i * tile], &values[i * tile] + tile, &decoded[i * tile]));
    } else {
      EXPECT_GT(SqnrDb(shape, values, decoded, i * tile, tile), 25) << i;
    }
  }
}

TEST(Q, TilesBelowTheFloorAreRaisedAndTheFloorIsKept) {
  const Profile profile = MakeProfile(kDeep);
  const BlockShape shape = ShapeOf(profile);
  const std::vector<uint16_t> values = ModelValues(profile, shape, 0);
  for (const float floor_db : {36.0f, 44.0f, 70.0f, 150.0f}) {
    const std::vector<uint8_t> block = EncodeQOrDie(profile, shape, values, 0, floor_db);
    EXPECT_GT(ParseOrDie(block).raised_tiles(), 0u) << floor_db;
    const std::vector<uint16_t> decoded = DecodeQOrDie(profile, block);
    for (size_t i = 0; i < 2 * shape.layers; ++i) {
      EXPECT_GE(SqnrDb(shape, values, decoded, i * shape.TileElements(), shape.TileElements()), floor_db) << i;
    }
  }
}

TEST(Q, ValuesFarFromTheProfileFitTheLargestBlock) {
  const Profile profile = MakeProfile(kResets);
  for (const float scale : {0.0f, 1e-30f, 1e4f, 1e30f}) {
    const BlockShape shape = ShapeOf(profile);
    std::mt19937_64 random(kSeed);
    std::normal_distribution<float> normal;
    const std::vector<uint16_t> values =
        Values(shape, [&](size_t, size_t, size_t, size_t, size_t) { return scale * normal(random); });
    const std::vector<uint8_t> block = EncodeQOrDie(profile, shape, values, 16);
    EXPECT_LE(block.size(), MaxBlockBytes(shape, Codec::kQ));
    const std::vector<uint16_t> decoded = DecodeQOrDie(profile, block);
    for (size_t i = 0; i < 2 * size_t{shape.layers} * shape.heads; ++i) {
      EXPECT_GE(SqnrDb(shape, values, decoded, i * shape.TileElements(), shape.TileElements()), 0) << scale;
    }
  }
}

class Refused : public testing::Test {
 protected:
  std::string Decoded(const std::vector<uint8_t>& block, const Profile* profile, int precision = 0,
                      Basis basis = Basis::kOriginal) {
    const std::vector<uint8_t> exact(block.begin(), block.end());  // a sanitizer sees what lies behind it
    std::vector<uint16_t> out(shape_.Elements());
    const Pages pages = ContiguousPages(out.data(), shape_, shape_.tokens);
    const BlockView view = ParseOrDie(exact);
    const std::string got = reference::Decode(view, {0, shape_.layers}, precision, basis, pages, profile).ToString();
    EXPECT_EQ(Decode(view, {0, shape_.layers}, precision, basis, pages, profile).ToString(), got);
    return got;
  }

  std::string Encoded(const EncodeOptions& options, const BlockShape& shape, const BlockIdentity& identity) {
    std::vector<uint8_t> out(MaxBlockBytes(shape, options.codec));
    const std::vector<uint16_t> values(shape.Elements());
    return Encode(identity, shape, ContiguousPages(values.data(), shape, shape.tokens), options, absl::MakeSpan(out))
        .status()
        .ToString();
  }

  Profile profile_ = MakeProfile(kDeep);
  BlockShape shape_ = ShapeOf(profile_);
  std::vector<uint8_t> block_ = EncodeQOrDie(profile_, shape_, ModelValues(profile_, shape_, 0), 0);
};

TEST_F(Refused, ABlockWithoutItsProfileOrWithAnother) {
  EXPECT_THAT(Decoded(block_, nullptr), HasSubstr("FAILED_PRECONDITION: a q block needs its profile, "));
  ProfileFile file = MakeProfileFile(kDeep);
  file.facts.notes += " ";
  const Profile edited = ParseProfileOrDie(WriteOrDie(file));
  EXPECT_THAT(Decoded(block_, &edited), HasSubstr("FAILED_PRECONDITION: a q block of profile "));
  std::vector<uint8_t> nameless = block_;
  std::fill_n(&nameless[80], 16, 0);
  Reseal(nameless);
  EXPECT_EQ(BlockView::Parse(nameless).status().ToString(),
            "INVALID_ARGUMENT: header: a q block without a profile digest");
}

TEST_F(Refused, AProfileThatACodecDoesNotNeed) {
  const std::vector<uint8_t> ladder = EncodeOrDie(shape_, ModelValues(profile_, shape_, 0), Codec::kLadder, 0);
  EXPECT_EQ(Decoded(ladder, &profile_), "INVALID_ARGUMENT: ladder needs no profile");
  EXPECT_EQ(Encoded({.codec = Codec::kI8, .profile = &profile_}, shape_, IdentityAt(0)),
            "INVALID_ARGUMENT: i8 needs no profile");
}

TEST_F(Refused, OptionsThatDoNotFit) {
  const BlockIdentity identity = IdentityOf(profile_, 0);
  EXPECT_EQ(Encoded({.codec = Codec::kQ}, shape_, identity), "INVALID_ARGUMENT: q needs a profile; none was given");
  EXPECT_EQ(Encoded({.codec = Codec::kQ, .key_bits = 4, .profile = &profile_}, shape_, identity),
            "INVALID_ARGUMENT: q has no bits to choose: its profile decides");
  EXPECT_EQ(Encoded({.codec = Codec::kQ, .profile = &profile_}, shape_, IdentityAt(0)),
            "INVALID_ARGUMENT: the identity's profile digest is not the profile's");
  BlockShape other = shape_;
  other.heads = 2;
  EXPECT_EQ(Encoded({.codec = Codec::kQ, .profile = &profile_}, other, identity),
            "INVALID_ARGUMENT: profile " + DigestText(profile_.digest()) +
                " is of another model: of 4 layers, 1 heads and head_dim 64, not 4, 2 and 64");
  const auto for_reading = Profile::Parse(WriteOrDie(MakeProfileFile(kDeep)));
  EXPECT_EQ(Encoded({.codec = Codec::kQ, .profile = &*for_reading}, shape_, identity),
            "FAILED_PRECONDITION: the profile was not prepared for encoding (PrepareEncoding)");
}

TEST_F(Refused, APrecisionOrBasisThatItDoesNotHave) {
  EXPECT_EQ(Decoded(block_, &profile_, 4), "INVALID_ARGUMENT: precision 4; q has 1");
  EXPECT_EQ(Decoded(block_, &profile_, 1, Basis::kKeptRotated),
            "FAILED_PRECONDITION: q does not rotate: no kept basis");
}

TEST_F(Refused, AHeaderWithOtherResetsThanItsProfile) {
  std::vector<uint8_t> changed = block_;
  ASSERT_EQ(changed[14], 255);
  changed[14] = 3;
  Reseal(changed);
  EXPECT_EQ(Decoded(changed, &profile_), "DATA_LOSS: header: 3 layers between resets; its profile has 255");
  changed[14] = 0;
  Reseal(changed);
  EXPECT_FALSE(BlockView::Parse(changed).ok());
}

TEST_F(Refused, StreamsWithFlippedBitsAreAnErrorOrOtherValues) {
  const std::vector<uint16_t> good = DecodeQOrDie(profile_, block_);
  const PlaneEntry stream = ParseOrDie(block_).Plane(1, 1);
  size_t refused = 0, tried = 0;
  for (size_t at = 0; at < stream.size_bytes; at += 7) {
    std::vector<uint8_t> changed = block_;
    changed[stream.offset + at] ^= uint8_t(1 << at % 8);
    ResealPiece(changed, shape_.layers + 1);
    const std::string got = Decoded(changed, &profile_);
    EXPECT_TRUE(got == "OK" || got.find("DATA_LOSS: layer 1: its stream") == 0) << got;
    refused += got != "OK";
    ++tried;
  }
  EXPECT_GT(refused, tried / 2);
}

TEST_F(Refused, SidesWhoseRecordsDoNotFillThem) {
  std::vector<uint8_t> changed = block_;
  uint8_t* modes = &changed[ParseOrDie(block_).Plane(0, 2).offset];
  modes[0] = 1;
  ResealPiece(changed, 2);
  EXPECT_THAT(Decoded(changed, &profile_), HasSubstr("DATA_LOSS: layer 2: side piece of"));
  modes[0] = 3;
  ResealPiece(changed, 2);
  EXPECT_THAT(Decoded(changed, &profile_), HasSubstr("DATA_LOSS: layer 2: tile 0 has mode 3"));
}

}  // namespace
}  // namespace kvist
