// Goal    A record in etcd, whoever wrote it, is read as it stands or left out with a sentence.
// Input   The record's JSON.
// Method  What was accepted is valid, and the same when it is written and read again.
#include <google/protobuf/stubs/logging.h>

#include <string>

#include "services/cluster/records.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate accepted("a record"), later("a record of a later protocol"), refused("a record that is refused");

void Run(const std::string& text) {
  const fuzz::AllocationMeter meter;
  const absl::StatusOr<Node> node = RecordFromJson(text);
  KVIST_HOLDS(meter.bytes() <= 4096 * text.size() + (1 << 20), meter.bytes(), " bytes for ", text.size());
  if (!node.ok()) {
    KVIST_HOLDS(!node.status().message().empty(), "refused without a word");
    return (absl::IsFailedPrecondition(node.status()) ? later : refused).Pass();
  }
  const absl::Status valid = ValidateView(View{ViewNumber{1}, {*node}});
  KVIST_HOLDS(valid.ok(), valid.message());
  KVIST_HOLDS(node->protocol <= kProtocolVersion, node->protocol);
  const absl::StatusOr<Node> again = RecordFromJson(RecordToJson(*node));
  KVIST_HOLDS(again.ok(), RecordToJson(*node), ": ", again.status().message());
  KVIST_HOLDS(*again == *node, "written out, it is another record: ", RecordToJson(*node));
  accepted.Pass();
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  google::protobuf::SetLogHandler(nullptr);  // it would tell of each string that is not UTF-8
  kvist::Run(kvist::fuzz::Input(data, size).RestText());
  return 0;
}
