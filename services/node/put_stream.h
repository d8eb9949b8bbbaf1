// The gRPC end of one Put: hands what comes to the session. A broken stream aborts it.
#ifndef KVIST_SERVICES_NODE_PUT_STREAM_H_
#define KVIST_SERVICES_NODE_PUT_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include "services/node/cache_handlers.h"

namespace kvist {

// Refuses at once a caller who was not let in. The stream owns itself and ends with its session, by the call's deadline at the latest.
grpc::ServerReadReactor<grpc::ByteBuffer>* NewPutStream(grpc::CallbackServerContext* context,
                                                        grpc::ByteBuffer* response,
                                                        const absl::StatusOr<Caller>& caller, CacheHandlers* handlers);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_PUT_STREAM_H_
