#include "services/node/profile_streams.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/node/stream_call.h"
#include "services/transport/grpc_status.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

class PutProfileReactor final : public grpc::ServerReadReactor<v1::PutProfileRequest> {
 public:
  PutProfileReactor(grpc::CallbackServerContext* context, v1::PutProfileResponse* response,
                    const absl::StatusOr<Caller>& caller, CacheHandlers* handlers)
      : context_(context), response_(response) {
    if (!caller.ok()) {
      handlers->CountRefused(Method::kPutProfile, caller.status());
      End(caller.status());
      return;
    }
    absl::StatusOr<std::unique_ptr<ProfilePutSession>> session =
        handlers->OpenPutProfile(*caller, DeadlineOf(*context, *handlers));
    if (!session.ok()) {
      End(session.status());
      return;
    }
    session_ = *std::move(session);
    StartRead(&message_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Commit();
    const absl::Status status = message_.has_name() ? Name() : Write();
    if (!status.ok() || over_) return End(status);
    StartRead(&message_);
  }
  void OnDone() override { delete this; }

 private:
  absl::Status Name() {
    const absl::StatusOr<bool> wanted = session_->Name(message_.name());
    if (!wanted.ok()) return wanted.status();
    over_ = !*wanted;
    if (over_) return absl::OkStatus();
    context_->AddInitialMetadata(kWantedMetadata, "1");
    StartSendInitialMetadata();
    return absl::OkStatus();
  }

  absl::Status Write() {
    if (message_.data().size() > kMaxPartBytes) {
      return absl::InvalidArgumentError(absl::StrCat("a message has ", message_.data().size(),
                                                     " bytes of data; at most ", kMaxPartBytes, " are allowed"));
    }
    return session_->Write(message_.data());
  }

  // The writer is done, or gone: then its bytes are too few.
  void Commit() {
    absl::StatusOr<v1::PutProfileResponse> kept = session_->Commit();
    if (kept.ok()) *response_ = *std::move(kept);
    End(kept.status());
  }

  void End(const absl::Status& status) {
    session_ = nullptr;
    Finish(ToGrpc(status, context_));
  }

  grpc::CallbackServerContext* const context_;
  v1::PutProfileResponse* const response_;
  std::unique_ptr<ProfilePutSession> session_;
  bool over_ = false;  // the profile is here already
  v1::PutProfileRequest message_;
};

class GetProfileReactor final : public grpc::ServerWriteReactor<v1::GetProfileResponse> {
 public:
  GetProfileReactor(grpc::CallbackServerContext* context, const v1::GetProfileRequest& request,
                    const absl::StatusOr<Caller>& caller, CacheHandlers* handlers)
      : context_(context) {
    if (!caller.ok()) {
      handlers->CountRefused(Method::kGetProfile, caller.status());
      End(caller.status());
      return;
    }
    absl::StatusOr<std::shared_ptr<const std::string>> file =
        handlers->GetProfile(*caller, request, DeadlineOf(*context, *handlers));
    if (!file.ok()) {
      End(file.status());
      return;
    }
    file_ = *std::move(file);
    message_.set_size_bytes(file_ == nullptr ? 0 : file_->size());
    StartWrite(&message_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the reader went away"));
    if (file_ == nullptr || sent_bytes_ == file_->size()) return End(absl::OkStatus());
    message_.set_size_bytes(0);
    message_.set_data(file_->substr(sent_bytes_, kMaxPartBytes));
    sent_bytes_ += message_.data().size();
    StartWrite(&message_);
  }
  void OnDone() override { delete this; }

 private:
  void End(const absl::Status& status) { Finish(ToGrpc(status, context_)); }

  grpc::CallbackServerContext* const context_;
  std::shared_ptr<const std::string> file_;  // null: it is not here
  size_t sent_bytes_ = 0;
  v1::GetProfileResponse message_;
};

}  // namespace

grpc::ServerReadReactor<v1::PutProfileRequest>* NewPutProfileStream(grpc::CallbackServerContext* context,
                                                                    v1::PutProfileResponse* response,
                                                                    const absl::StatusOr<Caller>& caller,
                                                                    CacheHandlers* handlers) {
  return new PutProfileReactor(context, response, caller, handlers);
}

grpc::ServerWriteReactor<v1::GetProfileResponse>* NewGetProfileStream(grpc::CallbackServerContext* context,
                                                                      const v1::GetProfileRequest& request,
                                                                      const absl::StatusOr<Caller>& caller,
                                                                      CacheHandlers* handlers) {
  return new GetProfileReactor(context, request, caller, handlers);
}

}  // namespace kvist
