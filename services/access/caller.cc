#include "services/access/caller.h"

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

bool May(const Caller& caller, Permission permission) {
  const Role role = caller.role;
  if (role == Role::kAnyone) return true;
  switch (permission) {
    case Permission::kRead:
      return true;
    case Permission::kWrite:
      return role != Role::kReader;
    case Permission::kCopy:
      return role == Role::kNode;
    case Permission::kErase:
      return role == Role::kAdmin;
    case Permission::kDrain:
      return role == Role::kAdmin && caller.tenant == 0;
  }
  return false;
}

const char* Needed(Permission permission) {
  switch (permission) {
    case Permission::kRead:
      return "reading needs the role reader";
    case Permission::kWrite:
      return "writing needs the role writer or admin";
    case Permission::kCopy:
      return "copies come from nodes only: the role node";
    case Permission::kErase:
      return "erasing needs the role admin";
    case Permission::kDrain:
      return "draining needs the role admin, and an identity of no tenant";
  }
  return "";
}

}  // namespace

std::string_view RoleName(Role role) {
  constexpr std::string_view kNames[] = {"reader", "writer", "admin", "node", "anyone"};
  return kNames[static_cast<size_t>(role)];
}

const Caller& Caller::Anyone() {
  static const Caller* const anyone = new Caller;
  return *anyone;
}

absl::Status CheckMay(const Caller& caller, Permission permission) {
  if (May(caller, permission)) return absl::OkStatus();
  const std::string tenant = caller.tenant_name.empty() ? "" : absl::StrCat(" of tenant '", caller.tenant_name, "'");
  const std::string role(RoleName(caller.role));
  return absl::PermissionDeniedError(
      absl::StrCat("'", caller.identity, "' is a ", role, tenant, "; ", Needed(permission)));
}

bool ActsForTenants(const Caller& caller) {
  return caller.role == Role::kNode || caller.role == Role::kAnyone ||
         (caller.role == Role::kAdmin && caller.tenant == 0);
}

}  // namespace kvist
