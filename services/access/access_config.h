// The two files that say who may do what, as they are written.
//
// The access file, JSON:
//   {"tenants": {"team-a": {"host_bytes": "8GiB", "device_bytes": "1GiB", "share": 2, "requests": 64}, "team-b": {}},
//    "identities": [{"identity": "spiffe://corp/ns/a/sa/vllm", "tenant": "team-a", "role": "writer"},
//                   {"identity": "dns:*.b.example", "tenant": "team-b", "role": "writer"},
//                   {"identity": "token:ci", "tenant": "team-b", "role": "reader"},
//                   {"identity": "dns:*.kvist-nodes.kvist.svc", "role": "node"},
//                   {"identity": "dns:ops.example", "role": "admin"}]}
//   host_bytes, device_bytes  that the tenant's blocks may take in the tier; absent = as much as there is
//   share                     its part when a tier is full, against the others' (tenants.h); absent = 1
//   requests                  that it may have under way; absent = as many as the node takes
//   identity                  "spiffe://..." and "dns:..." are names in the caller's certificate (URI, DNS), "token:..."
//                             a name in the token file. "dns:*.x" stands for one label more, "spiffe://.../*" for all
//                             that begins so. The first line that fits counts, and names without * go first.
//
// The token file has one line for each: a name, and the SHA-256 of its token, for example
//   ci sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
// A token is 32 random bytes in hex (`kvist token ci` makes one), so its hash needs no salt and no work factor.
//
// Errors  InvalidArgument, a sentence for the first thing that is wrong: what it is, where, and what would be right.
#ifndef KVIST_SERVICES_ACCESS_ACCESS_CONFIG_H_
#define KVIST_SERVICES_ACCESS_ACCESS_CONFIG_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "cachestore/tenants.h"
#include "services/access/caller.h"

namespace kvist {

struct TenantLimits {
  uint64_t host_bytes = TenantQuotas::kNoBound, device_bytes = TenantQuotas::kNoBound;
  uint32_t share = 1;
  uint32_t requests = 0;  // 0 = no bound of its own

  bool operator==(const TenantLimits&) const = default;
};

struct IdentityRule {
  std::string identity;  // as written
  std::string tenant;    // "" = none
  Role role = Role::kReader;

  bool operator==(const IdentityRule&) const = default;
};

struct AccessConfig {
  std::map<std::string, TenantLimits> tenants;
  std::vector<IdentityRule> identities;

  bool operator==(const AccessConfig&) const = default;
};

using TokenHash = std::array<uint8_t, 32>;
using TokenNames = absl::flat_hash_map<TokenHash, std::string>;

absl::StatusOr<AccessConfig> ParseAccess(const std::string& json);
absl::StatusOr<TokenNames> ParseTokens(const std::string& text);
// A sentence that names the token identities without a line in the token file; "" if there is none. It is no error: to take
// a line out is how a token is revoked.
std::string TokensWithoutLine(const AccessConfig& config, const TokenNames& tokens);

TokenHash HashToken(const std::string& token);

}  // namespace kvist

#endif  // KVIST_SERVICES_ACCESS_ACCESS_CONFIG_H_
