// The server's end of one Put: reserves, writes parts into the reserved slab, verifies, commits. A broken stream
// aborts.
#ifndef KVIST_SERVICES_NODE_PUT_STREAM_H_
#define KVIST_SERVICES_NODE_PUT_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include "cachestore/block_store.h"
#include "services/node/metrics.h"

namespace kvist {

struct Limits;

// The stream owns itself and ends by the call's deadline at the latest.
grpc::ServerReadReactor<grpc::ByteBuffer>* NewPutStream(grpc::CallbackServerContext* context,
                                                        grpc::ByteBuffer* response, BlockStore* store, Metrics* metrics,
                                                        const Limits& limits, uint64_t view);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_PUT_STREAM_H_
