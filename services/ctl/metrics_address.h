// Where a node's /metrics are, as seen from here.
#ifndef KVIST_SERVICES_CTL_METRICS_ADDRESS_H_
#define KVIST_SERVICES_CTL_METRICS_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"
#include "services/cluster/view.h"

namespace kvist {

// From the node's record, or else from what it publishes beside `cluster_file` ("" = there is none). A node that listens
// on all of its addresses is reached at the one of its data port. IPv6 hosts come without brackets.
// Errors: NotFound  neither says it.
absl::StatusOr<Address> MetricsAddress(const Node& node, const std::string& cluster_file);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_METRICS_ADDRESS_H_
