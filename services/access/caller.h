// Who calls a node, whose blocks that concerns, and what it may do.
//
// Roles   each row may also do what the row above may, except the last two:
//         reader  Match, Get, Release, Explain, Describe, Report, Adopt, ServerInfo, GetView,
//                 GetProfile
//         writer  Put, PutProfile
//         admin   Erase; Drain, if it belongs to no tenant
//         node    what a writer may, copies, and all of that for every tenant; neither Erase nor Drain
//         anyone  everything: where no access file is given, and for the node itself
// Threads plain values and pure functions.
#ifndef KVIST_SERVICES_ACCESS_CALLER_H_
#define KVIST_SERVICES_ACCESS_CALLER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "cachestore/tenants.h"

namespace kvist {

enum class Role : uint8_t { kReader, kWriter, kAdmin, kNode, kAnyone };
std::string_view RoleName(Role role);  // "reader", ...

struct Caller {
  std::string identity;  // "spiffe://...", "dns:a.example", "token:ci"; "" = none was shown
  std::string peer;      // where the call comes from, for the audit log
  TenantId tenant = 0;   // 0 = none
  std::string tenant_name;
  Role role = Role::kAnyone;

  static const Caller& Anyone();
};

enum class Permission : uint8_t { kRead, kWrite, kCopy, kErase, kDrain };

// Errors: PermissionDenied  the sentence names the identity, its role and the one that is needed.
absl::Status CheckMay(const Caller& caller, Permission permission);

// True of those who may name a tenant in a request: nodes, and an admin of no tenant.
bool ActsForTenants(const Caller& caller);

}  // namespace kvist

#endif  // KVIST_SERVICES_ACCESS_CALLER_H_
