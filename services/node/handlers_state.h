// What the handlers and their sessions share. Internal to cache_handlers.
#ifndef KVIST_SERVICES_NODE_HANDLERS_STATE_H_
#define KVIST_SERVICES_NODE_HANDLERS_STATE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "services/node/admission.h"
#include "services/node/cache_handlers.h"
#include "services/node/namespaces.h"
#include "services/node/open_sessions.h"
#include "services/node/rpc_timer.h"

namespace kvist {

struct HandlersState {
  explicit HandlersState(CacheHandlersOptions given)
      : options(std::move(given)),
        admission(
            options.admission, options.capacity_bytes, options.runtime,
            [metrics = options.metrics](Bound bound, TenantId tenant) {
              metrics->CountOverload(bound);
              if (bound == Bound::kTenantRequests) metrics->tenants().CountRefusedRequest(tenant);
            },
            TenantRequests(options)) {}

  BlockStore& store() { return *options.store; }
  Metrics& metrics() { return *options.metrics; }
  absl::Time Now() { return options.runtime->Now(); }
  std::shared_ptr<const View> view() const { return options.view ? options.view() : nullptr; }
  uint64_t view_number() const {
    const std::shared_ptr<const View> now = view();
    return now == nullptr ? 0 : now->number.value;
  }
  bool taking_blocks() const { return !options.hooks.taking_blocks || options.hooks.taking_blocks(); }
  v1::Load load() const {
    v1::Load load;
    load.set_streams(admission.gets());
    load.set_queued_bytes(admission.queued_bytes());
    return load;
  }

  // Whose blocks a request concerns that may name a tenant.
  absl::StatusOr<TenantId> TenantFor(const Caller& caller, const std::string& named) const {
    if (options.access != nullptr) return options.access->TenantFor(caller, named);
    if (named.empty()) return TenantId{0};
    return absl::InvalidArgumentError(
        absl::StrCat("the request is for tenant '", named, "', and this node has no access file that names it"));
  }

  // The name of the tenant whose profiles a request concerns that may name one.
  absl::StatusOr<std::string> TenantNameFor(const Caller& caller, const std::string& named) const {
    const absl::StatusOr<TenantId> tenant = TenantFor(caller, named);
    if (!tenant.ok()) return tenant.status();
    return named.empty() ? caller.tenant_name : named;
  }
  std::string TenantName(TenantId tenant) const {
    return options.access == nullptr ? "" : options.access->NameOf(tenant);
  }

  CacheHandlersOptions options;  // constant until the handlers go
  Admission admission;
  Namespaces namespaces;
  OpenSessions sessions;

 private:
  static std::function<uint32_t(TenantId)> TenantRequests(const CacheHandlersOptions& options) {
    if (options.access == nullptr) return nullptr;
    return [access = options.access](TenantId tenant) { return access->MaxRequests(tenant); };
  }
};

// InvalidArgument if the stream's deadline is none, or too far away.
absl::Status CheckStreamDeadline(const HandlersState& state, absl::Time deadline);

absl::StatusOr<std::unique_ptr<GetSession>> OpenGetSession(std::shared_ptr<HandlersState> state, const Caller& caller,
                                                           const v1::GetRequest& request, absl::Time deadline);
absl::StatusOr<std::unique_ptr<PutSession>> OpenPutSession(std::shared_ptr<HandlersState> state, const Caller& caller,
                                                           absl::Time deadline);

absl::StatusOr<std::unique_ptr<ProfilePutSession>> OpenProfilePutSession(std::shared_ptr<HandlersState> state,
                                                                         const Caller& caller, absl::Time deadline);
absl::StatusOr<std::shared_ptr<const std::string>> FindProfile(HandlersState* state, const Caller& caller,
                                                               const v1::GetProfileRequest& request);

absl::StatusOr<v1::ExplainResponse> ExplainBlocks(HandlersState* state, const Caller& caller,
                                                  const v1::ExplainRequest& request);

// Verifies the stored block whole, drops it if it is damaged, counts that and tells the hook. True if it was dropped.
// REQUIRES: no session's lock is held.
absl::StatusOr<bool> DropIfDamaged(HandlersState* state, const Key& key, FoundBy found_by);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_HANDLERS_STATE_H_
