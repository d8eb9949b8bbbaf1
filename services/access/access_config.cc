#include "services/access/access_config.h"

#include <openssl/sha.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/cluster/byte_size.h"

namespace kvist {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostIdentities = 65536;
constexpr uint32_t kMostShare = 1'000'000, kMostRequests = 1'000'000;
constexpr char kHashPrefix[] = "sha256:";

absl::Status Wrong(absl::string_view where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status CheckFields(absl::string_view where, const Json& object, const std::set<std::string>& known) {
  if (!object.is_object()) return Wrong(where, "is no JSON object");
  for (const auto& [name, value] : object.items()) {
    if (known.count(name) == 0) return Wrong(where, absl::StrCat("has an unknown field '", name, "'"));
  }
  return absl::OkStatus();
}

// Names stand in labels of metrics and in logs.
bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
}

absl::Status TakeBytes(absl::string_view where, const Json& object, const char* field, uint64_t* out) {
  if (!object.contains(field)) return absl::OkStatus();
  const Json& value = object[field];
  if (!value.is_string()) return Wrong(where, absl::StrCat(field, " is a size in quotes, for example \"8GiB\""));
  absl::StatusOr<uint64_t> bytes = ParseByteSize(value.get<std::string>());
  if (!bytes.ok()) return Wrong(where, absl::StrCat(field, ": ", bytes.status().message()));
  *out = *bytes;
  return absl::OkStatus();
}

absl::Status TakeCount(absl::string_view where, const Json& object, const char* field, uint32_t most, uint32_t* out) {
  if (!object.contains(field)) return absl::OkStatus();
  const Json& value = object[field];
  if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 || value.get<uint64_t>() > most) {
    return Wrong(where, absl::StrCat(field, " is a whole number of 1 to ", most));
  }
  *out = value.get<uint32_t>();
  return absl::OkStatus();
}

absl::StatusOr<TenantLimits> ParseTenant(const std::string& name, const Json& object) {
  const std::string where = absl::StrCat("tenant '", name, "'");
  if (!IsName(name)) return Wrong(where, "a tenant's name has 1 to 63 letters, digits, '-', '_' and '.'");
  TenantLimits limits;
  absl::Status status = CheckFields(where, object, {"host_bytes", "device_bytes", "share", "requests"});
  if (status.ok()) status = TakeBytes(where, object, "host_bytes", &limits.host_bytes);
  if (status.ok()) status = TakeBytes(where, object, "device_bytes", &limits.device_bytes);
  if (status.ok()) status = TakeCount(where, object, "share", kMostShare, &limits.share);
  if (status.ok()) status = TakeCount(where, object, "requests", kMostRequests, &limits.requests);
  if (!status.ok()) return status;
  return limits;
}

absl::Status CheckIdentity(const std::string& where, const std::string& identity) {
  const absl::string_view text = identity;
  const size_t stars = std::count(identity.begin(), identity.end(), '*');
  if (absl::StartsWith(text, "token:")) {
    if (IsName(std::string(text.substr(6)))) return absl::OkStatus();
    return Wrong(where, "a token's name has 1 to 63 letters, digits, '-', '_' and '.', and no '*'");
  }
  if (absl::StartsWith(text, "spiffe://") && text.size() > 9) {
    if (stars == 0 || (stars == 1 && absl::EndsWith(text, "/*") && text.size() > 11)) return absl::OkStatus();
    return Wrong(where, "a '*' stands only at the end of a SPIFFE name, after a '/'");
  }
  if (absl::StartsWith(text, "dns:") && text.size() > 4) {
    if (stars == 0 || (stars == 1 && absl::StartsWith(text, "dns:*.") && text.size() > 6)) return absl::OkStatus();
    return Wrong(where, "a '*' stands only for the first label of a DNS name");
  }
  return Wrong(where, "an identity is spiffe://..., dns:... or token:...");
}

absl::StatusOr<Role> ParseRole(const std::string& where, const Json& object) {
  for (const Role role : {Role::kReader, Role::kWriter, Role::kAdmin, Role::kNode}) {
    if (object.contains("role") && object["role"] == std::string(RoleName(role))) return role;
  }
  return Wrong(where, "role is reader, writer, admin or node");
}

absl::StatusOr<IdentityRule> ParseIdentity(size_t number, const Json& object,
                                           const std::map<std::string, TenantLimits>& tenants) {
  std::string where = absl::StrCat("identity ", number + 1);
  if (absl::Status status = CheckFields(where, object, {"identity", "tenant", "role"}); !status.ok()) return status;
  if (!object.contains("identity") || !object["identity"].is_string()) return Wrong(where, "has no field 'identity'");
  IdentityRule rule;
  rule.identity = object["identity"].get<std::string>();
  where = absl::StrCat("identity '", rule.identity, "'");
  if (absl::Status status = CheckIdentity(where, rule.identity); !status.ok()) return status;
  absl::StatusOr<Role> role = ParseRole(where, object);
  if (!role.ok()) return role.status();
  rule.role = *role;
  if (object.contains("tenant")) {
    if (!object["tenant"].is_string()) return Wrong(where, "tenant is a name in quotes");
    rule.tenant = object["tenant"].get<std::string>();
    if (tenants.count(rule.tenant) == 0) {
      return Wrong(where, absl::StrCat("its tenant '", rule.tenant, "' is not among \"tenants\": add it there"));
    }
  }
  if (rule.role == Role::kNode && !rule.tenant.empty()) {
    return Wrong(where, "a node keeps the blocks of all tenants: leave \"tenant\" out");
  }
  if (rule.tenant.empty() && (rule.role == Role::kReader || rule.role == Role::kWriter)) {
    return Wrong(where, absl::StrCat("a ", std::string(RoleName(rule.role)), " belongs to a tenant: name it"));
  }
  return rule;
}

}  // namespace

absl::StatusOr<AccessConfig> ParseAccess(const std::string& json) {
  const Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return absl::InvalidArgumentError("it is no JSON");
  if (absl::Status status = CheckFields("the file", root, {"tenants", "identities"}); !status.ok()) return status;
  AccessConfig config;
  if (root.contains("tenants") && !root["tenants"].is_object()) return Wrong("tenants", "is an object of names");
  if (root.contains("tenants")) {
    for (const auto& [name, value] : root["tenants"].items()) {
      absl::StatusOr<TenantLimits> limits = ParseTenant(name, value);
      if (!limits.ok()) return limits.status();
      config.tenants.emplace(name, *limits);
    }
  }
  if (!root.contains("identities") || !root["identities"].is_array() || root["identities"].empty()) {
    return Wrong("identities", "is a list with at least one identity: without one nobody could call");
  }
  if (root["identities"].size() > kMostIdentities) {
    return Wrong("identities", absl::StrCat("has more than ", kMostIdentities, " lines"));
  }
  std::set<std::string> named;
  for (size_t i = 0; i < root["identities"].size(); ++i) {
    absl::StatusOr<IdentityRule> rule = ParseIdentity(i, root["identities"][i], config.tenants);
    if (!rule.ok()) return rule.status();
    if (!named.insert(rule->identity).second) {
      return Wrong(absl::StrCat("identity '", rule->identity, "'"), "is named twice");
    }
    config.identities.push_back(*std::move(rule));
  }
  return config;
}

absl::StatusOr<TokenNames> ParseTokens(const std::string& text) {
  TokenNames tokens;
  std::set<std::string> names;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::string where = absl::StrCat("line ", ++number);
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() != 2 || !absl::StartsWith(words[1], kHashPrefix) || !IsName(words[0])) {
      // What stands there may be a token: it is not repeated.
      return Wrong(where, "is not 'name sha256:<64 hex digits>'; `kvist token NAME` prints one");
    }
    const std::string hex = words[1].substr(sizeof(kHashPrefix) - 1);
    if (hex.size() != 64 || !std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit)) {
      return Wrong(where, "has no 64 hex digits behind sha256:");
    }
    const std::string bytes = absl::HexStringToBytes(hex);
    TokenHash hash;
    std::copy(bytes.begin(), bytes.end(), hash.begin());
    if (!names.insert(words[0]).second) return Wrong(where, absl::StrCat("'", words[0], "' is named twice"));
    if (!tokens.emplace(hash, words[0]).second) return Wrong(where, "has the hash of an earlier line");
  }
  return tokens;
}

std::string TokensWithoutLine(const AccessConfig& config, const TokenNames& tokens) {
  std::set<std::string> lines;
  for (const auto& [hash, name] : tokens) lines.insert(name);
  std::vector<std::string> missing;
  for (const IdentityRule& rule : config.identities) {
    if (absl::StartsWith(rule.identity, "token:") && lines.count(rule.identity.substr(6)) == 0) {
      missing.push_back(absl::StrCat("'", rule.identity, "'"));
    }
  }
  if (missing.empty()) return "";
  return absl::StrCat("nobody can be ", absl::StrJoin(missing, " or "), ": the token file has no such line");
}

TokenHash HashToken(const std::string& token) {
  TokenHash hash;
  SHA256(reinterpret_cast<const uint8_t*>(token.data()), token.size(), hash.data());
  return hash;
}

}  // namespace kvist
