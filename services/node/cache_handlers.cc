#include "services/node/cache_handlers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/block_format.h"
#include "services/cluster/records.h"
#include "services/node/block_check.h"
#include "services/node/debug_tables.h"
#include "services/node/handlers_state.h"
#include "services/node/log.h"
#include "services/node/request_keys.h"
#include "services/transport/miss_reason.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

constexpr size_t kMaxReportedKeys = 64, kMaxAdoptedKeys = 1024, kShownNamespaces = 64;

// Refused acts are logged too. `result` is what the act did, beside its status.
void LogAdminAct(const Caller& caller, std::string_view act, const absl::Status& status, const std::string& result) {
  LogAudit({{"act", std::string(act)},
            {"identity", caller.identity},
            {"role", std::string(RoleName(caller.role))},
            {"tenant", caller.tenant_name},
            {"peer", caller.peer},
            {"code", absl::StatusCodeToString(status.code())},
            {"result", status.ok() ? result : std::string(status.message())}});
}

v1::StoreState ToWire(const StoreStats& stats) {
  v1::StoreState state;
  state.set_capacity_bytes(stats.capacity_bytes);
  state.set_used_bytes(stats.used_bytes);
  state.set_pinned_bytes(stats.pinned_bytes);
  state.set_reserved_bytes(stats.reserved_bytes);
  state.set_blocks(stats.blocks);
  state.set_leases(stats.leases);
  state.set_evicted_blocks(stats.evicted_blocks);
  state.set_evicted_bytes(stats.evicted_bytes);
  return state;
}

}  // namespace

class CacheHandlers::Impl : public HandlersState {
 public:
  using HandlersState::HandlersState;

  // Runs a method's body and counts it.
  template <typename Body>
  auto Counted(Method method, Body body) -> decltype(body()) {
    RpcTimer timer(options.metrics, method, options.runtime, options.slow_call);
    auto response = body();
    timer.SetStatus(response.status());
    return response;
  }

  absl::StatusOr<v1::MatchResponse> Match(const Caller& caller, const v1::MatchRequest& request);
  absl::Status MatchChain(const std::vector<Key>& chain, bool leased, absl::Duration lease, bool explain,
                          v1::ChainMatch* match);
  void AddHotSegments(const std::vector<Key>& chain, size_t hits, v1::MatchResponse* response) const;
  absl::StatusOr<v1::EraseResponse> Erase(const Caller& caller, const v1::EraseRequest& request);
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(const Caller& caller);
  absl::StatusOr<v1::ReportResponse> Report(const Caller& caller, const v1::ReportRequest& request);
  absl::StatusOr<v1::AdoptResponse> Adopt(const Caller& caller, const v1::AdoptRequest& request);
  absl::StatusOr<v1::DrainResponse> Drain(const Caller& caller, const v1::DrainRequest& request);
};

absl::StatusOr<v1::MatchResponse> CacheHandlers::Impl::Match(const Caller& caller, const v1::MatchRequest& request) {
  absl::StatusOr<Pass> pass = admission.EnterMatch(caller.tenant);
  if (!pass.ok()) return pass.status();
  const absl::Duration lease = std::min(absl::Milliseconds(request.lease_ms()), options.limits.max_lease);
  size_t keys_left = options.limits.max_keys;
  if (static_cast<size_t>(request.chains_size()) > keys_left) {
    return absl::InvalidArgumentError(absl::StrCat(request.chains_size(), " chains in one request; at most ", keys_left,
                                                   " are allowed: send several"));
  }
  std::vector<std::vector<Key>> chains;
  for (const v1::Chain& chain : request.chains()) {
    absl::StatusOr<std::vector<Key>> keys = ParseKeys(chain.keys(), keys_left, caller.tenant);
    if (!keys.ok()) return keys.status();
    keys_left -= keys->size();
    chains.push_back(*std::move(keys));
  }
  v1::MatchResponse response;
  for (size_t i = 0; i < chains.size(); ++i) response.add_chains();
  for (size_t i = chains.size(); i-- > 0;) {
    // Without a lease it is a probe (a writer asking what is there), and no lookup of a reader.
    const bool leased = request.lease_ms() > 0;
    v1::ChainMatch* match = response.mutable_chains(static_cast<int>(i));
    if (absl::Status status = MatchChain(chains[i], leased, lease, request.explain(), match); !status.ok()) {
      return status;
    }
  }
  if (options.hooks.hot_nodes) {
    for (size_t i = 0; i < chains.size(); ++i) {
      AddHotSegments(chains[i], response.chains(static_cast<int>(i)).hits(), &response);
    }
  }
  const std::shared_ptr<const View> now = view();
  response.set_view(now == nullptr ? 0 : now->number.value);
  if (now != nullptr && request.view() != 0 && request.view() < now->number.value) {
    *response.mutable_newer_view() = ViewToWire(*now);
  }
  *response.mutable_load() = load();
  return response;
}

absl::Status CacheHandlers::Impl::MatchChain(const std::vector<Key>& chain, bool leased, absl::Duration lease,
                                             bool explain, v1::ChainMatch* match) {
  absl::StatusOr<MatchResult> result = store().Match(chain, lease);
  if (!result.ok()) return result.status();
  match->set_hits(static_cast<uint32_t>(result->hits));
  match->set_hit_bytes(result->hit_bytes);
  match->set_lease(result->lease.value);
  match->set_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(result->lease_ttl)));
  const v1::MissReason miss = kvist::ToWire(result->miss);
  if (explain) match->set_first_miss(miss);
  if (leased) {
    LookupMetrics& lookups = metrics().lookups();
    lookups.CountHits(LookupOp::kMatch, {result->hits, result->hit_tokens, result->hit_bytes});
    lookups.CountMisses(LookupOp::kMatch, miss, chain.size() - result->hits);
    lookups.CountDepth(result->hits);
    if (!chain.empty()) metrics().tenants().CountMatch(chain[0].tenant, result->hits, chain.size() - result->hits);
  }
  return absl::OkStatus();
}

void CacheHandlers::Impl::AddHotSegments(const std::vector<Key>& chain, size_t hits,
                                         v1::MatchResponse* response) const {
  for (size_t i = 0; i < std::min(hits, chain.size()); ++i) {
    const std::vector<NodeId> nodes = options.hooks.hot_nodes(chain[i]);
    if (nodes.empty()) continue;
    v1::HotSegment* hot = response->add_hot();
    hot->set_head(chain[i].bytes.data(), Key::kBytes);
    for (const NodeId& node : nodes) hot->add_nodes(node.value);
  }
}

absl::StatusOr<v1::ReportResponse> CacheHandlers::Impl::Report(const Caller& caller, const v1::ReportRequest& request) {
  const absl::StatusOr<TenantId> tenant = TenantFor(caller, request.tenant());
  if (!tenant.ok()) return tenant.status();
  const absl::StatusOr<std::vector<Key>> keys = ParseKeys(request.keys(), kMaxReportedKeys, *tenant);
  if (!keys.ok()) return keys.status();
  uint64_t bytes = 0;
  for (const Key& key : *keys) {
    const absl::StatusOr<Lookup> lookup = store().Get(key, /*touch=*/false);
    if (!lookup.ok()) return lookup.status();
    if (lookup->block != nullptr) bytes += lookup->block->size_bytes();
  }
  if (absl::Status status = admission.EnterReport(bytes); !status.ok()) return status;
  v1::ReportResponse response;
  for (const Key& key : *keys) {
    const absl::StatusOr<bool> dropped = kvist::DropIfDamaged(this, key, FoundBy::kReport);
    if (!dropped.ok()) return dropped.status();
    response.set_damaged(response.damaged() + (*dropped ? 1 : 0));
    if (!*dropped && options.hooks.doubted) options.hooks.doubted(key);
  }
  return response;
}

absl::StatusOr<v1::AdoptResponse> CacheHandlers::Impl::Adopt(const Caller& caller, const v1::AdoptRequest& request) {
  const absl::StatusOr<std::vector<Key>> keys = ParseKeys(request.keys(), kMaxAdoptedKeys, caller.tenant);
  if (!keys.ok()) return keys.status();
  if (request.segment_heads().size() != request.keys().size()) {
    return absl::InvalidArgumentError(absl::StrCat("segment_heads has ", request.segment_heads().size(),
                                                   " bytes; it names one head for each of the ", keys->size(),
                                                   " keys, 32 bytes each"));
  }
  if (request.namespace_digest().size() != 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace_digest has ", request.namespace_digest().size(), " bytes; it is 16 bytes"));
  }
  if (request.from() == options.identity.node_id) {
    return absl::InvalidArgumentError(absl::StrCat("'", request.from(), "' is this node: it cannot fetch from itself"));
  }
  v1::AdoptResponse response;
  if (options.hooks.adopt && taking_blocks()) response.set_accepted(options.hooks.adopt(caller.tenant, request));
  return response;
}

absl::StatusOr<v1::EraseResponse> CacheHandlers::Impl::Erase(const Caller& caller, const v1::EraseRequest& request) {
  const auto audit = [&](absl::Status status, int erased) {
    LogAdminAct(caller, "erase", status,
                absl::StrCat(erased, " blocks erased of ", request.keys().size() / Key::kBytes));
    return status;
  };
  if (absl::Status status = CheckMay(caller, Permission::kErase); !status.ok()) return audit(std::move(status), 0);
  const absl::StatusOr<std::vector<Key>> keys = ParseKeys(request.keys(), options.limits.max_keys, caller.tenant);
  if (!keys.ok()) return audit(keys.status(), 0);
  v1::EraseResponse response;
  int count = 0;
  for (const Key& key : *keys) {
    const absl::StatusOr<bool> erased = store().Erase(key);
    if (!erased.ok()) return audit(erased.status(), count);
    response.add_erased(*erased);
    count += *erased;
  }
  response.set_view(view_number());
  audit(absl::OkStatus(), count).IgnoreError();
  return response;
}

absl::StatusOr<v1::ServerInfoResponse> CacheHandlers::Impl::ServerInfo(const Caller& caller) {
  const absl::StatusOr<StoreStats> stats = store().Stats();
  if (!stats.ok()) return stats.status();
  const Limits& limits = options.limits;
  v1::ServerInfoResponse response;
  response.set_version(options.identity.version);
  response.set_node_id(options.identity.node_id);
  response.set_view(view_number());
  response.set_format_version(kFormatVersion);
  for (const Codec codec : kKnownCodecs) response.add_codecs(static_cast<v1::Codec>(codec));
  response.set_max_keys(limits.max_keys);
  response.set_max_block_bytes(limits.max_block_bytes);
  response.set_max_part_bytes(kMaxPartBytes);
  response.set_max_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(limits.max_lease)));
  if (caller.tenant == 0) {
    *response.mutable_store() = ToWire(*stats);
  } else {  // what others hold is not the tenant's to know
    const uint64_t quota_bytes = options.access->host_quotas()->max_bytes(caller.tenant);
    response.mutable_store()->set_capacity_bytes(std::min(quota_bytes, options.capacity_bytes));
    if (options.held) {
      const TenantHolding held = options.held(caller.tenant);
      response.mutable_store()->set_used_bytes(held.bytes);
      response.mutable_store()->set_blocks(held.blocks);
    }
  }
  *response.mutable_load() = load();
  if (!options.device_info) return response;
  if (std::optional<v1::DeviceInfo> device = options.device_info()) *response.mutable_device() = *std::move(device);
  return response;
}

absl::StatusOr<v1::DrainResponse> CacheHandlers::Impl::Drain(const Caller& caller, const v1::DrainRequest& request) {
  const auto drain = [&]() -> absl::StatusOr<v1::DrainResponse> {
    if (absl::Status status = CheckMay(caller, Permission::kDrain); !status.ok()) return status;
    if (!options.hooks.drain) return absl::UnimplementedError("this node cannot be drained: it is no member");
    return options.hooks.drain(request);
  };
  absl::StatusOr<v1::DrainResponse> response = drain();
  if (request.start()) LogAdminAct(caller, "drain", response.status(), "draining");
  return response;
}

absl::StatusOr<bool> DropIfDamaged(HandlersState* state, const Key& key, FoundBy found_by) {
  absl::StatusOr<Lookup> lookup = state->store().Get(key, /*touch=*/false);
  if (!lookup.ok()) return lookup.status();
  if (lookup->block == nullptr) return false;
  std::string_view cause;
  const absl::Status whole =
      CheckBeforeCommit(lookup->block->pieces(), lookup->block->size_bytes(), key, /*namespace_digest=*/"", &cause);
  if (whole.ok()) return false;
  // If the key was erased and stored anew since, a good block goes: a miss, and nothing worse.
  const absl::StatusOr<bool> erased = state->store().Erase(key, MissReason::kDamaged);
  if (!erased.ok()) return erased.status();
  if (!*erased) return false;
  state->metrics().CountDamaged(found_by);
  Log(LogLevel::kWarning, "damaged block dropped", {{"key", key.Hex()}, {"why", std::string(whole.message())}});
  if (state->options.hooks.damaged && state->taking_blocks()) state->options.hooks.damaged(key, lookup->traits);
  return true;
}

CacheHandlers::CacheHandlers(CacheHandlersOptions options) : impl_(std::make_shared<Impl>(std::move(options))) {}
CacheHandlers::~CacheHandlers() {
  EndSessions();
  // What is left of the sessions must not lead to what goes with the handlers.
  impl_->options.hooks = {};
  impl_->options.view = nullptr;
}

absl::StatusOr<v1::MatchResponse> CacheHandlers::Match(const Caller& caller, const v1::MatchRequest& request) {
  return impl_->Counted(Method::kMatch, [&] { return impl_->Match(caller, request); });
}

absl::StatusOr<v1::EraseResponse> CacheHandlers::Erase(const Caller& caller, const v1::EraseRequest& request) {
  return impl_->Counted(Method::kErase, [&] { return impl_->Erase(caller, request); });
}

absl::StatusOr<v1::ReleaseResponse> CacheHandlers::Release(const Caller& caller, const v1::ReleaseRequest& request) {
  return impl_->Counted(Method::kRelease, [&]() -> absl::StatusOr<v1::ReleaseResponse> {
    if (request.leases_size() > static_cast<int>(impl_->options.limits.max_keys)) {
      return absl::InvalidArgumentError(absl::StrCat(request.leases_size(), " leases in one request; at most ",
                                                     impl_->options.limits.max_keys, " are allowed: send several"));
    }
    for (int i = request.leases_size(); i-- > 0;) {
      if (absl::Status status = impl_->store().Release({request.leases(i), caller.tenant}); !status.ok()) return status;
    }
    return v1::ReleaseResponse();
  });
}

absl::StatusOr<v1::ServerInfoResponse> CacheHandlers::ServerInfo(const Caller& caller) {
  return impl_->Counted(Method::kServerInfo, [&] { return impl_->ServerInfo(caller); });
}

absl::StatusOr<v1::ExplainResponse> CacheHandlers::Explain(const Caller& caller, const v1::ExplainRequest& request) {
  return impl_->Counted(Method::kExplain, [&]() -> absl::StatusOr<v1::ExplainResponse> {
    const absl::StatusOr<Pass> pass = impl_->admission.EnterExplain(caller.tenant);
    if (!pass.ok()) return pass.status();
    return ExplainBlocks(impl_.get(), caller, request);
  });
}

absl::StatusOr<v1::DescribeResponse> CacheHandlers::Describe(const Caller& caller, const v1::DescribeRequest& request) {
  return impl_->Counted(Method::kDescribe, [&]() -> absl::StatusOr<v1::DescribeResponse> {
    const absl::StatusOr<Pass> pass = impl_->admission.EnterExplain(caller.tenant);
    if (!pass.ok()) return pass.status();
    absl::Status status =
        impl_->namespaces.Describe(caller.tenant, request.namespace_digest(), request.namespace_text());
    if (!status.ok()) return status;
    return v1::DescribeResponse();
  });
}

absl::StatusOr<v1::ReportResponse> CacheHandlers::Report(const Caller& caller, const v1::ReportRequest& request) {
  return impl_->Counted(Method::kReport, [&] { return impl_->Report(caller, request); });
}

absl::StatusOr<v1::GetViewResponse> CacheHandlers::GetView(const Caller& caller) {
  return impl_->Counted(Method::kGetView, [&]() -> absl::StatusOr<v1::GetViewResponse> {
    v1::GetViewResponse response;
    const std::shared_ptr<const View> view = impl_->view();
    if (view != nullptr) *response.mutable_view() = ViewToWire(*view);
    return response;
  });
}

absl::StatusOr<v1::AdoptResponse> CacheHandlers::Adopt(const Caller& caller, const v1::AdoptRequest& request) {
  return impl_->Counted(Method::kAdopt, [&] { return impl_->Adopt(caller, request); });
}

absl::StatusOr<v1::DrainResponse> CacheHandlers::Drain(const Caller& caller, const v1::DrainRequest& request) {
  return impl_->Counted(Method::kDrain, [&] { return impl_->Drain(caller, request); });
}

void CacheHandlers::CountRefused(Method method, const absl::Status& why) {
  RpcTimer(impl_->options.metrics, method, impl_->options.runtime, impl_->options.slow_call).SetStatus(why);
}

absl::StatusOr<std::unique_ptr<GetSession>> CacheHandlers::OpenGet(const Caller& caller, const v1::GetRequest& request,
                                                                   absl::Time deadline) {
  return OpenGetSession(impl_, caller, request, deadline);
}

absl::StatusOr<std::unique_ptr<PutSession>> CacheHandlers::OpenPut(const Caller& caller, absl::Time deadline) {
  return OpenPutSession(impl_, caller, deadline);
}

absl::StatusOr<std::unique_ptr<ProfilePutSession>> CacheHandlers::OpenPutProfile(const Caller& caller,
                                                                                 absl::Time deadline) {
  return OpenProfilePutSession(impl_, caller, deadline);
}

absl::StatusOr<std::shared_ptr<const std::string>> CacheHandlers::GetProfile(const Caller& caller,
                                                                             const v1::GetProfileRequest& request,
                                                                             absl::Time deadline) {
  return impl_->Counted(Method::kGetProfile, [&]() -> absl::StatusOr<std::shared_ptr<const std::string>> {
    if (absl::Status status = CheckStreamDeadline(*impl_, deadline); !status.ok()) return status;
    return FindProfile(impl_.get(), caller, request);
  });
}

absl::StatusOr<bool> CacheHandlers::DropIfDamaged(const Key& key, FoundBy found_by) {
  return kvist::DropIfDamaged(impl_.get(), key, found_by);
}

void CacheHandlers::AddDebugPages(DebugPages* pages) {
  std::function<std::string(TenantId)> tenant_name;
  if (impl_->options.access != nullptr) {
    tenant_name = [access = impl_->options.access](TenantId tenant) { return access->NameOf(tenant); };
  }
  pages->Add("namespaces", [state = impl_, tenant_name] {
    return NamespacesTable(state->namespaces.Largest(kShownNamespaces), tenant_name);
  });
  if (impl_->options.profiles != nullptr) {
    pages->Add("profiles", [state = impl_] { return ProfilesTable(*state->options.profiles); });
  }
  pages->Add("bounds", [state = impl_] {
    return BoundsTable(state->options.limits, state->options.admission, state->options.capacity_bytes,
                       state->admission);
  });
}

void CacheHandlers::Sweep() {
  const absl::Time now = impl_->Now();
  for (const std::shared_ptr<OpenSession>& session : impl_->sessions.All()) session->Sweep(now);
}

void CacheHandlers::EndSessions() {
  for (const std::shared_ptr<OpenSession>& session : impl_->sessions.All()) {
    session->End(absl::AbortedError("the node is stopping"));
  }
}

absl::Time CacheHandlers::Now() const { return impl_->options.runtime->Now(); }
v1::Load CacheHandlers::load() const { return impl_->load(); }
uint32_t CacheHandlers::requests(TenantId tenant) const { return impl_->admission.requests(tenant); }

}  // namespace kvist
