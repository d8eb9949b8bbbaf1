// Views as they come over the wire. What a node says is checked before it is believed.
//
// Threads pure.
#ifndef KVIST_SERVICES_WORKER_VIEW_WIRE_H_
#define KVIST_SERVICES_WORKER_VIEW_WIRE_H_

#include "absl/status/statusor.h"
#include "kvist/v1/cluster.pb.h"
#include "services/cluster/view.h"

namespace kvist {

inline constexpr int kMaxViewNodes = 1024;  // in a view that is believed: a node that lies cannot fill our memory

// Leaves out records of a later protocol.
// Errors: InvalidArgument: too many nodes, an address or a state that cannot be read, or what ValidateView finds.
absl::StatusOr<View> ViewFromWire(const v1::View& wire);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_VIEW_WIRE_H_
