// All that a node does for a caller, on protobuf's messages and without a wire: checks requests, calls the store, says
// what became of a block. kvistd's gRPC services translate to it; LocalChannel and the simulation call it as it is.
//
// Units   as in proto/kvist/v1/*.proto.
// Threads every method from any thread. Nothing waits: what cannot be done now is refused with a hint.
// Bounds  a request holds at most Limits.max_keys keys; AdmissionLimits bound what is under way.
// Callers each method is told who calls; keys are those of the caller's tenant (services/access/caller.h). Of a block of
//         another tenant, and of one that was never stored, the answers are the same, byte for byte.
// Errors  of every method: InvalidArgument  the request is wrong, and the sentence says how it would be right;
//                          PermissionDenied  the caller's role does not allow it;
//                          ResourceExhausted with a retry hint (transport/retry_hint.h).
#ifndef KVIST_SERVICES_NODE_CACHE_HANDLERS_H_
#define KVIST_SERVICES_NODE_CACHE_HANDLERS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "kvist/v1/cache.pb.h"
#include "kvist/v1/cluster.pb.h"
#include "services/access/access.h"
#include "services/access/caller.h"
#include "services/cluster/view.h"
#include "services/node/limits.h"
#include "services/node/metrics.h"
#include "services/node/sessions.h"
#include "services/runtime/runtime.h"

namespace kvist {

class DebugPages;
class ProfileShelf;

struct ServiceIdentity {
  std::string version, node_id;
};

// What other parts of the node do at the handlers' events. Each may be empty, is called on the caller's thread, and
// must neither wait nor use the session that it is told of.
struct Hooks {
  // A block was committed that is no copy; `replicas` nodes shall keep it, this one included (at least 1).
  std::function<void(const Key& key, const BlockTraits& traits, std::string_view namespace_digest, uint32_t replicas)>
      stored;
  // A copy was committed of a block that so many nodes shall keep: whoever holds it last sees to that.
  std::function<void(TenantId tenant, std::string_view namespace_digest, uint32_t replicas)> copied;
  // A Get sends so many bytes of a block of this group.
  std::function<void(const Key& group, uint64_t bytes)> read;
  // Who holds extra copies of this segment; mostly nobody. Asked for every hit of a Match.
  std::function<std::vector<NodeId>(const Key& group)> hot_nodes;
  // How many were accepted; the request is well-formed, its keys are `tenant`'s.
  std::function<uint32_t(TenantId tenant, const v1::AdoptRequest& request)> adopt;
  // Empty = the node cannot be drained.
  std::function<absl::StatusOr<v1::DrainResponse>(const v1::DrainRequest& request)> drain;
  // False while draining: Reserve is refused, nothing is adopted, and damage is not mended. Empty = true.
  std::function<bool()> taking_blocks;
  // A copy came whose bytes differ from the stored block's, both being valid. The first was kept.
  std::function<void(const Key& key)> conflict;
  // A block was stored whose profile the node may lack: `tenant` by name, 16 bytes of digest.
  std::function<void(const std::string& tenant, const std::string& digest)> needs_profile;
  // A reader found damage in a block that is whole as the store gives it: it may have read another copy of it.
  std::function<void(const Key& key)> doubted;
  // A resting block was damaged and has been dropped; a node that takes blocks may fetch it again.
  std::function<void(const Key& key, const BlockTraits& traits)> damaged;
};

struct CacheHandlersOptions {
  BlockStore* store = nullptr;  // this and the next two outlive the handlers
  Metrics* metrics = nullptr;
  Runtime* runtime = nullptr;
  ServiceIdentity identity;
  uint64_t capacity_bytes = 0;  // of the store: what AdmissionLimits' fractions are of
  Limits limits;
  AdmissionLimits admission;
  absl::Duration slow_call = absl::Seconds(1);                 // a call that takes so long is logged
  std::function<std::shared_ptr<const View>()> view;           // null view: there is none yet. Empty = never one
  std::function<std::optional<v1::DeviceInfo>()> device_info;  // for ServerInfo; empty = nothing to tell
  std::shared_ptr<const Access> access;                        // null: every caller may do everything
  ProfileShelf* profiles = nullptr;             // outlives the handlers and their sessions; null: none are kept
  std::function<TenantHolding(TenantId)> held;  // in the host tier; empty = not told in ServerInfo
  Hooks hooks;
};

class CacheHandlers {
 public:
  explicit CacheHandlers(CacheHandlersOptions options);
  ~CacheHandlers();  // ends all sessions. REQUIRES: none is in a call

  // Chains are leased, and leases released, in reverse order: a request's later chains are the deeper ones, and leaves
  // must be evicted before their parents.
  absl::StatusOr<v1::MatchResponse> Match(const Caller& caller, const v1::MatchRequest& request);
  absl::StatusOr<v1::EraseResponse> Erase(const Caller& caller, const v1::EraseRequest& request);
  absl::StatusOr<v1::ReleaseResponse> Release(const Caller& caller, const v1::ReleaseRequest& request);
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(const Caller& caller);
  absl::StatusOr<v1::ExplainResponse> Explain(const Caller& caller, const v1::ExplainRequest& request);
  absl::StatusOr<v1::DescribeResponse> Describe(const Caller& caller, const v1::DescribeRequest& request);
  absl::StatusOr<v1::ReportResponse> Report(const Caller& caller, const v1::ReportRequest& request);
  absl::StatusOr<v1::GetViewResponse> GetView(const Caller& caller);
  absl::StatusOr<v1::AdoptResponse> Adopt(const Caller& caller, const v1::AdoptRequest& request);
  absl::StatusOr<v1::DrainResponse> Drain(const Caller& caller, const v1::DrainRequest& request);

  // Errors: InvalidArgument also for a deadline further away than Limits.max_stream.
  absl::StatusOr<std::unique_ptr<GetSession>> OpenGet(const Caller& caller, const v1::GetRequest& request,
                                                      absl::Time deadline);
  absl::StatusOr<std::unique_ptr<PutSession>> OpenPut(const Caller& caller, absl::Time deadline);

  // Errors: InvalidArgument also for a deadline further away than a minute.
  absl::StatusOr<std::unique_ptr<ProfilePutSession>> OpenPutProfile(const Caller& caller, absl::Time deadline);
  // Null if it is not here. Errors: as of OpenGet.
  absl::StatusOr<std::shared_ptr<const std::string>> GetProfile(const Caller& caller,
                                                                const v1::GetProfileRequest& request,
                                                                absl::Time deadline);

  // Counts a call that was refused before it came here.
  void CountRefused(Method method, const absl::Status& why);

  // Verifies a stored block whole; one that is damaged is dropped, counted and told to the hook. True if it was
  // dropped.
  absl::StatusOr<bool> DropIfDamaged(const Key& key, FoundBy found_by);

  // Adds what namespaces were stored, and the bounds in force.
  void AddDebugPages(DebugPages* pages);

  // Ends sessions whose deadline has passed or whose reader or writer is too slow. Call it on a timer.
  void Sweep();
  // Ends all sessions at once.
  void EndSessions();

  v1::Load load() const;
  uint32_t requests(TenantId tenant) const;  // of it under way
  absl::Time Now() const;                    // of the Runtime, which deadlines are points of

 private:
  class Impl;
  const std::shared_ptr<Impl> impl_;  // sessions hold it too
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_CACHE_HANDLERS_H_
