#include "services/node/put_stream.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvist/v1/cache.pb.h"
#include "services/node/block_check.h"
#include "services/node/cache_service.h"
#include "services/node/stream_deadline.h"
#include "services/transport/grpc_status.h"
#include "services/transport/part_stream.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

// States: expecting the reserve -> reserved (parts come) -> ended. Any fault ends; the reservation's destructor aborts.
class PutReactor final : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  PutReactor(grpc::CallbackServerContext* context, grpc::ByteBuffer* response, BlockStore* store, Metrics* metrics,
             const Limits& limits, uint64_t view)
      : context_(context),
        response_(response),
        store_(store),
        metrics_(metrics),
        limits_(limits),
        view_(view),
        timer_(metrics, Method::kPut) {
    const absl::Status status = CheckStreamDeadline(*context, limits.max_stream);
    status.ok() ? StartRead(&message_) : End(status);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the stream ended without a commit; nothing was stored"));
    absl::StatusOr<bool> ended = Handle();
    if (!ended.ok()) return End(ended.status());
    if (*ended) return End(absl::OkStatus());
    message_.Clear();
    StartRead(&message_);
  }
  void OnDone() override { delete this; }

 private:
  // Acts on message_; true when the call is answered.
  absl::StatusOr<bool> Handle() {
    absl::StatusOr<std::optional<ReceivedPart>> part = ReceivedPart::Parse(message_);
    if (!part.ok()) return part.status();
    if (part->has_value()) {
      if (absl::Status status = WritePart(**part); !status.ok()) return status;
      return false;
    }
    v1::PutRequest request;
    if (!DecodeMessage(message_, &request)) return absl::InvalidArgumentError("a message of Put cannot be read");
    if (request.has_reserve() && reservation_ == nullptr) return Reserve(request.reserve());
    if (request.has_commit() && reservation_ != nullptr) return Commit(request.commit().size_bytes());
    return absl::InvalidArgumentError(
        "Put is: one reserve, then parts, then one commit; this message came out of order");
  }

  absl::StatusOr<bool> Reserve(const v1::PutReserve& reserve) {
    if (reserve.key().size() != sizeof(Key)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the key has ", reserve.key().size(), " bytes; a key is 32 bytes"));
    }
    if (reserve.namespace_digest().size() != 16) {
      return absl::InvalidArgumentError(
          absl::StrCat("namespace_digest has ", reserve.namespace_digest().size(), " bytes; it is 16 bytes"));
    }
    if (reserve.size_bytes() > limits_.max_block_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("a block of ", reserve.size_bytes(),
                                                     " bytes is larger than this node's limit of ",
                                                     limits_.max_block_bytes, " bytes"));
    }
    std::memcpy(key_.bytes.data(), reserve.key().data(), sizeof(Key));
    namespace_digest_ = reserve.namespace_digest();
    absl::StatusOr<std::unique_ptr<Reservation>> reservation = store_->Reserve(key_, reserve.size_bytes());
    if (absl::IsAlreadyExists(reservation.status())) return Answer(false);
    if (!reservation.ok()) return reservation.status();
    reservation_ = *std::move(reservation);
    context_->AddInitialMetadata(kReservedMetadata, "1");
    StartSendInitialMetadata();
    return false;
  }

  absl::Status WritePart(const ReceivedPart& part) {
    if (reservation_ == nullptr) return absl::InvalidArgumentError("a Part came before the reserve");
    if (part.size_bytes() > kMaxPartBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a Part has ", part.size_bytes(), " bytes of data; at most ", kMaxPartBytes, " are allowed"));
    }
    uint64_t offset = part.offset();
    for (absl::Span<const uint8_t> bytes : part.data()) {
      if (absl::Status status = reservation_->Write(offset, bytes); !status.ok()) return status;
      offset += bytes.size();
    }
    metrics_->CountReceived(part.size_bytes());
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Commit(uint64_t size_bytes) {
    std::string_view cause;
    uint64_t reserved_bytes = 0;
    for (absl::Span<const uint8_t> piece : reservation_->pieces()) reserved_bytes += piece.size();
    if (size_bytes > reserved_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("commit of ", size_bytes, " bytes; ", reserved_bytes, " were reserved"));
    }
    if (absl::Status status = CheckBeforeCommit(reservation_->pieces(), size_bytes, key_, namespace_digest_, &cause);
        !status.ok()) {
      metrics_->CountRefusedBlock(cause);
      return status;
    }
    if (absl::Status status = reservation_->Commit(size_bytes); !status.ok()) return status;
    return Answer(true);
  }

  bool Answer(bool stored) {
    v1::PutResponse response;
    response.set_stored(stored);
    response.set_view(view_);
    *response_ = EncodeMessage(response);
    return true;
  }

  void End(const absl::Status& status) {
    reservation_ = nullptr;
    timer_.SetCode(status.code());
    Finish(ToGrpc(status, context_));
  }

  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  BlockStore* const store_;
  Metrics* const metrics_;
  const Limits& limits_;
  const uint64_t view_;
  RpcTimer timer_;
  Key key_;
  std::string namespace_digest_;
  std::unique_ptr<Reservation> reservation_;
  grpc::ByteBuffer message_;
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* NewPutStream(grpc::CallbackServerContext* context,
                                                        grpc::ByteBuffer* response, BlockStore* store, Metrics* metrics,
                                                        const Limits& limits, uint64_t view) {
  return new PutReactor(context, response, store, metrics, limits, view);
}

}  // namespace kvist
