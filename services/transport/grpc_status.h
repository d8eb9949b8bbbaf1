// gRPC's status and Abseil's have the same codes; one home for the conversion.
#ifndef KVIST_SERVICES_TRANSPORT_GRPC_STATUS_H_
#define KVIST_SERVICES_TRANSPORT_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace kvist {

inline absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}
inline grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()), std::string(status.message()));
}

// Initial metadata of a Put whose space is reserved; its absence means that the call has ended already.
inline constexpr char kReservedMetadata[] = "kvist-reserved";

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_GRPC_STATUS_H_
