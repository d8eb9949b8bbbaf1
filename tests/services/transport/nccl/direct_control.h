// The control of transfers as calls into the node's sessions: without a wire.
#ifndef KVIST_TESTS_SERVICES_TRANSPORT_NCCL_DIRECT_CONTROL_H_
#define KVIST_TESTS_SERVICES_TRANSPORT_NCCL_DIRECT_CONTROL_H_

#include <future>
#include <memory>
#include <utility>

#include "services/transport/nccl/transfer_control.h"
#include "services/transport/nccl/transfer_sessions.h"

namespace kvist::testing {

class DirectControl final : public TransferControl {
 public:
  explicit DirectControl(TransferSessions* sessions) : sessions_(sessions) {}
  absl::StatusOr<v1::OpenEpochResponse> Open(const v1::OpenEpochRequest& request, absl::Time deadline) override {
    auto answer = std::make_shared<std::promise<absl::StatusOr<v1::OpenEpochResponse>>>();
    auto answered = answer->get_future();
    sessions_->Open(request, [answer](auto response) { answer->set_value(std::move(response)); });
    if (answered.wait_until(absl::ToChronoTime(deadline)) != std::future_status::ready) {
      return absl::DeadlineExceededError("no answer");
    }
    return answered.get();
  }
  absl::StatusOr<v1::TransferResponse> Transfer(const v1::TransferRequest& request, absl::Time) override {
    return sessions_->Transfer(request);
  }
  absl::StatusOr<v1::StartResponse> Start(const v1::StartRequest& request, absl::Time) override {
    return sessions_->Start(request);
  }
  absl::StatusOr<v1::AbortResponse> Abort(const v1::AbortRequest& request, absl::Time) override {
    return sessions_->Abort(request);
  }
  absl::StatusOr<v1::CloseEpochResponse> Close(const v1::CloseEpochRequest& request, absl::Time) override {
    return sessions_->Close(request);
  }

 private:
  TransferSessions* const sessions_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TRANSPORT_NCCL_DIRECT_CONTROL_H_
