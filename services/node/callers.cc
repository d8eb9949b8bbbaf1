#include "services/node/callers.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr char kAuthorization[] = "authorization";
constexpr absl::string_view kBearer = "bearer ";  // as RFC 6750 names it; its case does not matter

std::vector<std::string> NamesOf(const grpc::AuthContext& context) {
  std::vector<std::string> names;
  for (const grpc::string_ref& uri : context.FindPropertyValues(GRPC_PEER_SPIFFE_ID_PROPERTY_NAME)) {
    names.emplace_back(uri.data(), uri.size());
  }
  for (const grpc::string_ref& dns : context.FindPropertyValues(GRPC_PEER_DNS_PROPERTY_NAME)) {
    names.push_back(absl::StrCat("dns:", absl::string_view(dns.data(), dns.size())));
  }
  return names;
}

std::string TokenOf(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find(kAuthorization);
  if (found == context.client_metadata().end()) return "";
  const absl::string_view value(found->second.data(), found->second.size());
  return absl::StartsWithIgnoreCase(value, kBearer) ? std::string(value.substr(kBearer.size())) : "";
}

}  // namespace

absl::StatusOr<Caller> Callers::Of(const grpc::CallbackServerContext& context) const {
  Credentials credentials;
  const std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  if (auth != nullptr) credentials.names = NamesOf(*auth);
  credentials.peer = context.peer();
  if (access_ == nullptr) {
    Caller caller = Caller::Anyone();
    if (!credentials.names.empty()) caller.identity = credentials.names.front();
    caller.peer = std::move(credentials.peer);
    return caller;
  }
  credentials.token = TokenOf(context);
  return access_->Identify(credentials);
}

}  // namespace kvist
