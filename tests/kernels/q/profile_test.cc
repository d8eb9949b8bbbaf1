// Goal    A profile that was written is read again, and any other file is refused with a word that names what is wrong.
// Method  A small file; each field out of its range, each cut, each changed byte; then the arithmetic of its matrices.
#include "kernels/q/profile.h"

#include <bit>
#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/header.h"
#include "kernels/tables.h"
#include "tests/kernels/q/synthetic_profile.h"

namespace kvist {
namespace {

using testing::HasSubstr;

constexpr size_t kAtVersion = 8, kAtRope = 10, kAtBefore = 11, kAtKeyFromValue = 12, kAtHeads = 14, kAtHeadDim = 16,
                 kAtGroups = 18, kAtLayers = 20, kAtStep = 24, kAtFactor = 28, kAtNotesBytes = 32 + 8 * 32;

std::string Refusal(const std::vector<uint8_t>& bytes) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.end());  // a sanitizer sees what lies behind it
  return Profile::Parse(exact).status().ToString();
}

TEST(ProfileFile, IsReadAsItWasWritten) {
  for (const uint32_t before : {0, 1, 2}) {
    const ProfileFile file =
        MakeProfileFile({.layers = 4, .heads = 4, .layers_between_resets = 3, .layers_before = before, .groups = 2});
    const std::vector<uint8_t> bytes = WriteOrDie(file);
    const absl::StatusOr<ProfileFile> read = ProfileFile::Read(bytes);
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(read->facts.turns, file.facts.turns);
    EXPECT_EQ(read->facts.notes, file.facts.notes);
    EXPECT_EQ(read->facts.step, file.facts.step);
    EXPECT_EQ(read->facts.layers_between_resets, 3u);
    ASSERT_EQ(read->groups.size(), 2u);
    for (size_t group = 0; group < 2; ++group) {
      for (size_t layer = 0; layer < 4; ++layer) {
        for (size_t kv : kSideOrder) {
          const ProfileSide& got = read->groups[group].layers[layer].sides[kv];
          const ProfileSide& side = file.groups[group].layers[layer].sides[kv];
          EXPECT_EQ(got.predictor.codes, side.predictor.codes);
          EXPECT_EQ(got.synthesis.codes, side.synthesis.codes);
          EXPECT_EQ(got.mean, side.mean);
          EXPECT_EQ(got.around, side.around);
          EXPECT_EQ(got.sensitivity, side.sensitivity);
          EXPECT_EQ(got.sensitivity.size(), 2u);
        }
      }
    }
    EXPECT_EQ(WriteOrDie(*read), bytes);
  }
}

TEST(ProfileFile, PredictsFromTheLayersSinceTheLastReset) {
  ProfileFacts facts = MakeProfileFile({.layers = 8}).facts;
  facts.layers_before = 2;
  facts.layers_between_resets = 3;
  const std::vector<size_t> key_sources = {1, 3, 5, 1, 3, 5, 1, 3}, value_sources = {0, 2, 4, 0, 2, 4, 0, 2};
  for (uint32_t layer = 0; layer < 8; ++layer) {
    EXPECT_EQ(facts.Sources(layer, 0), 64 * key_sources[layer]);
    EXPECT_EQ(facts.Sources(layer, 1), 64 * value_sources[layer]);
    EXPECT_EQ(facts.LastReset(layer), layer / 3 * 3);
  }
  facts.layers_between_resets = 0;
  EXPECT_EQ(facts.LastReset(7), 0u);
  EXPECT_EQ(facts.Sources(7, 1), 4 * 64u);
}

TEST(ProfileFile, EachFieldOutOfItsRangeIsNamed) {
  const std::vector<uint8_t> good = WriteOrDie(MakeProfileFile({}));
  const auto with = [&](size_t at, uint64_t value, int bytes) {
    std::vector<uint8_t> changed = good;
    StoreLe(value, bytes, &changed[at]);
    return Refusal(changed);
  };
  EXPECT_EQ(with(0, 'X', 1), "INVALID_ARGUMENT: not a profile: the first 8 bytes are not \"KVISTPRF\"");
  EXPECT_EQ(with(kAtVersion, 3, 2), "UNIMPLEMENTED: profile version 3; this reader knows version 2");
  EXPECT_EQ(
      with(kAtVersion, 1, 2),
      "INVALID_ARGUMENT: profile version 1; this reader knows version 2: make the profile anew with `kvist calibrate`");
  EXPECT_THAT(with(kAtRope, 3, 1), HasSubstr("rope style 3; allowed are 0 (none), 1 (halves) and 2 (interleaved)"));
  EXPECT_THAT(with(kAtBefore, 3, 1), HasSubstr("layers that predict 3; allowed are 0, 1 and 2"));
  EXPECT_THAT(with(kAtKeyFromValue, 2, 1), HasSubstr("K from V 2; allowed are 0 and 1"));
  EXPECT_THAT(with(kAtKeyFromValue + 1, 255, 1), HasSubstr("layers between resets 255; allowed are 0 to 254"));
  EXPECT_THAT(with(kAtHeads, 257, 2), HasSubstr("heads 257; allowed are 1 to 256"));
  EXPECT_THAT(with(kAtHeads, 0, 2), HasSubstr("heads 0; allowed are 1 to 256"));
  EXPECT_THAT(with(kAtHeads, 9, 2), HasSubstr("heads of a group 9; allowed are 1 to 8 of head_dim 64"));
  EXPECT_THAT(with(kAtGroups, 0, 2), HasSubstr("head groups 0; allowed are those that divide its 1 heads"));
  EXPECT_THAT(with(kAtGroups, 2, 2), HasSubstr("head groups 2; allowed are those that divide its 1 heads"));
  EXPECT_THAT(with(kAtHeadDim, 65, 2), HasSubstr("head_dim 65; allowed are 64, 80, 96, 128 and 256"));
  EXPECT_THAT(with(kAtLayers, 0, 4), HasSubstr("layers 0; allowed are 1 to 1024"));
  EXPECT_THAT(with(kAtLayers, 1u << 31, 4), HasSubstr("allowed are 1 to 1024"));
  EXPECT_THAT(with(kAtLayers, 3, 4), HasSubstr("does not inflate to the"));
  EXPECT_THAT(with(kAtStep, std::bit_cast<uint32_t>(-1.0f), 4), HasSubstr("theta -1; allowed are 2^-60 to 2^60"));
  EXPECT_THAT(with(kAtStep, 0x7fc00000, 4), HasSubstr("theta nan"));
  EXPECT_THAT(with(kAtFactor, 0, 4), HasSubstr("rope factor 0; allowed are 1/16 to 16"));
  EXPECT_THAT(with(kAtNotesBytes, 1u << 31, 4), HasSubstr("bytes of JSON"));
}

TEST(ProfileFile, ABodyThatIsTooSmallForItsNumbersIsRefusedBeforeAnyMemoryIsTaken) {
  std::vector<uint8_t> bytes = WriteOrDie(MakeProfileFile({}));
  const size_t at_body = kAtNotesBytes + 4 + LoadLe(&bytes[kAtNotesBytes], 4);
  StoreLe(1024, 4, &bytes[kAtLayers]);
  StoreLe(10, 4, &bytes[at_body]);
  bytes.resize(at_body + 4 + 10);
  EXPECT_THAT(Refusal(bytes), HasSubstr("a body of 10 bytes cannot hold 14771968"));
}

TEST(ProfileFile, EachWrongNumberOfTheBodyIsNamed) {
  const auto with = [](const std::function<void(ProfileFile&)>& change) {
    ProfileFile file = MakeProfileFile({});
    change(file);
    return file.Write().status().ToString();
  };
  EXPECT_THAT(with([](ProfileFile& file) { ++file.groups[0].class_frequencies[3 * 17]; }),
              HasSubstr("frequencies of class 3 sum to 4097, not 4096"));
  EXPECT_THAT(with([](ProfileFile& file) { file.groups[0].class_frequencies[3 * 17 + 16] = 0; }),
              HasSubstr("frequencies of class 3 have a 0"));
  EXPECT_THAT(with([](ProfileFile& file) { --file.groups[0].step_frequencies[0][5]; }),
              HasSubstr("step frequencies of K sum to 4095"));
  EXPECT_THAT(with([](ProfileFile& file) { file.groups[0].shift_frequencies[1][5] = 0; }),
              HasSubstr("shift frequencies of V have a 0"));
  EXPECT_THAT(with([](ProfileFile& file) { file.groups[0].layers[1].sides[0].coded_rows = 65; }),
              HasSubstr("layer 1: coded rows 65; allowed are 0 to 64"));
  EXPECT_THAT(with([](ProfileFile& file) { file.groups[0].layers[1].sides[0].mean[5] = 0x7f80; }),
              HasSubstr("layer 1 has NaN or infinity"));
  EXPECT_THAT(with([](ProfileFile& file) { file.groups[0].layers[0].sides[1].own[5] = 0xffff; }),
              HasSubstr("layer 0 has NaN or infinity"));
  EXPECT_THAT(with([](ProfileFile& file) { file.groups[0].layers[0].sides[1].sensitivity[0] = 0x7fc0; }),
              HasSubstr("layer 0 has NaN or infinity"));
  EXPECT_THAT(with([](ProfileFile& file) { file.groups[0].layers[1].sides[1].sensitivity[0] = 0xbf80; }),
              HasSubstr("layer 1: sensitivity -1; allowed are numbers from 0"));
  EXPECT_THAT(with([](ProfileFile& file) { file.facts.heads = 9; }), HasSubstr("heads of a group 9"));
}

TEST(ProfileFile, AnEditedNumberOfHeadGroupsAsksForAnotherBody) {
  std::vector<uint8_t> changed = WriteOrDie(MakeProfileFile({.heads = 4, .groups = 2}));
  for (const uint16_t groups : {1, 4}) {
    StoreLe(groups, 2, &changed[kAtGroups]);
    EXPECT_THAT(Refusal(changed), HasSubstr("its body does not inflate to the")) << groups;
  }
  StoreLe(3, 2, &changed[kAtGroups]);
  EXPECT_THAT(Refusal(changed), HasSubstr("head groups 3; allowed are those that divide its 4 heads"));
}

TEST(ProfileFile, AWrongNumberOfALaterGroupIsNamedByItsHeads) {
  ProfileFile file = MakeProfileFile({.heads = 4, .groups = 2});
  file.groups[1].layers[1].sides[0].coded_rows = 129;
  EXPECT_THAT(file.Write().status().ToString(),
              HasSubstr("profile: heads 2 to 3: layer 1: coded rows 129; allowed are 0 to 128"));
  ProfileFile singular = MakeProfileFile({.heads = 2, .groups = 2});
  std::vector<int8_t>& codes = singular.groups[1].layers[0].sides[1].synthesis.codes;
  std::fill(codes.begin(), codes.end(), int8_t(1));
  EXPECT_EQ(Profile::Parse(WriteOrDie(singular))->PrepareEncoding().ToString(),
            "INVALID_ARGUMENT: profile: head 1: layer 0: the matrix of V has no inverse");
}

TEST(ProfileFile, TakesManyHeadsInGroupsThatAreNotTooWide) {
  for (const auto& [heads, head_dim, groups] : {std::array{8u, 128u, 2u}, {4u, 256u, 2u}, {16u, 64u, 2u}}) {
    ProfileFile file = MakeProfileFile({.layers = 1, .heads = heads, .head_dim = head_dim, .groups = groups});
    EXPECT_TRUE(ProfileFile::Read(WriteOrDie(file)).ok()) << heads;
    file.facts.groups = 1;
    EXPECT_THAT(file.Write().status().ToString(),
                HasSubstr("heads of a group " + std::to_string(heads) + "; allowed are 1 to "));
  }
  const ProfileFile most = MakeProfileFile({.layers = 1, .heads = 256, .groups = 256});
  EXPECT_EQ(ProfileFile::Read(WriteOrDie(most))->groups.size(), 256u);
}

TEST(ProfileFile, EveryCutAndEveryLongerFileIsRefused) {
  const std::vector<uint8_t> good = WriteOrDie(MakeProfileFile({.layers = 1}));
  for (size_t size = 0; size < good.size(); size += size < 400 ? 1 : 97) {
    EXPECT_THAT(Refusal({good.begin(), good.begin() + size}), HasSubstr(size < 8 ? "not a profile" : "cut, ")) << size;
  }
  std::vector<uint8_t> longer = good;
  longer.push_back(0);
  EXPECT_THAT(Refusal(longer), HasSubstr("it says that it has " + std::to_string(good.size())));
}

TEST(ProfileFile, AChangedByteIsRefusedOrMakesAnotherDigest) {
  const std::vector<uint8_t> good = WriteOrDie(MakeProfileFile({.layers = 1}));
  const auto digest = Profile::Parse(good)->digest();
  size_t refused = 0;
  const size_t body = kAtNotesBytes + 4 + 17 + 4;
  for (size_t at = 0; at < good.size(); at += at < 400 ? 1 : 211) {
    std::vector<uint8_t> changed = good;
    changed[at] ^= 0x10;
    const auto parsed = Profile::Parse(changed);
    refused += !parsed.ok();
    if (parsed.ok()) {
      EXPECT_LT(at, body);
      EXPECT_NE(parsed->digest(), digest) << at;
    }
  }
  EXPECT_GT(refused, 100u);
}

TEST(Profile, ItsInverseUndoesItsMatrix) {
  const Profile profile = MakeProfile({.heads = 2, .head_dim = 80});
  constexpr size_t kWidth = 160;
  const HeadGroup::Side& side = profile.groups()[0].layer(1).sides[0];
  for (size_t i = 0; i < kWidth; ++i) {
    for (size_t j = 0; j < kWidth; j += 7) {
      double sum = 0;
      for (size_t c = 0; c < kWidth; ++c) sum += double(side.synthesis[i * kWidth + c]) * side.analysis[c * kWidth + j];
      EXPECT_NEAR(sum, i == j ? 1 : 0, 1e-5) << i << ", " << j;
    }
  }
}

TEST(Profile, ValuesAreCodeTimesRowScaleTimesColumnScaleEachRounded) {
  ProfileFile file = MakeProfileFile({});
  ProfileMatrix& matrix = file.groups[0].layers[0].sides[1].synthesis;
  matrix.row_scales[3] = 77;
  matrix.column_scales[5] = 201;
  matrix.codes[3 * 64 + 5] = -119;
  const Profile profile = ParseProfileOrDie(WriteOrDie(file));
  const volatile float by_row = -119.0f * LogScale(77);
  EXPECT_EQ(profile.groups()[0].layer(0).sides[1].synthesis[3 * 64 + 5], by_row * LogScale(201));
}

TEST(Profile, AMatrixWithoutAnInverseCanDecodeButNotEncode) {
  ProfileFile file = MakeProfileFile({});
  ProfileMatrix& matrix = file.groups[0].layers[1].sides[0].synthesis;
  std::copy_n(matrix.codes.begin(), 64, matrix.codes.begin() + 64);  // two equal rows
  absl::StatusOr<Profile> profile = Profile::Parse(WriteOrDie(file));
  ASSERT_TRUE(profile.ok());
  EXPECT_EQ(profile->PrepareEncoding().ToString(),
            "INVALID_ARGUMENT: profile: layer 1: the matrix of K has no inverse");
  EXPECT_FALSE(profile->CanEncode());
}

TEST(Profile, AMatrixWhoseInverseIsTooLargeForBinary32CannotEncode) {
  ProfileFile file = MakeProfileFile({});
  ProfileMatrix& matrix = file.groups[0].layers[0].sides[1].synthesis;
  for (size_t row = 0; row < 64; ++row) {
    for (size_t column = 0; column < 64; ++column) {  // its inverse grows by 128 from column to column
      matrix.codes[row * 64 + column] = row == column ? 1 : row < column ? -127 : 0;
    }
  }
  absl::StatusOr<Profile> profile = Profile::Parse(WriteOrDie(file));
  ASSERT_TRUE(profile.ok());
  EXPECT_EQ(profile->PrepareEncoding().ToString(),
            "INVALID_ARGUMENT: profile: layer 0: the matrix of V has no inverse");
  EXPECT_FALSE(profile->CanEncode());
}

}  // namespace
}  // namespace kvist
