// Tables of the debug pages about the cluster, the namespaces and the bounds of a node. No keys, and no part of one.
//
// Threads pure, but for what an Admission counts.
#ifndef KVIST_SERVICES_NODE_DEBUG_TABLES_H_
#define KVIST_SERVICES_NODE_DEBUG_TABLES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "services/cluster/view.h"
#include "services/node/admission.h"
#include "services/node/debug_pages.h"
#include "services/node/limits.h"
#include "services/node/namespaces.h"
#include "services/node/profile_shelf.h"
#include "services/node/tenant_metrics.h"

namespace kvist {

// The members of the view (null = there is none) with their shares of the keys; `self` is marked.
DebugTable MembersTable(const View* view, const NodeId& self);

// `tenant_name` may be empty: there are no tenants.
DebugTable NamespacesTable(const std::vector<Namespaces::Summary>& namespaces,
                           const std::function<std::string(TenantId)>& tenant_name);

// Those that hold most first.
DebugTable TenantsTable(std::vector<TenantReading> tenants);

DebugTable ProfilesTable(const ProfileShelf& shelf);

DebugTable BoundsTable(const Limits& limits, const AdmissionLimits& admission, uint64_t capacity_bytes,
                       const Admission& now);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_DEBUG_TABLES_H_
