// Keeps gRPC's own threads for the life of the process.
//
// Why: when the last gRPC object of a process goes, gRPC 1.51 joins its background threads, and one of them may be in a
// poll of ten seconds: stopping a node, or closing a worker's last client, would now and then take that long.
#ifndef KVIST_SERVICES_TRANSPORT_GRPC_LIBRARY_H_
#define KVIST_SERVICES_TRANSPORT_GRPC_LIBRARY_H_

#include <grpc/grpc.h>

namespace kvist {

inline void KeepGrpcAlive() { [[maybe_unused]] static const bool kept = (grpc_init(), true); }

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_GRPC_LIBRARY_H_
