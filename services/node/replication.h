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
// The `drain` hook starts a hand-over at its first call with `start`, and tells how far it is; it is over when all
// blocks are sent or have failed, or when no time is left.
Hooks ReplicationHooks(const NodeParts& parts, uint64_t capacity_bytes, absl::Duration drain_deadline,
                       uint64_t drain_budget_bytes);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_REPLICATION_H_
