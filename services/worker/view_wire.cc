#include "services/worker/view_wire.h"

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
  return node;
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

}  // namespace kvist
