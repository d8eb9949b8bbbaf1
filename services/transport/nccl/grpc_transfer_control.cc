// TransferControl over gRPC: one channel, of its own, so that a transfer's few words never wait behind a stream of blocks.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/channel_arguments.h>

#include "kvist/v1/transfer.grpc.pb.h"
#include "services/transport/grpc_library.h"
#include "services/transport/grpc_status.h"
#include "services/transport/nccl/transfer_control.h"
#include "services/transport/tls.h"

namespace kvist {
namespace {

constexpr int kKeepaliveMs = 30'000, kKeepaliveTimeoutMs = 10'000;
constexpr int kMaxReconnectMs = 1'000;

class GrpcTransferControl final : public TransferControl {
 public:
  GrpcTransferControl(const std::string& address, std::shared_ptr<const TlsIdentity> tls) : tls_(std::move(tls)) {
    KeepGrpcAlive();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
    stub_ = v1::DeviceTransfer::NewStub(ConnectGrpc(address, arguments, tls_.get()));
  }

  absl::StatusOr<v1::OpenEpochResponse> Open(const v1::OpenEpochRequest& request, absl::Time deadline) override {
    return Call<v1::OpenEpochResponse>(&v1::DeviceTransfer::Stub::Open, request, deadline);
  }
  absl::StatusOr<v1::TransferResponse> Transfer(const v1::TransferRequest& request, absl::Time deadline) override {
    return Call<v1::TransferResponse>(&v1::DeviceTransfer::Stub::Transfer, request, deadline);
  }
  absl::StatusOr<v1::StartResponse> Start(const v1::StartRequest& request, absl::Time deadline) override {
    return Call<v1::StartResponse>(&v1::DeviceTransfer::Stub::Start, request, deadline);
  }
  absl::StatusOr<v1::AbortResponse> Abort(const v1::AbortRequest& request, absl::Time deadline) override {
    return Call<v1::AbortResponse>(&v1::DeviceTransfer::Stub::Abort, request, deadline);
  }
  absl::StatusOr<v1::CloseEpochResponse> Close(const v1::CloseEpochRequest& request, absl::Time deadline) override {
    return Call<v1::CloseEpochResponse>(&v1::DeviceTransfer::Stub::Close, request, deadline);
  }

 private:
  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(grpc::Status (v1::DeviceTransfer::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                                 Response*),
                                const Request& request, absl::Time deadline) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(deadline));
    Response response;
    const grpc::Status status = ((*stub_).*method)(&context, request, &response);
    if (!status.ok()) return WithTlsHint(FromGrpc(status, context), tls_ != nullptr);
    return response;
  }

  const std::shared_ptr<const TlsIdentity> tls_;  // outlives the stub
  std::unique_ptr<v1::DeviceTransfer::Stub> stub_;
};

}  // namespace

std::unique_ptr<TransferControl> NewGrpcTransferControl(const std::string& address,
                                                        std::shared_ptr<const TlsIdentity> tls) {
  return std::make_unique<GrpcTransferControl>(address, std::move(tls));
}

}  // namespace kvist
