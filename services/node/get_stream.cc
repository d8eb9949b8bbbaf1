#include "services/node/get_stream.h"

#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "services/node/stream_call.h"
#include "services/transport/grpc_status.h"
#include "services/transport/part_stream.h"

namespace kvist {
namespace {

// The part as slices of the slab; each holds the pin until gRPC drops it.
std::vector<grpc::Slice> PinnedSlices(const PinnedPart& part) {
  using Pin = std::shared_ptr<const void>;
  std::vector<grpc::Slice> slices;
  for (absl::Span<const uint8_t> bytes : part.data) {
    slices.emplace_back(
        const_cast<uint8_t*>(bytes.data()), bytes.size(), [](void* pin) { delete static_cast<Pin*>(pin); },
        new Pin(part.pin));
  }
  return slices;
}

grpc::ByteBuffer Encode(const v1::GetHeader& header) {
  v1::GetResponse response;
  *response.mutable_header() = header;
  return EncodeMessage(response);
}
grpc::ByteBuffer Encode(const PinnedPart& part) { return EncodePart(part.item, part.offset, PinnedSlices(part)); }
grpc::ByteBuffer Encode(const v1::GetTrailer& trailer) {
  v1::GetResponse response;
  *response.mutable_trailer() = trailer;
  return EncodeMessage(response);
}

class GetReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  GetReactor(grpc::CallbackServerContext* context, const grpc::ByteBuffer& request,
             const absl::StatusOr<Caller>& caller, CacheHandlers* handlers)
      : context_(context) {
    if (!caller.ok()) handlers->CountRefused(Method::kGet, caller.status());
    const absl::Status status = caller.ok() ? Open(request, *caller, handlers) : caller.status();
    status.ok() ? WriteNext() : End(status);
  }

  void OnWriteDone(bool ok) override { ok ? WriteNext() : End(absl::CancelledError("the reader went away")); }
  void OnDone() override { delete this; }

 private:
  absl::Status Open(const grpc::ByteBuffer& request, const Caller& caller, CacheHandlers* handlers) {
    v1::GetRequest get;
    if (!DecodeMessage(request, &get)) return absl::InvalidArgumentError("the request is no GetRequest");
    absl::StatusOr<std::unique_ptr<GetSession>> session =
        handlers->OpenGet(caller, get, DeadlineOf(*context_, *handlers));
    if (!session.ok()) return session.status();
    session_ = *std::move(session);
    session_->OnEnd(CancelOf(context_));
    return absl::OkStatus();
  }

  void WriteNext() {
    const absl::StatusOr<GetSession::Message> message = session_->Next();
    if (!message.ok()) return End(message.status());
    message_ = std::visit([](const auto& any) { return Encode(any); }, *message);
    if (std::holds_alternative<v1::GetTrailer>(*message)) {
      session_ = nullptr;
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      StartWrite(&message_);  // no buffer hint: gRPC 1.51 may then hold a lone small message back for ever
    }
  }

  void End(const absl::Status& status) {
    session_ = nullptr;
    message_.Clear();
    Finish(ToGrpc(status, context_));
  }

  grpc::CallbackServerContext* const context_;
  std::unique_ptr<GetSession> session_;
  grpc::ByteBuffer message_;  // alive until OnWriteDone
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* NewGetStream(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer& request,
                                                         const absl::StatusOr<Caller>& caller,
                                                         CacheHandlers* handlers) {
  return new GetReactor(context, request, caller, handlers);
}

}  // namespace kvist
