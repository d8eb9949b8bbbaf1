// The gRPC face of one BlockStore: checks requests, calls the store, sends its bytes. It translates and keeps nothing.
//
// Threads gRPC's; every method may run on any of them. Calls into the store never wait.
// Zero copy out: a Get's parts are slices of the pinned slab; the pin is dropped when gRPC has sent the last of them.
// Bounds  a request holds at most Limits.max_keys keys; a stream needs a deadline of at most Limits.max_stream, so that
//         no reader holds pinned bytes, and no writer reserved ones, for ever.
#ifndef KVIST_SERVICES_NODE_CACHE_SERVICE_H_
#define KVIST_SERVICES_NODE_CACHE_SERVICE_H_

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "kvist/v1/cache.grpc.pb.h"
#include "services/node/limits.h"
#include "services/node/metrics.h"

namespace kvist {

struct ServiceIdentity {
  std::string version, node_id;
  uint64_t view = 0;
};

// Match, Erase, Release and ServerInfo with protobuf's messages; Get and Put with raw bytes (transport/part_stream.h).
using RawStreamsService = v1::Cache::WithCallbackMethod_Match<
    v1::Cache::WithRawCallbackMethod_Get<v1::Cache::WithRawCallbackMethod_Put<v1::Cache::WithCallbackMethod_Erase<
        v1::Cache::WithCallbackMethod_Release<v1::Cache::WithCallbackMethod_ServerInfo<v1::Cache::Service>>>>>>;

class CacheService final : public RawStreamsService {
 public:
  // `store` and `metrics` must outlive the server that this is registered with.
  CacheService(BlockStore* store, Metrics* metrics, ServiceIdentity identity, Limits limits)
      : store_(store), metrics_(metrics), identity_(std::move(identity)), limits_(limits) {}

  grpc::ServerUnaryReactor* Match(grpc::CallbackServerContext* context, const v1::MatchRequest* request,
                                  v1::MatchResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Get(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* Put(grpc::CallbackServerContext* context,
                                                 grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Erase(grpc::CallbackServerContext* context, const v1::EraseRequest* request,
                                  v1::EraseResponse* response) override;
  grpc::ServerUnaryReactor* Release(grpc::CallbackServerContext* context, const v1::ReleaseRequest* request,
                                    v1::ReleaseResponse* response) override;
  grpc::ServerUnaryReactor* ServerInfo(grpc::CallbackServerContext* context, const v1::ServerInfoRequest* request,
                                       v1::ServerInfoResponse* response) override;

 private:
  absl::Status DoMatch(const v1::MatchRequest& request, v1::MatchResponse* response);

  BlockStore* const store_;
  Metrics* const metrics_;
  const ServiceIdentity identity_;
  const Limits limits_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_CACHE_SERVICE_H_
