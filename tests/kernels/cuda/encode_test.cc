// Goal    A block encoded on the device's grid has the bytes of kvist::Encode, and bad requests are refused before a launch.
// Method  The kernels of a launch on the grid emulator, in the order of encode_launch.cc, or on a device (run_encode.h),
//         against the CPU's encoder: over shapes, codecs, dtypes, positions, floors, odd values and layouts. Memory starts as garbage.
#include <limits>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/encode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/cuda/run_encode.h"

namespace kvist::cuda {
namespace {

using testing::HasSubstr;

// Where the kernels read the request's pages from then on: a copy of what its strides reach, and of nothing beyond.
DeviceBytes TakeOver(EncodeRequest& request) {
  const BlockShape& shape = request.shape;
  ConstPages& pages = request.pages;
  const size_t reach = pages.kv_stride + (shape.layers - 1) * pages.layer_stride +
                       (shape.heads - 1) * pages.head_stride + (shape.tokens - 1) * pages.token_stride + shape.head_dim;
  DeviceBytes copy(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(pages.base), 2 * reach));
  pages.base = reinterpret_cast<const uint16_t*>(copy.data());
  return copy;
}

// The blocks of `requests`, encoded in one launch.
std::vector<std::vector<uint8_t>> EncodeOnGrid(std::vector<EncodeRequest> requests) {
  std::vector<DeviceBytes> pages;
  for (EncodeRequest& request : requests) pages.push_back(TakeOver(request));
  const auto plan = EncodePlan::Make(requests);
  EXPECT_TRUE(plan.ok()) << MessageOf(plan.status());
  DeviceBytes workspace(plan->workspace_bytes());
  const std::vector<TileSums> sums = RunEncode(*plan, workspace);
  std::vector<DeviceBytes> blocks;
  std::vector<EncodeOutput> outputs;
  for (const EncodeRequest& request : requests) {
    blocks.emplace_back(MaxBlockBytes(request.shape, request.options.codec));
    std::memset(blocks.back().data(), 0xdd, blocks.back().size());
    outputs.push_back({blocks.back().data(), blocks.back().size()});
  }
  DeviceBytes table(EncodeLayout::MaxTableBytes(*plan));
  const auto layout = EncodeLayout::Make(*plan, sums, workspace.data(), table.data(), outputs);
  EXPECT_TRUE(layout.ok()) << MessageOf(layout.status());
  EXPECT_LE(layout->device_table_bytes(), table.size());
  RunWrite(*layout, table);
  std::vector<std::vector<uint8_t>> result;
  for (size_t i = 0; i < blocks.size(); ++i)
    result.emplace_back(blocks[i].data(), blocks[i].data() + layout->block_bytes(i));
  return result;
}

std::vector<uint8_t> EncodeOnCpu(const EncodeRequest& request) {
  std::vector<uint8_t> bytes(MaxBlockBytes(request.shape, request.options.codec));
  const auto size = Encode(request.identity, request.shape, request.pages, request.options, absl::MakeSpan(bytes));
  EXPECT_TRUE(size.ok()) << MessageOf(size.status());
  bytes.resize(size.value_or(0));
  return bytes;
}

std::string Describe(const EncodeRequest& request) {
  const BlockShape& shape = request.shape;
  std::ostringstream text;
  text << CodecName(request.options.codec) << " " << DtypeName(shape.dtype) << " layers " << shape.layers << " heads "
       << shape.heads << " tokens " << shape.tokens << " head_dim " << shape.head_dim << " position "
       << request.identity.first_position << " floor " << request.options.floor_db;
  return text.str();
}

// Index of the first byte that differs; the length of equal blocks.
size_t FirstDifference(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  return size_t(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

void ExpectCpuBytes(const std::vector<EncodeRequest>& requests) {
  const std::vector<std::vector<uint8_t>> blocks = EncodeOnGrid(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<uint8_t> expected = EncodeOnCpu(requests[i]);
    EXPECT_EQ(blocks[i].size(), expected.size()) << Describe(requests[i]);
    EXPECT_EQ(FirstDifference(expected, blocks[i]), expected.size()) << Describe(requests[i]);
  }
}

// Channels of unequal size with means, tokens of unequal size: what scales are for.
std::vector<uint16_t> KvLike(const BlockShape& shape, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  return Values(shape, [&](size_t kv, size_t, size_t head, size_t token, size_t d) {
    const float channel = 0.2f + float((d * 7 + head) % 13), mean = kv == 0 && d % 5 == 0 ? 6.0f : 0.0f;
    return (normal(random) * channel + mean) * (token == 0 ? 30.0f : 1.0f + float(token % 3));
  });
}

EncodeRequest RequestOf(const BlockShape& shape, const std::vector<uint16_t>& values, Codec codec,
                        uint32_t first_position, float floor_db = 0) {
  return {IdentityAt(first_position), shape, ContiguousPages(values.data(), shape, shape.tokens), {codec, floor_db}};
}

uint32_t RaisedOf(const EncodeRequest& request) { return ParseOrDie(EncodeOnCpu(request)).raised_tiles(); }

TEST(EncodeOnDevice, WritesTheCpusBytesOverShapesCodecsAndDtypes) {
  for (uint32_t head_dim : {64, 80, 96, 128, 256}) {
    for (uint32_t tokens : {16, 48, 128, 256}) {
      for (Dtype dtype : {Dtype::kBf16, Dtype::kF16}) {
        const BlockShape shape = {2, tokens == 48 ? 3u : 1u, tokens, head_dim, dtype};
        const std::vector<uint16_t> values = KvLike(shape, head_dim + tokens);
        std::vector<EncodeRequest> requests;
        for (uint32_t position : {0u, tokens}) {
          for (Codec codec : {Codec::kLadder, Codec::kI8, Codec::kRaw16})
            requests.push_back(RequestOf(shape, values, codec, position));
        }
        ExpectCpuBytes(requests);
      }
    }
  }
}

TEST(EncodeOnDevice, TakesEightHeads) {
  const BlockShape shape = {1, 8, 32, 128, Dtype::kBf16};
  const std::vector<uint16_t> values = KvLike(shape, 8);
  ExpectCpuBytes({RequestOf(shape, values, Codec::kLadder, 0), RequestOf(shape, values, Codec::kI8, 0)});
}

TEST(EncodeOnDevice, RaisesTheTilesThatTheCpuRaises) {
  const BlockShape shape = {2, 2, 64, 96, Dtype::kBf16};
  const std::vector<uint16_t> values = KvLike(shape, 3);
  const std::vector<float> floors = {19, 20, 20.5, 25, 35, 40, 41, 42, 43, 60, 200};
  std::vector<EncodeRequest> requests;
  bool some_raised = false, all_raised = false;
  for (float floor_db : floors) {
    for (Codec codec : {Codec::kLadder, Codec::kI8}) {
      requests.push_back(RequestOf(shape, values, codec, 0, floor_db));
      const uint32_t raised = RaisedOf(requests.back());
      some_raised |= raised > 0 && raised < 8;
      all_raised |= raised == 8;
    }
  }
  EXPECT_TRUE(some_raised && all_raised) << "the floors no longer divide these tiles";
  ExpectCpuBytes(requests);
}

// Tiles by head: NaN, infinity, zeros, tiny, constant, one outlier, near the largest, normal.
float OddValue(size_t head, size_t token, size_t d, Dtype dtype, float normal) {
  const float largest = dtype == Dtype::kBf16 ? 3e38f : 65000.0f;
  const bool spot = token == 9 && d == 17;
  if (head == 0) return spot ? std::numeric_limits<float>::infinity() : normal;
  if (head == 1) return spot ? -std::numeric_limits<float>::infinity() : 0.0f;
  if (head == 2) return 0;
  if (head == 3) return normal * (dtype == Dtype::kBf16 ? 1e-30f : 1e-7f);
  if (head == 4) return 1.5f;
  if (head == 5) return spot ? 3e4f : normal;
  if (head == 6) return d % 2 == 0 ? largest : -largest;
  return normal;
}

TEST(EncodeOnDevice, KeepsOddTilesAsTheCpuDoes) {
  for (uint32_t head_dim : {64, 80, 256}) {
    for (Dtype dtype : {Dtype::kBf16, Dtype::kF16}) {
      const BlockShape shape = {1, 8, 32, head_dim, dtype};
      std::mt19937_64 random(head_dim);
      std::normal_distribution<float> normal;
      std::vector<uint16_t> values = Values(shape, [&](size_t, size_t, size_t head, size_t token, size_t d) {
        return OddValue(head, token, d, dtype, normal(random));
      });
      values[5] = dtype == Dtype::kBf16 ? 0x7fc1 : 0x7e01;  // NaN
      std::vector<EncodeRequest> requests;
      for (uint32_t position : {0, 32}) {
        requests.push_back(RequestOf(shape, values, Codec::kLadder, position));
        requests.push_back(RequestOf(shape, values, Codec::kI8, position));
      }
      ASSERT_GT(RaisedOf(requests[0]), 0u);
      ExpectCpuBytes(requests);
    }
  }
}

TEST(EncodeOnDevice, ReadsStridedPages) {
  const BlockShape shape = {2, 2, 32, 80, Dtype::kF16};
  const std::vector<uint16_t> values = KvLike(shape, 5);
  const size_t d = shape.head_dim, heads = shape.heads, page_tokens = 40, layer = page_tokens * heads * 2 * d;
  const ConstPages packed = {values.data(), d, layer, 2 * d, heads * 2 * d};
  const ConstPages hnd = {values.data(), d, layer, page_tokens * 2 * d, 2 * d};
  const ConstPages kv_first = {values.data(), page_tokens * heads * d, layer, d, heads * d};
  const std::vector<uint16_t> memory = NormalValues({2, 2, 48, 80, Dtype::kF16}, 6);
  ASSERT_GE(memory.size(), 2 * layer);
  for (ConstPages pages : {packed, hnd, kv_first}) {
    pages.base = memory.data();
    std::vector<EncodeRequest> requests;
    for (Codec codec : {Codec::kLadder, Codec::kI8, Codec::kRaw16}) {
      requests.push_back({IdentityAt(0), shape, pages, {codec, 0}});
      requests.push_back({IdentityAt(0), shape, pages, {codec, 60}});
    }
    ExpectCpuBytes(requests);
  }
}

TEST(EncodeOnDevice, LeavesOtherNumbersOfBitsToTheHost) {
  const BlockShape shape = {1, 1, 16, 64, Dtype::kBf16};
  const std::vector<uint16_t> values = KvLike(shape, 7);
  for (const auto& [key, value] : {std::pair{8, 8}, {4, 3}, {3, 3}}) {
    EncodeRequest request = RequestOf(shape, values, Codec::kLadder, 0);
    request.options.key_bits = key;
    request.options.value_bits = value;
    const absl::Status status = EncodePlan::Make({&request, 1}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << MessageOf(status);
  }
  const EncodeRequest trellis = RequestOf(shape, values, Codec::kTrellis, 0);
  EXPECT_EQ(EncodePlan::Make({&trellis, 1}).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(EncodeOnDevice, SealsBlocksThatAReaderAccepts) {
  const BlockShape shape = {3, 2, 128, 64, Dtype::kBf16};
  const std::vector<uint16_t> values = KvLike(shape, 7);
  const auto blocks = EncodeOnGrid({RequestOf(shape, values, Codec::kLadder, 0)});
  EXPECT_EQ(ParseOrDie(blocks[0]).Verify(0, 3, 0).ToString(), "OK");
}

TEST(EncodeOnDevice, RefusesBadRequestsByName) {
  const BlockShape shape = {1, 1, 16, 64, Dtype::kBf16};
  const std::vector<uint16_t> values = NormalValues(shape, 1);
  const EncodeRequest good = RequestOf(shape, values, Codec::kI8, 0);
  EncodeRequest bad = good;
  bad.shape.head_dim = 72;
  EXPECT_THAT(MessageOf(EncodePlan::Make({good, bad}).status()), HasSubstr("request 1: shape: head_dim 72"));
  bad = good;
  bad.options.floor_db = 201;
  EXPECT_THAT(MessageOf(EncodePlan::Make({bad}).status()), HasSubstr("floor_db 201"));
  bad = good;
  bad.options.codec = Codec(9);
  EXPECT_THAT(MessageOf(EncodePlan::Make({bad}).status()), HasSubstr("codec 9"));
  bad = good;
  bad.shape.dtype = Dtype::kF8E4M3;
  EXPECT_THAT(MessageOf(EncodePlan::Make({bad}).status()), HasSubstr("i8 takes bf16 and f16, not f8e4m3"));
  bad = good;
  bad.options.codec = Codec::kX16;
  EXPECT_EQ(EncodePlan::Make({good, bad}).status().ToString(),
            "UNIMPLEMENTED: request 1: no kernel encodes x16 of 16 bits; the host does");
  bad = good;
  bad.pages.base = nullptr;
  EXPECT_THAT(MessageOf(EncodePlan::Make({bad}).status()), HasSubstr("pages at address 0"));
}

TEST(EncodeOnDevice, RefusesOutputsThatHoldNoBlock) {
  const BlockShape shape = {1, 1, 16, 64, Dtype::kBf16};
  const std::vector<uint16_t> values = NormalValues(shape, 1);
  const auto plan = EncodePlan::Make({RequestOf(shape, values, Codec::kI8, 0)});
  ASSERT_TRUE(plan.ok());
  DeviceBytes workspace(plan->workspace_bytes()), table(EncodeLayout::MaxTableBytes(*plan)), out(1 << 16);
  const std::vector<TileSums> sums = RunEncode(*plan, workspace);
  const auto status_of = [&](const std::vector<TileSums>& of, EncodeOutput output) {
    return EncodeLayout::Make(*plan, of, workspace.data(), table.data(), {output}).status();
  };
  EXPECT_EQ(status_of(sums, {out.data(), 1000}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(MessageOf(status_of(sums, {out.data(), 1000})), HasSubstr("the output holds 1000"));
  EXPECT_THAT(MessageOf(status_of(sums, {out.data() + 32, 1 << 15})), HasSubstr("output 0 at address"));
  EXPECT_THAT(MessageOf(status_of({}, {out.data(), 1 << 16})), HasSubstr("0 sums and 1 outputs for 2 tiles"));
}

}  // namespace
}  // namespace kvist::cuda
