// The gRPC face of TransferSessions, to be registered beside Cache. It translates and keeps nothing.
//
// Threads gRPC's; Open is answered from a thread of NCCL's communicator.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_SERVICE_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_SERVICE_H_

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "services/transport/nccl/transfer_sessions.h"

namespace kvist {

// `sessions` outlives the server that this is registered with.
std::unique_ptr<grpc::Service> NewTransferService(TransferSessions* sessions);

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_SERVICE_H_
