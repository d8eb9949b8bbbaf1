// The gRPC end of one Get: sends what the session yields, the blocks' bytes from the pinned slab without a copy.
#ifndef KVIST_SERVICES_NODE_GET_STREAM_H_
#define KVIST_SERVICES_NODE_GET_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include "services/node/cache_handlers.h"

namespace kvist {

// Refuses at once a caller who was not let in. The stream owns itself and ends with its session, by the call's deadline at the latest.
grpc::ServerWriteReactor<grpc::ByteBuffer>* NewGetStream(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer& request,
                                                         const absl::StatusOr<Caller>& caller, CacheHandlers* handlers);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_GET_STREAM_H_
