// Goal    Decode gives the same bits on every vector target as the scalar oracle, on every input.
// Method  One body, run for each target that this CPU supports: blocks whose codes, scales and means are random bytes
//         (every value that a hostile block could hold, not only what the encoder writes), over all codecs, head sizes,
//         dtypes, token counts, precisions, bases, tile modes, strides and alignments. Encoding must not depend on the
//         target either.
#include <tuple>

#include "gtest/gtest.h"
#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/random_block.h"
#include "tests/kernels/targets.h"

namespace kvist {
namespace {

constexpr uint64_t kSeed = 42;

// Where a test decodes to: odd strides, and a base `offset` elements after a multiple of 64 bytes.
struct Destination {
  Destination(const BlockShape& shape, size_t padding, size_t offset)
      : token(shape.head_dim + padding), head(token * shape.tokens + padding), layer(head * shape.heads + padding) {
    memory.assign(2 * shape.layers * layer + offset + 64, 0x5a5a);
    uint16_t* aligned = memory.data();
    while (reinterpret_cast<uintptr_t>(aligned) % 64 != 0) ++aligned;
    pages = {aligned + offset, shape.layers * layer, layer, head, token};
    skipped = size_t(aligned - memory.data());
  }
  bool SameAs(const Destination& other) const {
    return std::equal(memory.begin() + skipped, memory.end() - 64, other.memory.begin() + other.skipped);
  }
  size_t token, head, layer, skipped;
  std::vector<uint16_t> memory;
  Pages pages;
};

void ExpectSameBits(const std::vector<uint8_t>& block, Basis basis, int precision, size_t padding, size_t offset) {
  const BlockView view = ParseOrDie(block);
  const LayerRange layers = {0, view.shape().layers};
  Destination expected(view.shape(), padding, offset);
  ASSERT_EQ(reference::Decode(view, layers, precision, basis, expected.pages).ToString(), "OK");
  ForEachTarget([&] {
    Destination got(view.shape(), padding, offset);
    ASSERT_EQ(Decode(view, layers, precision, basis, got.pages).ToString(), "OK");
    EXPECT_TRUE(got.SameAs(expected)) << CodecName(view.codec()) << " tokens " << view.shape().tokens << " head_dim "
                                      << view.shape().head_dim << " " << DtypeName(view.shape().dtype) << " precision "
                                      << precision << " basis " << int(basis) << " padding " << padding << " seed "
                                      << kSeed;
  });
}

class Targets : public testing::TestWithParam<std::tuple<uint32_t, Dtype>> {
 protected:
  BlockShape Shape(uint32_t tokens) const { return {2, 3, tokens, std::get<0>(GetParam()), std::get<1>(GetParam())}; }
  std::mt19937_64 random_{kSeed};
};

TEST_P(Targets, DecodeLadderAlike) {
  for (uint32_t tokens : {16, 48, 128, 256}) {
    for (uint32_t first_position : {0, 512}) {
      const std::vector<uint8_t> block = RandomBlock(Shape(tokens), Codec::kLadder, first_position, {0, 0, 1}, random_);
      for (int precision : {2, 3, 4}) {
        for (Basis basis : {Basis::kOriginal, Basis::kKeptRotated}) {
          ExpectSameBits(block, basis, precision, tokens == 48 ? 5 : 0, tokens == 128 ? 3 : 0);
        }
      }
    }
  }
}

TEST_P(Targets, DecodeLadderOfEveryLengthAlike) {
  for (int code_bits : {2, 3, 8}) {
    for (uint32_t tokens : {16, 48, 256}) {
      for (uint32_t first_position : {0, 512}) {
        const std::vector<uint8_t> block =
            RandomBlock(Shape(tokens), Codec::kLadder, first_position, {0, 0, 1}, random_, code_bits);
        for (Basis basis : {Basis::kOriginal, Basis::kKeptRotated}) {
          for (int precision : {2, 3, 4, 8}) {
            if (precision > code_bits) continue;
            ExpectSameBits(block, basis, precision, tokens == 48 ? 5 : 0, tokens == 256 ? 3 : 0);
          }
        }
      }
    }
  }
}

TEST_P(Targets, DecodeTilesThatLackPlanesAlike) {
  // Tiles of 8, 4, 3 and 2 bits side by side, and a rotated i8 one.
  const std::vector<uint8_t> block =
      RandomBlock(Shape(32), Codec::kLadder, 0, {0x00, 0x10, 0x20, 0x30, 0x01}, random_, 8);
  for (Basis basis : {Basis::kOriginal, Basis::kKeptRotated}) {
    for (int precision : {2, 3, 4, 8}) ExpectSameBits(block, basis, precision, 0, 0);
  }
}

TEST_P(Targets, DecodeTrellisAlike) {
  for (int code_bits : {2, 3}) {
    for (uint32_t tokens : {16, 48, 256}) {
      for (uint32_t first_position : {0, 512}) {
        const std::vector<uint8_t> modes =
            code_bits == 3 ? std::vector<uint8_t>{0, 0x10, 1, 0} : std::vector<uint8_t>{0, 1};
        const std::vector<uint8_t> block =
            RandomBlock(Shape(tokens), Codec::kTrellis, first_position, modes, random_, code_bits);
        for (Basis basis : {Basis::kOriginal, Basis::kKeptRotated}) {
          ExpectSameBits(block, basis, code_bits, tokens == 48 ? 5 : 0, tokens == 256 ? 3 : 0);
        }
      }
    }
  }
}

TEST_P(Targets, DecodeI8Alike) {
  for (uint32_t tokens : {16, 48, 128, 256}) {
    const std::vector<uint8_t> block = RandomBlock(Shape(tokens), Codec::kI8, 0, {0, 0, 2}, random_);
    ExpectSameBits(block, Basis::kOriginal, 8, tokens == 48 ? 1 : 0, tokens == 128 ? 7 : 0);
  }
}

TEST_P(Targets, DecodeX16Alike) {
  for (uint32_t tokens : {16, 48, 128, 256}) {
    const std::vector<uint8_t> block = RandomBlock(Shape(tokens), Codec::kX16, 0, {0, 0, 2}, random_);
    ExpectSameBits(block, Basis::kOriginal, 16, tokens == 48 ? 1 : 0, tokens == 128 ? 7 : 0);
  }
}

TEST_P(Targets, DecodeRawTilesAlike) {
  const std::vector<uint8_t> block = RandomBlock(Shape(32), Codec::kLadder, 0, {2, 0, 1, 2}, random_);
  for (size_t padding : {0, 3}) ExpectSameBits(block, Basis::kOriginal, 4, padding, 0);
}

TEST_P(Targets, DecodeLargeBlocksAlikeThroughStreamedStores) {
  BlockShape shape = Shape(256);
  shape.layers = 4;
  shape.heads = 8;
  for (Codec codec : {Codec::kI8, Codec::kLadder, Codec::kX16, Codec::kTrellis}) {
    const std::vector<uint8_t> block = RandomBlock(shape, codec, 0, {0, 0, 0, 2}, random_);
    ExpectSameBits(block, Basis::kOriginal, TraitsOf(codec).code_bits, 0, 0);
  }
}

TEST_P(Targets, EncodeAlike) {
  const BlockShape shape = Shape(48);
  const std::vector<uint16_t> values = NormalValues(shape, kSeed);
  for (Codec codec : {Codec::kI8, Codec::kLadder, Codec::kX16, Codec::kTrellis}) {
    std::vector<std::vector<uint8_t>> blocks;
    ForEachTarget([&] { blocks.push_back(EncodeOrDie(shape, values, codec, 0)); });
    for (const std::vector<uint8_t>& block : blocks) EXPECT_EQ(block, blocks[0]);
  }
  std::vector<std::vector<uint8_t>> blocks;
  ForEachTarget([&] { blocks.push_back(EncodeOrDie(shape, values, {.codec = Codec::kLadder, .key_bits = 8}, 0)); });
  for (const std::vector<uint8_t>& block : blocks) EXPECT_EQ(block, blocks[0]);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Targets,
                         testing::Combine(testing::Values(64, 80, 96, 128, 256),
                                          testing::Values(Dtype::kBf16, Dtype::kF16)));

}  // namespace
}  // namespace kvist
