// PutProfile and GetProfile over gRPC: reactors that translate to CacheHandlers. Internal to cache_service.
#ifndef KVIST_SERVICES_NODE_PROFILE_STREAMS_H_
#define KVIST_SERVICES_NODE_PROFILE_STREAMS_H_

#include <grpcpp/support/server_callback.h>

#include "absl/status/statusor.h"
#include "services/access/caller.h"
#include "services/node/cache_handlers.h"

namespace kvist {

grpc::ServerReadReactor<v1::PutProfileRequest>* NewPutProfileStream(grpc::CallbackServerContext* context,
                                                                    v1::PutProfileResponse* response,
                                                                    const absl::StatusOr<Caller>& caller,
                                                                    CacheHandlers* handlers);
grpc::ServerWriteReactor<v1::GetProfileResponse>* NewGetProfileStream(grpc::CallbackServerContext* context,
                                                                      const v1::GetProfileRequest& request,
                                                                      const absl::StatusOr<Caller>& caller,
                                                                      CacheHandlers* handlers);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_PROFILE_STREAMS_H_
