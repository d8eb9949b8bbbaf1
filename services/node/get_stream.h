// The server's end of one Get: looks items up one after the other and sends each from the pinned slab, without a copy.
#ifndef KVIST_SERVICES_NODE_GET_STREAM_H_
#define KVIST_SERVICES_NODE_GET_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include "cachestore/block_store.h"
#include "services/node/metrics.h"

namespace kvist {

struct Limits;

// The stream owns itself and ends by the call's deadline at the latest. One item is pinned at a time, besides the parts
// that gRPC has not sent yet.
grpc::ServerWriteReactor<grpc::ByteBuffer>* NewGetStream(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer& request, BlockStore* store,
                                                         Metrics* metrics, const Limits& limits);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_GET_STREAM_H_
