// Goal    A cluster file is read as it is written or refused with a sentence, in memory that grows with its length.
// Input   The file.
// Method  A view that was accepted is valid; written out again it gives the same view.
#include <nlohmann/json.hpp>
#include <string>

#include "services/cluster/static_file.h"
#include "services/cluster/view.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate accepted("a view"), several("a view of several nodes"), refused("a view that is not valid"), no_json("not JSON");

std::string Written(const View& view) {
  nlohmann::json nodes = nlohmann::json::array();
  for (const Node& node : view.nodes) {
    nodes.push_back({{"id", node.id.value},
                     {"address", node.address.ToString()},
                     {"weight", node.weight},
                     {"capacity", node.capacity_bytes}});
  }
  return nlohmann::json{{"view", view.number.value}, {"nodes", nodes}}.dump();
}

void Run(const std::string& text) {
  const fuzz::AllocationMeter meter;
  const absl::StatusOr<View> view = ParseClusterFile(text);
  KVIST_HOLDS(meter.bytes() <= 1024 * text.size() + 65536, meter.bytes(), " bytes for ", text.size());
  if (!view.ok()) {
    KVIST_HOLDS(!view.status().message().empty(), "refused without a word");
    return (nlohmann::json::accept(text) ? refused : no_json).Pass();
  }
  const absl::Status valid = ValidateView(*view);
  KVIST_HOLDS(valid.ok(), valid.message());
  for (const Node& node : view->nodes) KVIST_HOLDS(view->Find(node.id) == &node, "a node that is not found");
  const absl::StatusOr<View> again = ParseClusterFile(Written(*view));
  KVIST_HOLDS(again.ok(), again.status().message());
  KVIST_HOLDS(*again == *view, "written out, it is another view: ", Written(*view));
  (view->nodes.size() > 1 ? several : accepted).Pass();
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::Run(kvist::fuzz::Input(data, size).RestText());
  return 0;
}
