// Goal    Whatever a block's bytes are, the kernels read inside its pieces; a block that fails a check writes nothing.
// Method  Broken blocks through the emulated grid; device memory is allocated to the byte, so that the sanitizers see a
//         read past it. The word must name the check, and every page must hold what it held. Checksums are made right
//         again where a later check is meant.
#include "gtest/gtest.h"
#include "tests/kernels/cuda/plan_fixture.h"

namespace kvist::cuda {
namespace {

constexpr BlockShape kShape = {2, 3, 48, 80, Dtype::kF16};

void ExpectRefused(const std::vector<uint8_t>& bytes, Refusal refusal, Basis basis = Basis::kOriginal) {
  OneBlock one(bytes);
  one.request.basis = basis;
  EXPECT_EQ(one.Run(), uint32_t(refusal));
  EXPECT_EQ(one.pages->Different(), 0u);
}

std::vector<uint8_t> Block(Codec codec, const std::vector<uint8_t>& modes) {
  return OneBlock(kShape, codec, modes).block;
}

// A piece of other bytes in the place of one of `bytes`; the table and all offsets are right again.
std::vector<uint8_t> WithPiece(const std::vector<uint8_t>& bytes, size_t index, const std::vector<uint8_t>& piece) {
  const size_t pieces = size_t(bytes[13]) * kShape.layers;
  std::vector<uint8_t> result(bytes.begin(), bytes.begin() + kHeaderBytes + pieces * kPlaneEntryBytes);
  for (size_t i = 0; i < pieces; ++i) {
    const uint8_t* entry = &bytes[kHeaderBytes + 16 * i];
    const uint8_t* first = bytes.data() + LoadLe(entry, 4);
    const std::vector<uint8_t> own(first, first + LoadLe(entry + 4, 4));
    const std::vector<uint8_t>& put = i == index ? piece : own;
    result.resize(AlignPlane(result.size()));
    StoreLe(result.size(), 4, &result[kHeaderBytes + 16 * i]);
    StoreLe(put.size(), 4, &result[kHeaderBytes + 16 * i + 4]);
    result.insert(result.end(), put.begin(), put.end());
  }
  StoreLe(result.size(), 8, &result[96]);
  for (size_t i = 0; i < pieces; ++i) ResealPiece(result, i);
  return result;
}

std::vector<uint8_t> PieceOf(const std::vector<uint8_t>& bytes, int plane, uint32_t layer) {
  const absl::Span<const uint8_t> piece = ParseOrDie(bytes).PlaneBytes(plane, layer);
  return {piece.begin(), piece.end()};
}

TEST(Hostile, OneFlippedBitInAnyPieceIsFound) {
  for (Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder}) {
    const std::vector<uint8_t> bytes = Block(codec, {0});
    const BlockView view = ParseOrDie(bytes);
    for (int plane = 0; plane < view.planes(); ++plane) {
      for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
        const PlaneEntry entry = view.Plane(plane, layer);
        for (uint32_t at : {0u, entry.size_bytes / 2, entry.size_bytes - 1}) {
          std::vector<uint8_t> flipped = bytes;
          flipped[entry.offset + at] ^= 0x10;
          ExpectRefused(flipped, Refusal::kChecksum);
        }
      }
    }
  }
}

TEST(Hostile, APieceThatIsNotAskedForIsNotChecked) {
  std::vector<uint8_t> bytes = Block(Codec::kLadder, {0});
  bytes[ParseOrDie(bytes).Plane(3, 0).offset] ^= 1;
  OneBlock one(bytes);
  one.request.precision = 3;
  one.pages->Expect(ParseOrDie(one.block), one.request);
  EXPECT_EQ(one.Run(), 0u);
  EXPECT_EQ(one.pages->Different(), 0u);
}

TEST(Hostile, ModesThatDoNotExistAreRefused) {
  for (Codec codec : {Codec::kI8, Codec::kLadder}) {
    for (uint8_t mode : {3, 17, 255}) {
      std::vector<uint8_t> bytes = Block(codec, {0});
      bytes[ParseOrDie(bytes).Plane(0, 1).offset + 4] = mode;
      ResealPiece(bytes, 1);
      ExpectRefused(bytes, Refusal::kTileMode);
    }
  }
  std::vector<uint8_t> bytes = Block(Codec::kI8, {0});
  bytes[ParseOrDie(bytes).Plane(0, 0).offset] = 1;  // rotated i8 is the ladder's alone
  ResealPiece(bytes, 0);
  ExpectRefused(bytes, Refusal::kTileMode);
}

TEST(Hostile, ModesWhoseRecordsDoNotFillTheSidePieceAreRefused) {
  for (uint8_t mode : {1, 2}) {
    for (uint32_t tile : {0, 5}) {
      std::vector<uint8_t> bytes = Block(Codec::kLadder, {0});
      bytes[ParseOrDie(bytes).Plane(0, 0).offset + tile] = mode;
      ResealPiece(bytes, 0);
      ExpectRefused(bytes, Refusal::kSideSize);
    }
  }
}

TEST(Hostile, SidePiecesOfAnyLengthAreRefused) {
  const std::vector<uint8_t> bytes = Block(Codec::kLadder, {0, 1});
  const std::vector<uint8_t> side = PieceOf(bytes, 0, 1);
  for (size_t size : {size_t{4} * kShape.heads, size_t{100}, side.size() - 1}) {
    ExpectRefused(WithPiece(bytes, 1, {side.begin(), side.begin() + size}), Refusal::kSideSize);
  }
}

TEST(Hostile, ASidePieceWithoutRoomForItsModesIsRefusedByThePlan) {
  const std::vector<uint8_t> bytes = Block(Codec::kI8, {0});
  for (size_t size : {size_t{0}, size_t{4} * kShape.heads - 1}) {
    const OneBlock one(WithPiece(bytes, 1, std::vector<uint8_t>(size)));
    EXPECT_EQ(one.MakeStatus().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(Hostile, PlanesOfAnyLengthAreRefused) {
  for (Codec codec : {Codec::kI8, Codec::kLadder}) {
    const std::vector<uint8_t> bytes = Block(codec, {0});
    for (int plane = 1; plane < ParseOrDie(bytes).planes(); ++plane) {
      const std::vector<uint8_t> codes = PieceOf(bytes, plane, 1);
      for (size_t size : {size_t{0}, codes.size() / 2, codes.size() - 1}) {
        ExpectRefused(WithPiece(bytes, plane * kShape.layers + 1, {codes.begin(), codes.begin() + size}),
                      Refusal::kPlaneSize);
      }
    }
  }
}

TEST(Hostile, RawPiecesOfAnotherLengthAreRefused) {
  const std::vector<uint8_t> bytes = Block(Codec::kRaw16, {});
  const std::vector<uint8_t> values = PieceOf(bytes, 0, 1);
  for (size_t size : {size_t{0}, values.size() - 2}) {
    ExpectRefused(WithPiece(bytes, 1, {values.begin(), values.begin() + size}), Refusal::kSideSize);
  }
}

TEST(Hostile, ChannelScalesAbove128AreRefused) {
  for (uint32_t d : {0u, kShape.head_dim - 1}) {
    std::vector<uint8_t> bytes = Block(Codec::kLadder, {0});
    bytes[ParseOrDie(bytes).Plane(0, 0).offset + 4 * kShape.heads + (kShape.tokens - kSinkTokens) + d] = 129;
    ResealPiece(bytes, 0);
    ExpectRefused(bytes, Refusal::kChannelScale);
  }
}

TEST(Hostile, ATileThatIsNotRotatedIsRefusedInTheKeptBasis) {
  ExpectRefused(Block(Codec::kLadder, {0, 0, 0, 0, 0, 2}), Refusal::kMixedBasis, Basis::kKeptRotated);
}

// Random damage with right checksums: whatever the words say, the reference says the same, and the sanitizers nothing.
TEST(Hostile, RandomDamageIsJudgedAsTheReferenceJudgesIt) {
  std::mt19937_64 random(99);
  int accepted = 0, refused = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<uint8_t> bytes = Block(round % 2 == 0 ? Codec::kLadder : Codec::kI8, {0, 2, 0});
    const PlaneEntry side = ParseOrDie(bytes).Plane(0, 0);
    for (uint64_t count = 1 + random() % 3; count > 0; --count) {
      const uint32_t reach = round % 3 == 0 ? 2 * kShape.heads : side.size_bytes;
      bytes[side.offset + random() % reach] = uint8_t(random() % (round % 3 == 0 ? 4 : 256));
    }
    ResealPiece(bytes, 0);
    OneBlock one(bytes);
    std::vector<uint16_t> values(kShape.Elements());
    const absl::Status reference = reference::Decode(ParseOrDie(bytes), {0, kShape.layers}, 0, Basis::kOriginal,
                                                     ContiguousPages(values.data(), kShape, kShape.tokens));
    if (reference.ok()) one.pages->Expect(ParseOrDie(one.block), one.request);
    EXPECT_EQ(StatusOfWord(one.Run()).code(), reference.code()) << "round " << round;
    EXPECT_EQ(one.pages->Different(), 0u) << "round " << round;
    ++(reference.ok() ? accepted : refused);
  }
  EXPECT_GT(accepted, 20);
  EXPECT_GT(refused, 20);
}

TEST(Hostile, ABrokenBlockDoesNotHinderItsNeighbours) {
  OneBlock good(kShape, Codec::kLadder, {0, 1});
  std::vector<uint8_t> bytes = good.block;
  bytes[ParseOrDie(bytes).Plane(1, 1).offset + 7] ^= 4;
  const DeviceBytes broken(bytes);
  EnginePages untouched(good.layout, kShape.layers);
  DecodeRequest second = good.request;
  second.device_bytes = broken.data();
  second.layer_pages = untouched.addresses();
  EnginePages also_untouched(good.layout, kShape.layers);
  DecodeRequest third = second;
  third.layer_pages = also_untouched.addresses();
  good.pages->Expect(ParseOrDie(good.block), good.request);
  const auto plan = DecodePlan::Make(good.layout, {second, good.request, third});
  ASSERT_TRUE(plan.ok()) << MessageOf(plan.status());
  const uint32_t checksum = uint32_t(Refusal::kChecksum);
  EXPECT_EQ(RunDecode(*plan), (std::vector<uint32_t>{checksum, 0, checksum}));
  EXPECT_EQ(good.pages->Different(), 0u);
  EXPECT_EQ(untouched.Different() + also_untouched.Different(), 0u);
}

TEST(Hostile, EveryWordHasItsMeaning) {
  EXPECT_TRUE(StatusOfWord(0).ok());
  for (uint32_t word = 1; word <= 5; ++word) EXPECT_EQ(StatusOfWord(word).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(StatusOfWord(6).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StatusOfWord(7).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace kvist::cuda
