// A view as the wire carries it.
#ifndef KVIST_SERVICES_NODE_VIEW_MESSAGE_H_
#define KVIST_SERVICES_NODE_VIEW_MESSAGE_H_

#include "kvist/v1/cluster.pb.h"
#include "services/cluster/view.h"

namespace kvist {

inline v1::NodeState ToWire(NodeState state) {
  if (state == NodeState::kJoining) return v1::NODE_STATE_JOINING;
  return state == NodeState::kDraining ? v1::NODE_STATE_DRAINING : v1::NODE_STATE_SERVING;
}

inline void ToWire(const View& view, v1::View* out) {
  out->set_number(view.number.value);
  for (const Node& node : view.nodes) {
    v1::NodeRecord* record = out->add_nodes();
    record->set_id(node.id.value);
    record->set_incarnation(node.incarnation);
    record->set_address(node.address.ToString());
    if (node.http.port != 0) record->set_http_address(node.http.ToString());
    record->set_weight(node.weight);
    record->set_capacity_bytes(node.capacity_bytes);
    record->set_state(ToWire(node.state));
    record->set_ramp(node.ramp);
    record->set_protocol(node.protocol);
  }
}

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_VIEW_MESSAGE_H_
