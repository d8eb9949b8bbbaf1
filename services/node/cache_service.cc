#include "services/node/cache_service.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/block_format.h"
#include "services/node/get_stream.h"
#include "services/node/put_stream.h"
#include "services/node/request_keys.h"
#include "services/transport/grpc_status.h"
#include "services/transport/miss_reason.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

// Runs a unary method's body at once and finishes.
template <typename Body>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, Metrics* metrics, Method method, Body body) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::Status status;
  {
    RpcTimer timer(metrics, method);
    status = body();
    timer.SetCode(status.code());
  }
  reactor->Finish(ToGrpc(status, context));
  return reactor;
}

}  // namespace

absl::Status CacheService::DoMatch(const v1::MatchRequest& request, v1::MatchResponse* response) {
  const absl::Duration lease = std::min(absl::Milliseconds(request.lease_ms()), limits_.max_lease);
  size_t keys_left = limits_.max_keys;
  std::vector<std::vector<Key>> chains;
  for (const v1::Chain& chain : request.chains()) {
    absl::StatusOr<std::vector<Key>> keys = ParseKeys(chain.keys(), keys_left);
    if (!keys.ok()) return keys.status();
    keys_left -= keys->size();
    chains.push_back(*std::move(keys));
  }
  for (const std::vector<Key>& chain : chains) {
    absl::StatusOr<MatchResult> result = store_->Match(chain, lease);
    if (!result.ok()) return result.status();
    v1::ChainMatch* match = response->add_chains();
    match->set_hits(static_cast<uint32_t>(result->hits));
    match->set_hit_bytes(result->hit_bytes);
    match->set_lease(result->lease.value);
    match->set_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(result->lease_ttl)));
    const v1::MissReason miss = ToWire(result->miss);
    if (request.explain()) match->set_first_miss(miss);
    // Without a lease it is a probe (a writer asking what is there), and no lookup of a reader.
    if (request.lease_ms() > 0) metrics_->CountLookup(Method::kMatch, result->hits, miss, chain.size() - result->hits);
  }
  response->set_view(identity_.view);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* CacheService::Match(grpc::CallbackServerContext* context, const v1::MatchRequest* request,
                                              v1::MatchResponse* response) {
  return Answer(context, metrics_, Method::kMatch, [&] { return DoMatch(*request, response); });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* CacheService::Get(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request) {
  return NewGetStream(context, *request, store_, metrics_, limits_);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* CacheService::Put(grpc::CallbackServerContext* context,
                                                             grpc::ByteBuffer* response) {
  return NewPutStream(context, response, store_, metrics_, limits_, identity_.view);
}

grpc::ServerUnaryReactor* CacheService::Erase(grpc::CallbackServerContext* context, const v1::EraseRequest* request,
                                              v1::EraseResponse* response) {
  return Answer(context, metrics_, Method::kErase, [&]() -> absl::Status {
    absl::StatusOr<std::vector<Key>> keys = ParseKeys(request->keys(), limits_.max_keys);
    if (!keys.ok()) return keys.status();
    for (const Key& key : *keys) {
      absl::StatusOr<bool> erased = store_->Erase(key);
      if (!erased.ok()) return erased.status();
      response->add_erased(*erased);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CacheService::Release(grpc::CallbackServerContext* context, const v1::ReleaseRequest* request,
                                                v1::ReleaseResponse* response) {
  return Answer(context, metrics_, Method::kRelease, [&]() -> absl::Status {
    if (request->leases_size() > static_cast<int>(limits_.max_keys)) {
      return absl::InvalidArgumentError(absl::StrCat(request->leases_size(), " leases in one request; at most ",
                                                     limits_.max_keys, " are allowed: send several"));
    }
    for (uint64_t lease : request->leases()) {
      if (absl::Status status = store_->Release({lease}); !status.ok()) return status;
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CacheService::ServerInfo(grpc::CallbackServerContext* context,
                                                   const v1::ServerInfoRequest* request,
                                                   v1::ServerInfoResponse* response) {
  return Answer(context, metrics_, Method::kServerInfo, [&]() -> absl::Status {
    const absl::StatusOr<StoreStats> stats = store_->Stats();
    if (!stats.ok()) return stats.status();
    response->set_version(identity_.version);
    response->set_node_id(identity_.node_id);
    response->set_view(identity_.view);
    response->set_format_version(kFormatVersion);
    for (const v1::Codec codec : {v1::CODEC_RAW16, v1::CODEC_I8, v1::CODEC_LADDER}) response->add_codecs(codec);
    response->set_max_keys(limits_.max_keys);
    response->set_max_block_bytes(limits_.max_block_bytes);
    response->set_max_part_bytes(kMaxPartBytes);
    response->set_max_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(limits_.max_lease)));
    v1::StoreState* store = response->mutable_store();
    store->set_capacity_bytes(stats->capacity_bytes);
    store->set_used_bytes(stats->used_bytes);
    store->set_pinned_bytes(stats->pinned_bytes);
    store->set_reserved_bytes(stats->reserved_bytes);
    store->set_blocks(stats->blocks);
    store->set_leases(stats->leases);
    store->set_evicted_blocks(stats->evicted_blocks);
    store->set_evicted_bytes(stats->evicted_bytes);
    return absl::OkStatus();
  });
}

}  // namespace kvist
