#include "services/cluster/records.h"

#include <google/protobuf/util/json_util.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr size_t kMaxAddressLength = 300;  // a name of 253 characters and a port

absl::StatusOr<NodeState> StateFromWire(v1::NodeState state) {
  switch (state) {
    case v1::NODE_STATE_SERVING:
      return NodeState::kServing;
    case v1::NODE_STATE_JOINING:
      return NodeState::kJoining;
    case v1::NODE_STATE_DRAINING:
      return NodeState::kDraining;
    default:
      return absl::InvalidArgumentError(absl::StrCat("its state ", static_cast<int>(state), " is unknown"));
  }
}

absl::StatusOr<Node> NodeFromWire(const v1::NodeRecord& record) {
  if (record.address().size() > kMaxAddressLength) return absl::InvalidArgumentError("its address is too long");
  absl::StatusOr<Address> address = ParseAddress(record.address());
  if (!address.ok()) return address.status();
  const absl::StatusOr<NodeState> state = StateFromWire(record.state());
  if (!state.ok()) return state.status();
  Node node;
  node.id.value = record.id();
  node.address = *std::move(address);
  node.weight = record.weight();
  node.capacity_bytes = record.capacity_bytes();
  node.state = *state;
  node.ramp = record.ramp();
  node.incarnation = record.incarnation();
  node.protocol = record.protocol();
  if (!record.http_address().empty()) {
    if (record.http_address().size() > kMaxAddressLength) return absl::InvalidArgumentError("its address is too long");
    absl::StatusOr<Address> http = ParseAddress(record.http_address());
    if (!http.ok()) return http.status();
    if (http->port != 0) node.http = *std::move(http);  // port 0: not known
  }
  return node;
}

v1::NodeState StateToWire(NodeState state) {
  switch (state) {
    case NodeState::kServing:
      return v1::NODE_STATE_SERVING;
    case NodeState::kJoining:
      return v1::NODE_STATE_JOINING;
    case NodeState::kDraining:
      return v1::NODE_STATE_DRAINING;
  }
  return v1::NODE_STATE_UNSPECIFIED;
}

v1::NodeRecord NodeToWire(const Node& node) {
  v1::NodeRecord record;
  record.set_id(node.id.value);
  record.set_incarnation(node.incarnation);
  record.set_address(node.address.ToString());
  if (node.http.port != 0) record.set_http_address(node.http.ToString());
  record.set_weight(node.weight);
  record.set_capacity_bytes(node.capacity_bytes);
  record.set_state(StateToWire(node.state));
  record.set_ramp(node.ramp);
  record.set_protocol(node.protocol);
  return record;
}

}  // namespace

absl::StatusOr<View> ViewFromWire(const v1::View& wire) {
  if (wire.nodes_size() > kMaxViewNodes) {
    return absl::InvalidArgumentError(absl::StrCat("a view of ", wire.nodes_size(), " nodes; at most ", kMaxViewNodes));
  }
  View view;
  view.number.value = wire.number();
  for (const v1::NodeRecord& record : wire.nodes()) {
    if (record.protocol() > kProtocolVersion) continue;
    absl::StatusOr<Node> node = NodeFromWire(record);
    if (!node.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("node \"", record.id().substr(0, 63), "\": ", node.status().message()));
    }
    view.nodes.push_back(*std::move(node));
  }
  if (absl::Status valid = ValidateView(view); !valid.ok()) return valid;
  return view;
}

v1::View ViewToWire(const View& view) {
  v1::View wire;
  wire.set_number(view.number.value);
  for (const Node& node : view.nodes) *wire.add_nodes() = NodeToWire(node);
  return wire;
}

std::string RecordToJson(const Node& node) {
  std::string json;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  (void)google::protobuf::util::MessageToJsonString(NodeToWire(node), &json,
                                                    options);  // our own message can be written
  return json;
}

absl::StatusOr<Node> RecordFromJson(const std::string& json) {
  v1::NodeRecord record;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &record, options);
  if (!parsed.ok()) return absl::InvalidArgumentError("it is no node record in JSON");
  if (record.protocol() > kProtocolVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("it speaks protocol ", record.protocol(), ", this node ", kProtocolVersion, ": update this node"));
  }
  absl::StatusOr<Node> node = NodeFromWire(record);
  if (!node.ok()) return node.status();
  View alone;
  alone.number.value = 1;
  alone.nodes.push_back(*node);
  if (absl::Status valid = ValidateView(alone); !valid.ok()) return valid;
  return node;
}

}  // namespace kvist
