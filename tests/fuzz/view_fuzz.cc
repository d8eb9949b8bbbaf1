// Goal    A view that a node sends is believed only if it is valid, and then every segment has its place in it.
// Input   Two bytes (replicas, seed of the segment's key), then a protobuf View.
// Method  What was accepted is written out and read again; Place is compared with a plain sort, and with the same view
//         in another order of its nodes.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "kvist/v1/cluster.pb.h"
#include "services/cluster/records.h"
#include "services/cluster/ring.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate accepted("a view"), later("a view with a record of a later protocol"), refused("a view that is not valid"),
    garbage("no protobuf"), moved("a segment with a previous owner"), replicated("a segment with replicas");

v1::View Written(const View& view) {
  v1::View wire;
  wire.set_number(view.number.value);
  for (const Node& node : view.nodes) {
    v1::NodeRecord* record = wire.add_nodes();
    record->set_id(node.id.value);
    record->set_address(node.address.ToString());
    record->set_weight(node.weight);
    record->set_capacity_bytes(node.capacity_bytes);
    constexpr v1::NodeState kStates[] = {v1::NODE_STATE_SERVING, v1::NODE_STATE_JOINING, v1::NODE_STATE_DRAINING};
    record->set_state(kStates[static_cast<size_t>(node.state)]);
    record->set_ramp(node.ramp);
    record->set_incarnation(node.incarnation);
    record->set_protocol(node.protocol);
    if (node.http.port != 0) record->set_http_address(node.http.ToString());
  }
  return wire;
}

// ring.h read again: the best of the nodes with a weight, by a plain sort.
std::vector<NodeId> SlowOwners(const Key& head, const View& view, size_t replicas) {
  std::vector<const Node*> nodes;
  for (const Node& node : view.nodes) nodes.push_back(&node);
  const bool any = std::any_of(nodes.begin(), nodes.end(), [](const Node* node) { return PlacementWeight(*node) > 0; });
  const auto weight = [&](const Node* node) { return any ? PlacementWeight(*node) : node->weight; };
  if (any) std::erase_if(nodes, [&](const Node* node) { return weight(node) <= 0; });
  std::sort(nodes.begin(), nodes.end(), [&](const Node* a, const Node* b) {
    const double score_a = PlacementScore(head, a->id, weight(a)), score_b = PlacementScore(head, b->id, weight(b));
    return score_a != score_b ? score_a > score_b : a->id < b->id;
  });
  nodes.resize(std::min(nodes.size(), replicas));
  std::vector<NodeId> ids;
  for (const Node* node : nodes) ids.push_back(node->id);
  return ids;
}

std::vector<NodeId> Ids(const View& view, const std::vector<size_t>& positions) {
  std::vector<NodeId> ids;
  for (const size_t position : positions) {
    KVIST_HOLDS(position < view.nodes.size(), position);
    ids.push_back(view.nodes[position].id);
  }
  return ids;
}

void CheckPlaces(const View& view, const Key& head, size_t replicas) {
  const SegmentNodes places = Place(head, view, replicas);
  const std::vector<NodeId> owners = Ids(view, places.owners);
  KVIST_HOLDS(!owners.empty() && owners.size() <= replicas, owners.size(), " owners, ", replicas, " replicas");
  KVIST_HOLDS(owners == SlowOwners(head, view, replicas), "the owners are not the best");
  KVIST_HOLDS(view.nodes[Owner(head, view)].id == owners[0], "two owners of one segment");
  if (owners.size() > 1) replicated.Pass();
  if (places.previous) {
    const NodeId previous = Ids(view, {*places.previous})[0];
    KVIST_HOLDS(std::find(owners.begin(), owners.end(), previous) == owners.end(), "asked twice");
    KVIST_HOLDS(view.Find(previous)->state != NodeState::kJoining, "a joining node had nothing before");
    moved.Pass();
  }
  View turned = view;
  std::reverse(turned.nodes.begin(), turned.nodes.end());
  const SegmentNodes again = Place(head, turned, replicas);
  KVIST_HOLDS(Ids(turned, again.owners) == owners, "the order of the nodes changes the owners");
  KVIST_HOLDS(again.previous.has_value() == places.previous.has_value(), "the order of the nodes changes the past");
}

void Run(fuzz::Input input) {
  const size_t replicas = 1 + input.Below(4);
  Key head;
  for (size_t i = 0, seed = input.Byte(); i < head.bytes.size(); ++i)
    head.bytes[i] = static_cast<uint8_t>(seed * (i + 1));
  const absl::Span<const uint8_t> bytes = input.Rest();
  v1::View wire;
  if (!wire.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return garbage.Pass();
  const fuzz::AllocationMeter meter;
  const absl::StatusOr<View> view = ViewFromWire(wire);
  KVIST_HOLDS(meter.bytes() <= 1024 * bytes.size() + 65536, meter.bytes(), " bytes for ", bytes.size());
  if (!view.ok()) {
    KVIST_HOLDS(!view.status().message().empty(), "refused without a word");
    return refused.Pass();
  }
  const absl::Status valid = ValidateView(*view);
  KVIST_HOLDS(valid.ok(), valid.message());
  KVIST_HOLDS(ViewToWire(*view).SerializeAsString() == Written(*view).SerializeAsString(),
              "ViewToWire leaves out a field");
  const absl::StatusOr<View> again = ViewFromWire(Written(*view));
  KVIST_HOLDS(again.ok() && *again == *view, "written out, it is another view");
  CheckPlaces(*view, head, replicas);
  (static_cast<size_t>(wire.nodes_size()) > view->nodes.size() ? later : accepted).Pass();
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  google::protobuf::SetLogHandler(nullptr);  // it would tell of each string that is not UTF-8
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
