// gRPC's own lines (handshakes that failed, for the most part) as events of our log, within its limits. Without this they
// stand as plain text between lines of JSON, and whoever connects without a certificate could fill a disk with them.
//
// Threads  any.
#ifndef KVIST_SERVICES_NODE_GRPC_LOG_H_
#define KVIST_SERVICES_NODE_GRPC_LOG_H_

namespace kvist {

// From now on, for the life of the process: event "grpc".
void TakeGrpcLog();

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_GRPC_LOG_H_
