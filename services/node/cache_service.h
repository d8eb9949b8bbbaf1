// The gRPC face of CacheHandlers: services Cache and Cluster. It translates and keeps nothing.
//
// Threads gRPC's; every method may run on any of them.
// Zero copy out: a Get's parts are slices of the pinned slab; the pin is dropped when gRPC has sent the last of them.
#ifndef KVIST_SERVICES_NODE_CACHE_SERVICE_H_
#define KVIST_SERVICES_NODE_CACHE_SERVICE_H_

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "kvist/v1/cache.grpc.pb.h"
#include "kvist/v1/cluster.grpc.pb.h"
#include "services/node/cache_handlers.h"
#include "services/node/callers.h"

namespace kvist {

// Unary methods with protobuf's messages; Get and Put with raw bytes (transport/part_stream.h).
using RawStreamsService = v1::Cache::WithRawCallbackMethod_Get<
    v1::Cache::WithRawCallbackMethod_Put<v1::Cache::WithCallbackMethod_Match<v1::Cache::WithCallbackMethod_Erase<
        v1::Cache::WithCallbackMethod_Release<v1::Cache::WithCallbackMethod_ServerInfo<
            v1::Cache::WithCallbackMethod_Explain<v1::Cache::WithCallbackMethod_Describe<
                v1::Cache::WithCallbackMethod_Report<v1::Cache::WithCallbackMethod_PutProfile<
                    v1::Cache::WithCallbackMethod_GetProfile<v1::Cache::Service>>>>>>>>>>>;

class CacheService final : public RawStreamsService {
 public:
  // `handlers` must outlive the server that this is registered with. `access` may be null: then whoever comes is let in.
  CacheService(CacheHandlers* handlers, std::shared_ptr<const Access> access)
      : handlers_(handlers), callers_(std::move(access)) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Get(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* Put(grpc::CallbackServerContext* context,
                                                 grpc::ByteBuffer* response) override;
  grpc::ServerReadReactor<v1::PutProfileRequest>* PutProfile(grpc::CallbackServerContext* context,
                                                             v1::PutProfileResponse* response) override;
  grpc::ServerWriteReactor<v1::GetProfileResponse>* GetProfile(grpc::CallbackServerContext* context,
                                                               const v1::GetProfileRequest* request) override;
  grpc::ServerUnaryReactor* Match(grpc::CallbackServerContext* context, const v1::MatchRequest* request,
                                  v1::MatchResponse* response) override;
  grpc::ServerUnaryReactor* Erase(grpc::CallbackServerContext* context, const v1::EraseRequest* request,
                                  v1::EraseResponse* response) override;
  grpc::ServerUnaryReactor* Release(grpc::CallbackServerContext* context, const v1::ReleaseRequest* request,
                                    v1::ReleaseResponse* response) override;
  grpc::ServerUnaryReactor* ServerInfo(grpc::CallbackServerContext* context, const v1::ServerInfoRequest* request,
                                       v1::ServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* Explain(grpc::CallbackServerContext* context, const v1::ExplainRequest* request,
                                    v1::ExplainResponse* response) override;
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const v1::DescribeRequest* request,
                                     v1::DescribeResponse* response) override;
  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context, const v1::ReportRequest* request,
                                   v1::ReportResponse* response) override;

 private:
  CacheHandlers* const handlers_;
  const Callers callers_;
};

class ClusterService final : public v1::Cluster::CallbackService {
 public:
  ClusterService(CacheHandlers* handlers, std::shared_ptr<const Access> access)
      : handlers_(handlers), callers_(std::move(access)) {}

  grpc::ServerUnaryReactor* GetView(grpc::CallbackServerContext* context, const v1::GetViewRequest* request,
                                    v1::GetViewResponse* response) override;
  grpc::ServerUnaryReactor* Adopt(grpc::CallbackServerContext* context, const v1::AdoptRequest* request,
                                  v1::AdoptResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

 private:
  CacheHandlers* const handlers_;
  const Callers callers_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_CACHE_SERVICE_H_
