#include "services/node/put_stream.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/node/stream_call.h"
#include "services/transport/grpc_status.h"
#include "services/transport/part_stream.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

// States: expecting the reserve -> reserved (parts come) -> ended.
class PutReactor final : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  PutReactor(grpc::CallbackServerContext* context, grpc::ByteBuffer* response, const absl::StatusOr<Caller>& caller,
             CacheHandlers* handlers)
      : context_(context), response_(response) {
    if (!caller.ok()) {
      handlers->CountRefused(Method::kPut, caller.status());
      End(caller.status());
      return;
    }
    absl::StatusOr<std::unique_ptr<PutSession>> session = handlers->OpenPut(*caller, DeadlineOf(*context, *handlers));
    if (!session.ok()) {
      End(session.status());
      return;
    }
    session_ = *std::move(session);
    session_->OnEnd(CancelOf(context));
    StartRead(&message_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the stream ended without a commit; nothing was stored"));
    const absl::StatusOr<std::optional<v1::PutResponse>> answer = Handle();
    if (!answer.ok()) return End(answer.status());
    if (answer->has_value()) {
      *response_ = EncodeMessage(**answer);
      return End(absl::OkStatus());
    }
    message_.Clear();
    StartRead(&message_);
  }
  void OnDone() override { delete this; }

 private:
  // Acts on message_; the call's answer, if that was the last.
  absl::StatusOr<std::optional<v1::PutResponse>> Handle() {
    const absl::StatusOr<std::optional<ReceivedPart>> part = ReceivedPart::Parse(message_);
    if (!part.ok()) return part.status();
    if (part->has_value()) return Write(**part);
    v1::PutRequest request;
    if (!DecodeMessage(message_, &request)) return absl::InvalidArgumentError("a message of Put cannot be read");
    if (request.has_reserve() && !reserved_) return Reserve(request.reserve());
    if (request.has_commit() && reserved_) return session_->Commit(request.commit().size_bytes());
    return absl::InvalidArgumentError(
        "Put is: one reserve, then parts, then one commit; this message came out of order");
  }

  absl::StatusOr<std::optional<v1::PutResponse>> Reserve(const v1::PutReserve& reserve) {
    const absl::StatusOr<bool> reserved = session_->Reserve(reserve);
    if (!reserved.ok()) return reserved.status();
    if (!*reserved) return session_->NotStored();
    reserved_ = true;
    context_->AddInitialMetadata(kReservedMetadata, "1");
    StartSendInitialMetadata();
    return std::nullopt;
  }

  absl::StatusOr<std::optional<v1::PutResponse>> Write(const ReceivedPart& part) {
    if (!reserved_) return absl::InvalidArgumentError("a Part came before the reserve");
    if (part.size_bytes() > kMaxPartBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a Part has ", part.size_bytes(), " bytes of data; at most ", kMaxPartBytes, " are allowed"));
    }
    uint64_t offset = part.offset();
    for (absl::Span<const uint8_t> bytes : part.data()) {
      if (absl::Status status = session_->Write(offset, bytes); !status.ok()) return status;
      offset += bytes.size();
    }
    if (session_->over()) return session_->NotStored();
    return std::nullopt;
  }

  void End(const absl::Status& status) {
    session_ = nullptr;
    Finish(ToGrpc(status, context_));
  }

  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  std::unique_ptr<PutSession> session_;
  bool reserved_ = false;
  grpc::ByteBuffer message_;
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* NewPutStream(grpc::CallbackServerContext* context,
                                                        grpc::ByteBuffer* response,
                                                        const absl::StatusOr<Caller>& caller, CacheHandlers* handlers) {
  return new PutReactor(context, response, caller, handlers);
}

}  // namespace kvist
