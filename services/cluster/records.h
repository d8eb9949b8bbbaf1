// Records and views as they go over the wire and as they stand in etcd. What others say is checked before it is believed.
//
// Threads pure.
#ifndef KVIST_SERVICES_CLUSTER_RECORDS_H_
#define KVIST_SERVICES_CLUSTER_RECORDS_H_

#include <string>

#include "absl/status/statusor.h"
#include "kvist/v1/cluster.pb.h"
#include "services/cluster/view.h"

namespace kvist {

inline constexpr int kMaxViewNodes = 1024;  // in a view that is believed: a node that lies cannot fill our memory

// Leaves out records of a later protocol.
// Errors: InvalidArgument: too many nodes, an address or a state that cannot be read, or what ValidateView finds.
absl::StatusOr<View> ViewFromWire(const v1::View& wire);
v1::View ViewToWire(const View& view);

// A record as JSON, so that an operator can read it with etcdctl.
std::string RecordToJson(const Node& node);
// Unknown fields are ignored.
// Errors: FailedPrecondition  of a later protocol; InvalidArgument  no JSON, a field that cannot be read, or one that
// ValidateView refuses.
absl::StatusOr<Node> RecordFromJson(const std::string& json);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_RECORDS_H_
