// A worker's half of the control of transfers: proto/kvist/v1/transfer.proto as calls that wait. Over gRPC it is
// grpc_transfer_control.cc; tests go straight to a TransferSessions.
//
// Threads  any number at once. Every call returns by its deadline, whatever the node does.
// Errors   those of the proto, plus Unavailable (no connection) and DeadlineExceeded.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_CONTROL_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_CONTROL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvist/v1/transfer.pb.h"

namespace kvist {

class TransferControl {
 public:
  virtual ~TransferControl() = default;
  virtual absl::StatusOr<v1::OpenEpochResponse> Open(const v1::OpenEpochRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::TransferResponse> Transfer(const v1::TransferRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::StartResponse> Start(const v1::StartRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::AbortResponse> Abort(const v1::AbortRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::CloseEpochResponse> Close(const v1::CloseEpochRequest& request, absl::Time deadline) = 0;
};

class TlsIdentity;  // services/transport/tls.h

// To "host:port", without waiting for it; in plaintext, or with `tls`. grpc_transfer_control.cc
std::unique_ptr<TransferControl> NewGrpcTransferControl(const std::string& address,
                                                        std::shared_ptr<const TlsIdentity> tls = nullptr);

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_CONTROL_H_
