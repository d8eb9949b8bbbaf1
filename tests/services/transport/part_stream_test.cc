// Goal: the hand-made encoding of a Part is protobuf's, however gRPC cuts it.
// Method: each Part is compared with what protobuf itself writes and reads; received bytes are cut at every place, and
// at random into many slices; broken ones are refused with a sentence.
#include "services/transport/part_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "kvist/v1/cache.pb.h"

namespace kvist {
namespace {

std::string Bytes(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  EXPECT_TRUE(buffer.DumpToSingleSlice(&slice).ok());
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
}

grpc::ByteBuffer Cut(const std::string& bytes, std::vector<size_t> cuts) {
  std::sort(cuts.begin(), cuts.end());
  cuts.push_back(bytes.size());
  std::vector<grpc::Slice> slices;
  size_t begin = 0;
  for (size_t end : cuts) {
    slices.emplace_back(bytes.data() + begin, end - begin);
    begin = end;
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string DataOf(const ReceivedPart& part) {
  std::string data(part.size_bytes(), '\0');
  part.CopyTo({reinterpret_cast<uint8_t*>(data.data()), data.size()});
  return data;
}

void ExpectPart(const grpc::ByteBuffer& buffer, const v1::Part& expected) {
  absl::StatusOr<std::optional<ReceivedPart>> parsed = ReceivedPart::Parse(buffer);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_TRUE(parsed->has_value());
  const ReceivedPart part = std::move(**parsed);
  EXPECT_EQ(part.item(), expected.item());
  EXPECT_EQ(part.offset(), expected.offset());
  EXPECT_EQ(DataOf(part), expected.data());
}

v1::Part MakePart(uint32_t item, uint64_t offset, size_t size, std::mt19937* random) {
  v1::Part part;
  part.set_item(item);
  part.set_offset(offset);
  std::string data(size, '\0');
  for (char& c : data) c = static_cast<char>((*random)());
  part.set_data(data);
  return part;
}

TEST(PartStreamTest, ProtobufReadsWhatWeWriteInBothDirections) {
  std::mt19937 random(1);
  for (const uint64_t offset : {uint64_t{0}, uint64_t{127}, uint64_t{128}, uint64_t{1} << 40}) {
    const v1::Part part = MakePart(300, offset, 1000, &random);
    const grpc::ByteBuffer buffer =
        EncodePart(300, offset, {grpc::Slice(part.data().substr(0, 13)), grpc::Slice(part.data().substr(13))});
    v1::GetResponse get;
    ASSERT_TRUE(get.ParseFromString(Bytes(buffer)));
    EXPECT_EQ(get.part().SerializeAsString(), part.SerializeAsString());
    v1::PutRequest put;
    ASSERT_TRUE(put.ParseFromString(Bytes(buffer)));
    EXPECT_EQ(put.part().SerializeAsString(), part.SerializeAsString());
  }
}

TEST(PartStreamTest, WeReadWhatProtobufWritesCutAtEveryPlace) {
  std::mt19937 random(2);
  v1::GetResponse response;
  *response.mutable_part() = MakePart(200, 1 << 21, 300, &random);
  const std::string bytes = response.SerializeAsString();
  for (size_t cut = 0; cut <= bytes.size(); ++cut) ExpectPart(Cut(bytes, {cut}), response.part());
}

TEST(PartStreamTest, WeReadAPartInManyRandomSlices) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 500; ++round) {
    v1::PutRequest request;
    *request.mutable_part() = MakePart(random() % 5000, random(), random() % 5000, &random);
    const std::string bytes = request.SerializeAsString();
    std::vector<size_t> cuts(random() % 40);
    for (size_t& cut : cuts) cut = random() % (bytes.size() + 1);
    ExpectPart(Cut(bytes, cuts), request.part());
  }
}

TEST(PartStreamTest, OtherMessagesAreNoParts) {
  v1::GetResponse header;
  header.mutable_header()->set_item(3);
  for (const grpc::ByteBuffer& buffer : {EncodeMessage(header), EncodeMessage(v1::GetResponse())}) {
    absl::StatusOr<std::optional<ReceivedPart>> parsed = ReceivedPart::Parse(buffer);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_FALSE(parsed->has_value());
  }
  v1::GetResponse back;
  ASSERT_TRUE(DecodeMessage(EncodeMessage(header), &back));
  EXPECT_EQ(back.header().item(), 3);
}

TEST(PartStreamTest, EveryTruncationIsRefusedWithASentence) {
  std::mt19937 random(3);
  v1::GetResponse response;
  *response.mutable_part() = MakePart(7, 99, 64, &random);
  const std::string bytes = response.SerializeAsString();
  for (size_t length = 1; length < bytes.size(); ++length) {
    absl::StatusOr<std::optional<ReceivedPart>> parsed = ReceivedPart::Parse(Cut(bytes.substr(0, length), {}));
    ASSERT_FALSE(parsed.ok()) << length;
    EXPECT_NE(parsed.status().message().find("a Part of the stream cannot be read"), std::string::npos);
  }
}

TEST(PartStreamTest, RandomBytesNeverCrashTheReader) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes(random() % 60, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    if (!bytes.empty() && round % 2 == 0) bytes[0] = 0x12;  // a Part's tag
    absl::StatusOr<std::optional<ReceivedPart>> parsed = ReceivedPart::Parse(Cut(bytes, {bytes.size() / 2}));
    if (parsed.ok() && parsed->has_value()) {
      EXPECT_EQ(DataOf(**parsed).size(), (*parsed)->size_bytes());
    }
  }
}

}  // namespace
}  // namespace kvist
