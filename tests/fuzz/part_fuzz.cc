// Goal    A message of a Get or Put stream means the same however gRPC has cut it into slices, and means what protobuf
//         says that it means.
// Input   A count of cuts, the cuts (two bytes each), then the message.
// Method  The message is read whole and cut; every accepted Part is compared with protobuf's own parse, and every Part
//         that protobuf can write is accepted.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "kvist/v1/cache.pb.h"
#include "services/transport/grpc_library.h"
#include "services/transport/part_stream.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate part_gate("a Part"), empty_part("a Part without data"), broken("a broken Part"), other("another message"),
    cut("data in several slices"), trailer("a readable message that is no Part");

using Slices = std::vector<grpc::Slice>;

Slices CutAt(absl::Span<const uint8_t> message, std::vector<size_t> cuts) {
  for (size_t& at : cuts) at %= message.size() + 1;
  std::sort(cuts.begin(), cuts.end());
  Slices slices;
  size_t from = 0;
  for (const size_t to : cuts) {  // equal cuts give empty slices, as gRPC may
    slices.emplace_back(message.data() + from, to - from);
    from = to;
  }
  slices.emplace_back(message.data() + from, message.size() - from);
  return slices;
}

struct Meaning {
  absl::StatusCode code = absl::StatusCode::kOk;
  bool is_part = false;
  uint32_t item = 0;
  uint64_t offset = 0;
  std::string data;
  size_t spans = 0;
  bool operator==(const Meaning& other) const {
    return code == other.code && is_part == other.is_part && item == other.item && offset == other.offset &&
           data == other.data;
  }
};

Meaning Read(const grpc::ByteBuffer& buffer) {
  const absl::StatusOr<std::optional<ReceivedPart>> parsed = ReceivedPart::Parse(buffer);
  Meaning meaning;
  meaning.code = parsed.status().code();
  KVIST_HOLDS(parsed.ok() || !parsed.status().message().empty(), "refused without a word");
  if (!parsed.ok() || !parsed->has_value()) return meaning;
  const ReceivedPart& part = **parsed;
  meaning.is_part = true;
  meaning.item = part.item();
  meaning.offset = part.offset();
  std::vector<uint8_t> copy(part.size_bytes());
  part.CopyTo(absl::MakeSpan(copy));
  meaning.data.assign(copy.begin(), copy.end());
  size_t at = 0;
  for (const absl::Span<const uint8_t> span : part.data()) {
    KVIST_HOLDS(at + span.size() <= copy.size() && std::equal(span.begin(), span.end(), copy.begin() + at), at);
    at += span.size();
  }
  KVIST_HOLDS(at == part.size_bytes(), at, " bytes in the spans of ", part.size_bytes());
  meaning.spans = part.data().size();
  return meaning;
}

void CompareWithProtobuf(const Meaning& ours, const std::string& message) {
  v1::PutRequest theirs;
  const bool readable = theirs.ParseFromString(message);
  if (ours.is_part) {
    KVIST_HOLDS(readable && theirs.has_part(), "protobuf does not see a Part here");
    KVIST_HOLDS(theirs.part().item() == ours.item, theirs.part().item(), " / ", ours.item);
    KVIST_HOLDS(theirs.part().offset() == ours.offset, theirs.part().offset(), " / ", ours.offset);
    KVIST_HOLDS(theirs.part().data() == ours.data, "protobuf reads other data");
    return;
  }
  if (!readable || !theirs.has_part()) return;
  // What protobuf writes of this Part is in the form that we read.
  v1::PutRequest only;
  only.mutable_part()->set_item(theirs.part().item());
  only.mutable_part()->set_offset(theirs.part().offset());
  only.mutable_part()->set_data(theirs.part().data());
  const std::string canonical = only.SerializeAsString();
  const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(canonical.data()), canonical.size());
  const Slices halves = CutAt(bytes, {canonical.size() / 2});
  const Meaning again = Read(grpc::ByteBuffer(halves.data(), halves.size()));
  KVIST_HOLDS(again.is_part && again.item == theirs.part().item() && again.data == theirs.part().data(),
              "a Part that protobuf wrote is refused");
}

void CheckEncoding(const Meaning& part) {
  const grpc::Slice data(part.data);
  const grpc::ByteBuffer encoded = EncodePart(part.item, part.offset, {data});
  const Meaning again = Read(encoded);
  KVIST_HOLDS(again == part, "EncodePart and Parse disagree");
  v1::GetResponse theirs;
  KVIST_HOLDS(DecodeMessage(encoded, &theirs) && theirs.part().data() == part.data, "protobuf cannot read EncodePart");
}

void Run(fuzz::Input input) {
  KeepGrpcAlive();
  std::vector<size_t> cuts(input.Below(32));
  for (size_t& at : cuts) at = input.Number(2);
  const fuzz::ExactBytes message(input.Rest());
  const std::string text(message.span().begin(), message.span().end());
  const Slices slices = CutAt(message.span(), cuts);
  const grpc::Slice one(message.span().data(), message.span().size());
  const grpc::ByteBuffer whole(&one, 1), sliced(slices.data(), slices.size());

  const fuzz::AllocationMeter meter;
  const Meaning meaning = Read(whole), from_slices = Read(sliced);
  KVIST_HOLDS(meter.bytes() <= 64 * (text.size() + slices.size()) + 4096, meter.bytes(), " bytes for ", text.size());
  KVIST_HOLDS(meaning == from_slices, "the meaning depends on the slices");

  v1::GetResponse ours, theirs;
  const bool readable = DecodeMessage(sliced, &ours);
  KVIST_HOLDS(readable == theirs.ParseFromString(text), "DecodeMessage differs from protobuf");
  KVIST_HOLDS(!readable || ours.SerializeAsString() == theirs.SerializeAsString(), "the slices changed a message");
  CompareWithProtobuf(meaning, text);
  if (meaning.is_part) CheckEncoding(meaning);

  if (meaning.is_part) (meaning.data.empty() ? empty_part : part_gate).Pass();
  if (meaning.code != absl::StatusCode::kOk) broken.Pass();
  if (meaning.code == absl::StatusCode::kOk && !meaning.is_part) other.Pass();
  if (from_slices.spans > 1) cut.Pass();
  if (readable && theirs.has_trailer()) trailer.Pass();
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  google::protobuf::SetLogHandler(nullptr);  // it would tell of each string that is not UTF-8
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
