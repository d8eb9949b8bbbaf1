#include "services/worker/namespace_text.h"

#include <openssl/sha.h>

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "services/worker/json_text.h"

namespace kvist {
namespace {

std::string Hex(const uint8_t* bytes, size_t size) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes), size));
}

std::string SaltFingerprint(const std::string& salt) {
  if (salt.empty()) return "";
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const uint8_t*>(salt.data()), salt.size(), digest);
  return "sha256:" + Hex(digest, 8);
}

}  // namespace

std::string NamespaceText(const Namespace& ns) {
  const nlohmann::ordered_json text = {{"model", ns.model},
                                       {"weights_digest", ns.weights_digest},
                                       {"dtype", std::string(DtypeName(ns.dtype))},
                                       {"layers", ns.layers},
                                       {"heads", ns.heads},
                                       {"head_dim", ns.head_dim},
                                       {"rope", ns.rope},
                                       {"tp_rank", ns.tp_rank},
                                       {"tp_size", ns.tp_size},
                                       {"pp_rank", ns.pp_rank},
                                       {"pp_size", ns.pp_size},
                                       {"tokens_per_block", ns.tokens_per_block},
                                       {"profile_digest", Hex(ns.profile_digest.data(), ns.profile_digest.size())},
                                       {"tenant_salt", SaltFingerprint(ns.tenant_salt)}};
  std::string dumped = JsonText(text);
  return dumped.size() <= kMaxNamespaceText ? dumped : "";
}

}  // namespace kvist
