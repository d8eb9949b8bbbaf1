#include "services/transport/nccl/transfer_service.h"

#include <grpcpp/support/server_callback.h>

#include <utility>

#include "kvist/v1/transfer.grpc.pb.h"
#include "services/transport/grpc_status.h"

namespace kvist {
namespace {

template <typename Response>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, absl::StatusOr<Response> answer,
                                 Response* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (answer.ok()) *response = *std::move(answer);
  reactor->Finish(ToGrpc(answer.status(), context));
  return reactor;
}

class TransferService final : public v1::DeviceTransfer::CallbackService {
 public:
  explicit TransferService(TransferSessions* sessions) : sessions_(sessions) {}

  // The context and the response live until the reactor has finished.
  grpc::ServerUnaryReactor* Open(grpc::CallbackServerContext* context, const v1::OpenEpochRequest* request,
                                 v1::OpenEpochResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    sessions_->Open(*request, [context, response, reactor](absl::StatusOr<v1::OpenEpochResponse> answer) {
      if (answer.ok()) *response = *std::move(answer);
      reactor->Finish(ToGrpc(answer.status(), context));
    });
    return reactor;
  }
  grpc::ServerUnaryReactor* Transfer(grpc::CallbackServerContext* context, const v1::TransferRequest* request,
                                     v1::TransferResponse* response) override {
    return Answer(context, sessions_->Transfer(*request), response);
  }
  grpc::ServerUnaryReactor* Start(grpc::CallbackServerContext* context, const v1::StartRequest* request,
                                  v1::StartResponse* response) override {
    return Answer(context, sessions_->Start(*request), response);
  }
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override {
    return Answer(context, sessions_->Abort(*request), response);
  }
  grpc::ServerUnaryReactor* Close(grpc::CallbackServerContext* context, const v1::CloseEpochRequest* request,
                                  v1::CloseEpochResponse* response) override {
    return Answer(context, sessions_->Close(*request), response);
  }

 private:
  TransferSessions* const sessions_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewTransferService(TransferSessions* sessions) {
  return std::make_unique<TransferService>(sessions);
}

}  // namespace kvist
