// One Part of a Get or Put stream as gRPC bytes, without copying its data: proto/kvist/v1/cache.proto's GetResponse and
// PutRequest both carry it as field 2, so one encoding serves both directions and stays readable by any protobuf stub.
//
// Why by hand: protobuf would copy the data into a std::string on each side. Here sending costs a small slice before
// the pinned slab's own slices, and receiving copies once, from the socket's slices to the block's place. Trap: gRPC
// cuts messages into slices as it likes; a header may span two. Nothing here reads from slice 0 alone.
#ifndef KVIST_SERVICES_TRANSPORT_PART_STREAM_H_
#define KVIST_SERVICES_TRANSPORT_PART_STREAM_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace google::protobuf {
class MessageLite;
}

namespace kvist {

// A message whose `part` field holds `data` (the slices in order), for GetResponse or PutRequest alike.
grpc::ByteBuffer EncodePart(uint32_t item, uint64_t offset, std::vector<grpc::Slice> data);

// Any other message of a stream.
grpc::ByteBuffer EncodeMessage(const google::protobuf::MessageLite& message);
bool DecodeMessage(const grpc::ByteBuffer& buffer, google::protobuf::MessageLite* message);

// A received Part: where its data belongs, and the data still in gRPC's slices.
class ReceivedPart {
 public:
  ReceivedPart(ReceivedPart&&) = default;  // not copyable: small slices hold their bytes inline, and data_ points there
  ReceivedPart& operator=(ReceivedPart&&) = default;

  // Empty if the message is something else than a Part (parse it with DecodeMessage).
  // Errors: InvalidArgument  a Part that breaks protobuf's encoding, or whose data is longer than the message.
  static absl::StatusOr<std::optional<ReceivedPart>> Parse(const grpc::ByteBuffer& buffer);

  uint32_t item() const { return item_; }
  uint64_t offset() const { return offset_; }
  size_t size_bytes() const { return size_bytes_; }
  // The data in order, valid as long as this object.
  const std::vector<absl::Span<const uint8_t>>& data() const { return data_; }
  // REQUIRES: out.size() == size_bytes().
  void CopyTo(absl::Span<uint8_t> out) const;

 private:
  ReceivedPart() = default;

  uint32_t item_ = 0;
  uint64_t offset_ = 0;
  size_t size_bytes_ = 0;
  std::vector<grpc::Slice> slices_;
  std::vector<absl::Span<const uint8_t>> data_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_PART_STREAM_H_
