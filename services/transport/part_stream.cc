#include "services/transport/part_stream.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/message_lite.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"

namespace kvist {
namespace {

using google::protobuf::io::CodedOutputStream;

// Field numbers of cache.proto, with protobuf's wire types: 0 = varint, 2 = length-delimited.
constexpr uint32_t Tag(int field, int wire_type) { return static_cast<uint32_t>(field << 3 | wire_type); }
constexpr uint32_t kPartTag = Tag(2, 2), kItemTag = Tag(1, 0), kOffsetTag = Tag(2, 0), kDataTag = Tag(3, 2);
constexpr size_t kMaxPartHeaderBytes = 40;

// Reads bytes and varints across slice borders.
class SliceReader {
 public:
  explicit SliceReader(const std::vector<grpc::Slice>& slices) : slices_(slices) {
    for (const grpc::Slice& slice : slices) left_ += slice.size();
  }

  size_t left() const { return left_; }

  bool ReadVarint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      const int byte = ReadByte();
      if (byte < 0) return false;
      if (shift < 64) *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }

  // The next `size` bytes as spans of the slices. REQUIRES: size <= left().
  std::vector<absl::Span<const uint8_t>> Take(size_t size) {
    std::vector<absl::Span<const uint8_t>> spans;
    while (size > 0) {
      SkipEmpty();
      const grpc::Slice& slice = slices_[index_];
      const size_t taken = std::min(size, slice.size() - position_);
      spans.emplace_back(slice.begin() + position_, taken);
      position_ += taken;
      left_ -= taken;
      size -= taken;
    }
    return spans;
  }

 private:
  void SkipEmpty() {
    while (position_ == slices_[index_].size()) {
      ++index_;
      position_ = 0;
    }
  }
  int ReadByte() {
    if (left_ == 0) return -1;
    SkipEmpty();
    --left_;
    return slices_[index_].begin()[position_++];
  }

  const std::vector<grpc::Slice>& slices_;
  size_t index_ = 0, position_ = 0, left_ = 0;
};

absl::Status BrokenPart(const char* what) {
  return absl::InvalidArgumentError(std::string("a Part of the stream cannot be read: ") + what);
}

}  // namespace

grpc::ByteBuffer EncodePart(uint32_t item, uint64_t offset, std::vector<grpc::Slice> data) {
  size_t data_bytes = 0;
  for (const grpc::Slice& slice : data) data_bytes += slice.size();
  const size_t fields_bytes = 1 + CodedOutputStream::VarintSize32(item) + 1 + CodedOutputStream::VarintSize64(offset) +
                              1 + CodedOutputStream::VarintSize64(data_bytes);
  uint8_t header[kMaxPartHeaderBytes];
  uint8_t* end = CodedOutputStream::WriteTagToArray(kPartTag, header);
  end = CodedOutputStream::WriteVarint64ToArray(fields_bytes + data_bytes, end);
  end = CodedOutputStream::WriteTagToArray(kItemTag, end);
  end = CodedOutputStream::WriteVarint32ToArray(item, end);
  end = CodedOutputStream::WriteTagToArray(kOffsetTag, end);
  end = CodedOutputStream::WriteVarint64ToArray(offset, end);
  end = CodedOutputStream::WriteTagToArray(kDataTag, end);
  end = CodedOutputStream::WriteVarint64ToArray(data_bytes, end);
  data.insert(data.begin(), grpc::Slice(header, end - header));
  return grpc::ByteBuffer(data.data(), data.size());
}

grpc::ByteBuffer EncodeMessage(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool DecodeMessage(const grpc::ByteBuffer& buffer, google::protobuf::MessageLite* message) {
  grpc::Slice slice;
  return buffer.DumpToSingleSlice(&slice).ok() &&
         message->ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
}

absl::StatusOr<std::optional<ReceivedPart>> ReceivedPart::Parse(const grpc::ByteBuffer& buffer) {
  ReceivedPart part;
  if (!buffer.Dump(&part.slices_).ok()) return BrokenPart("gRPC gave no bytes");
  SliceReader reader(part.slices_);
  uint64_t tag = 0, value = 0;
  if (!reader.ReadVarint(&tag)) return std::nullopt;  // an empty message
  if (tag != kPartTag) return std::nullopt;
  if (!reader.ReadVarint(&value) || value != reader.left()) return BrokenPart("its length is not the message's");
  while (reader.left() > 0) {
    if (!reader.ReadVarint(&tag) || !reader.ReadVarint(&value)) return BrokenPart("it is cut off");
    if (tag == kItemTag) {
      part.item_ = static_cast<uint32_t>(value);
    } else if (tag == kOffsetTag) {
      part.offset_ = value;
    } else if (tag == kDataTag) {
      if (value > reader.left()) return BrokenPart("its data is cut off");
      part.size_bytes_ = value;
      part.data_ = reader.Take(value);
    } else {
      return BrokenPart("it has an unknown field");
    }
  }
  return part;
}

void ReceivedPart::CopyTo(absl::Span<uint8_t> out) const {
  uint8_t* to = out.data();
  for (absl::Span<const uint8_t> span : data_) {
    std::memcpy(to, span.data(), span.size());
    to += span.size();
  }
}

}  // namespace kvist
