// Ties the replicator (services/cluster/replicator.h) to a node's handlers: their events drive it, and it reads blocks
// by this folder's checks.
//
// Threads the hooks' own; the replicator lives as long as the hooks that refer to it.
#ifndef KVIST_SERVICES_NODE_REPLICATION_H_
#define KVIST_SERVICES_NODE_REPLICATION_H_

#include <cstdint>

#include "services/node/cache_handlers.h"
#include "services/node/node_core.h"

namespace kvist {

// What NodeCoreOptions.make_hooks of every real and simulated node returns. `capacity_bytes` is the tier's.
// Adds the replicator's figures to the node's metrics. The `drain` hook starts a hand-over at its first call with
// `start`, for the time and bytes that the request names, and tells how far it is.
Hooks ReplicationHooks(const NodeParts& parts, uint64_t capacity_bytes);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_REPLICATION_H_
