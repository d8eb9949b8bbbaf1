// Goal    An access file and a token file are read as they are written or refused with a sentence, in memory that grows with
//         their length; nothing of a token file's line is repeated in it.
// Input   The file; it is read as both.
// Method  What was accepted keeps what the headers promise: every identity's tenant is there, roles have the tenants that
//         they need, no name is there twice; and an Access made of it knows each tenant by one number.
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "services/access/access.h"
#include "services/access/access_config.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate accepted("an access file"), patterns("one with a pattern"), refused("one that is refused"),
    tokens_read("a token file"), tokens_refused("one that is refused");

void CheckTokens(const std::string& text) {
  const absl::StatusOr<TokenNames> tokens = ParseTokens(text);
  if (!tokens.ok()) {
    KVIST_HOLDS(absl::StartsWith(tokens.status().message(), "line "), tokens.status().message());
    return tokens_refused.Pass();
  }
  std::set<std::string> names;
  for (const auto& [hash, name] : *tokens) KVIST_HOLDS(names.insert(name).second, "two tokens of one name");
  if (!tokens->empty()) tokens_read.Pass();
}

void CheckAccess(const std::string& text) {
  const fuzz::AllocationMeter meter;
  const absl::StatusOr<AccessConfig> config = ParseAccess(text);
  KVIST_HOLDS(meter.bytes() <= 1024 * text.size() + 65536, meter.bytes(), " bytes for ", text.size());
  if (!config.ok()) {
    KVIST_HOLDS(!config.status().message().empty(), "refused without a word");
    return refused.Pass();
  }
  KVIST_HOLDS(!config->identities.empty(), "nobody could call");
  std::set<std::string> names;
  bool pattern = false;
  for (const IdentityRule& rule : config->identities) {
    KVIST_HOLDS(names.insert(rule.identity).second, "named twice: ", rule.identity);
    KVIST_HOLDS(rule.tenant.empty() || config->tenants.count(rule.tenant) == 1, "no such tenant: ", rule.tenant);
    KVIST_HOLDS(rule.tenant.empty() ? rule.role >= Role::kAdmin : rule.role <= Role::kAdmin,
                "a role without its tenant");
    pattern = pattern || absl::StrContains(rule.identity, '*');
  }
  const absl::StatusOr<std::shared_ptr<Access>> access = Access::Of(*config);
  if (!access.ok()) return;  // more tenants than are kept apart
  std::set<TenantId> numbers;
  for (const TenantInfo& tenant : (*access)->tenants()) {
    KVIST_HOLDS(tenant.id != 0 && numbers.insert(tenant.id).second, "two tenants of one number");
    KVIST_HOLDS((*access)->NameOf(tenant.id) == tenant.name, "a number of another tenant");
  }
  (pattern ? patterns : accepted).Pass();
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text = kvist::fuzz::Input(data, size).RestText();
  kvist::CheckAccess(text);
  kvist::CheckTokens(text);
  return 0;
}
