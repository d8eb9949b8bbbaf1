#include "services/node/get_stream.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvist/v1/cache.pb.h"
#include "services/node/block_check.h"
#include "services/node/cache_service.h"
#include "services/node/request_keys.h"
#include "services/node/stream_deadline.h"
#include "services/transport/grpc_status.h"
#include "services/transport/miss_reason.h"
#include "services/transport/part_stream.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

using SharedPin = std::shared_ptr<PinnedBlock>;

// `range` of the block as slices of the slab; each holds the pin until gRPC drops it.
std::vector<grpc::Slice> PinnedSlices(const SharedPin& block, ByteRange range) {
  std::vector<grpc::Slice> slices;
  uint64_t piece_begin = 0;
  for (absl::Span<const uint8_t> piece : block->pieces()) {
    const uint64_t begin = std::max(range.offset, piece_begin);
    const uint64_t end = std::min(range.offset + range.size_bytes, piece_begin + piece.size());
    if (begin < end) {
      slices.emplace_back(
          const_cast<uint8_t*>(piece.data()) + (begin - piece_begin), end - begin,
          [](void* pin) { delete static_cast<SharedPin*>(pin); }, new SharedPin(block));
    }
    piece_begin += piece.size();
  }
  return slices;
}

class GetReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  GetReactor(grpc::CallbackServerContext* context, const grpc::ByteBuffer& request, BlockStore* store, Metrics* metrics,
             const Limits& limits)
      : context_(context), store_(store), metrics_(metrics), timer_(metrics, Method::kGet) {
    const absl::Status status = Accept(*context, request, limits);
    status.ok() ? WriteNext() : End(status);
  }

  void OnWriteDone(bool ok) override { ok ? WriteNext() : End(absl::CancelledError("the reader went away")); }
  void OnDone() override { delete this; }

 private:
  absl::Status Accept(const grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
                      const Limits& limits) {
    if (absl::Status status = CheckStreamDeadline(context, limits.max_stream); !status.ok()) return status;
    if (!DecodeMessage(request, &request_)) return absl::InvalidArgumentError("the request is no GetRequest");
    absl::StatusOr<std::vector<Key>> keys = ParseKeys(request_.keys(), limits.max_keys);
    if (!keys.ok()) return keys.status();
    if (const size_t size = request_.namespace_digest().size(); size != 0 && size != 16) {
      return absl::InvalidArgumentError(
          absl::StrCat("namespace_digest has ", size, " bytes; it is 16 bytes, or absent"));
    }
    keys_ = *std::move(keys);
    return absl::OkStatus();
  }

  // One message a call: the next part of the open item, the next item's header, or the trailer.
  void WriteNext() {
    if (range_ < ranges_.size()) return WritePart();
    block_ = nullptr;
    if (item_ == keys_.size()) return WriteTrailer();
    absl::StatusOr<v1::GetHeader> header = OpenItem(keys_[item_]);
    if (!header.ok()) return End(header.status());
    header->set_item(static_cast<uint32_t>(item_));
    (header->miss() == v1::MISS_REASON_UNSPECIFIED ? hits_ : misses_) += 1;
    metrics_->CountLookup(Method::kGet, block_ ? 1 : 0, header->miss(), block_ ? 0 : 1);
    ++item_;
    v1::GetResponse response;
    *response.mutable_header() = *std::move(header);
    message_ = EncodeMessage(response);
    StartWrite(&message_);  // no buffer hint: gRPC 1.51 may then hold a lone small message back for ever
  }

  // Looks the item up and plans its ranges. A miss leaves block_ empty.
  absl::StatusOr<v1::GetHeader> OpenItem(const Key& key) {
    ranges_.clear();
    range_ = 0;
    v1::GetHeader header;
    absl::StatusOr<Lookup> lookup = store_->Get(key);
    if (!lookup.ok()) return lookup.status();
    if (lookup->block == nullptr) {
      header.set_miss(ToWire(lookup->miss));
      return header;
    }
    SharedPin block(lookup->block.release(), UnpinDeleter());
    absl::StatusOr<BlockHead> head = BlockHead::Read(block->pieces());
    if (!head.ok()) {
      header.set_miss(v1::MISS_REASON_CHECKSUM);
      return header;
    }
    if (!head->IsOf(request_.namespace_digest())) {
      header.set_miss(v1::MISS_REASON_IDENTITY_MISMATCH);
      return header;
    }
    absl::StatusOr<std::vector<ByteRange>> ranges = Plan(head->view());
    if (absl::IsFailedPrecondition(ranges.status())) {
      header.set_miss(v1::MISS_REASON_PRECISION);
      return header;
    }
    if (!ranges.ok()) return ranges.status();
    ranges_ = *std::move(ranges);
    block_ = std::move(block);
    header.set_block_bytes(block_->size_bytes());
    for (const ByteRange& range : ranges_) header.set_sent_bytes(header.sent_bytes() + range.size_bytes);
    return header;
  }

  absl::StatusOr<std::vector<ByteRange>> Plan(const BlockView& view) const {
    const bool all_layers = request_.first_layer() == 0 && request_.last_layer() == 0;
    if (all_layers && request_.precision() == 0) return std::vector<ByteRange>{{0, view.block_bytes()}};
    return view.RangesFor(request_.first_layer(), all_layers ? view.shape().layers : request_.last_layer(),
                          static_cast<int>(request_.precision()));
  }

  void WritePart() {
    ByteRange& range = ranges_[range_];
    const ByteRange part = {range.offset, std::min<uint64_t>(range.size_bytes, kMaxPartBytes)};
    range.offset += part.size_bytes;
    range.size_bytes -= part.size_bytes;
    if (range.size_bytes == 0) ++range_;
    sent_bytes_ += part.size_bytes;
    message_ = EncodePart(static_cast<uint32_t>(item_ - 1), part.offset, PinnedSlices(block_, part));
    StartWrite(&message_);
  }

  void WriteTrailer() {
    v1::GetResponse response;
    response.mutable_trailer()->set_hits(hits_);
    response.mutable_trailer()->set_misses(misses_);
    response.mutable_trailer()->set_sent_bytes(sent_bytes_);
    message_ = EncodeMessage(response);
    Account(absl::StatusCode::kOk);
    StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
  }

  void Account(absl::StatusCode code) {
    metrics_->CountSent(sent_bytes_);
    timer_.SetCode(code);
  }

  void End(const absl::Status& status) {
    Account(status.code());
    block_ = nullptr;
    Finish(ToGrpc(status, context_));
  }

  grpc::CallbackServerContext* const context_;
  BlockStore* const store_;
  Metrics* const metrics_;
  RpcTimer timer_;
  v1::GetRequest request_;
  std::vector<Key> keys_;
  // The open item: its pin, what is left to send of it.
  SharedPin block_;
  std::vector<ByteRange> ranges_;
  size_t range_ = 0;
  size_t item_ = 0;  // items opened
  uint32_t hits_ = 0, misses_ = 0;
  uint64_t sent_bytes_ = 0;
  grpc::ByteBuffer message_;  // alive until OnWriteDone
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* NewGetStream(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer& request, BlockStore* store,
                                                         Metrics* metrics, const Limits& limits) {
  return new GetReactor(context, request, store, metrics, limits);
}

}  // namespace kvist
