#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "services/node/block_check.h"
#include "services/node/handlers_state.h"
#include "services/node/request_keys.h"
#include "services/runtime/trace.h"
#include "services/transport/miss_reason.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

// A pinned block and its place in the bound of pinned bytes; both go with the last part of it.
struct CountedPin {
  BlockRef block;
  Pass pass;
};

// What a step has to tell others of, once the session's lock is released.
struct Events {
  std::optional<std::pair<Key, uint64_t>> read;  // bytes of a block of this group
  std::optional<Key> unreadable;                 // a block whose head is damaged
};

// One that shares nothing with the original, which another thread may hold.
absl::Status Copy(const absl::Status& status) { return absl::Status(status.code(), status.message()); }

std::vector<absl::Span<const uint8_t>> Slices(const PinnedBlock& block, ByteRange range) {
  std::vector<absl::Span<const uint8_t>> slices;
  uint64_t piece_begin = 0;
  for (absl::Span<const uint8_t> piece : block.pieces()) {
    const uint64_t begin = std::max(range.offset, piece_begin);
    const uint64_t end = std::min(range.offset + range.size_bytes, piece_begin + piece.size());
    if (begin < end) slices.push_back(piece.subspan(begin - piece_begin, end - begin));
    piece_begin += piece.size();
  }
  return slices;
}

absl::Status CheckGet(const HandlersState& state, const v1::GetRequest& request, absl::Time deadline) {
  if (absl::Status status = CheckStreamDeadline(state, deadline); !status.ok()) return status;
  if (const size_t size = request.namespace_digest().size(); size != 0 && size != 16) {
    return absl::InvalidArgumentError(absl::StrCat("namespace_digest has ", size, " bytes; it is 16 bytes, or absent"));
  }
  return absl::OkStatus();
}

// The session's state; the list of open sessions holds it too. One item is pinned at a time, besides the parts that the
// wire still holds.
class GetState final : public OpenSession {
 public:
  GetState(HandlersState* node, v1::GetRequest request, std::vector<Key> keys, absl::Time deadline, Pass pass,
           uint64_t queued_bytes)
      : node_(node),
        request_(std::move(request)),
        keys_(std::move(keys)),
        deadline_(deadline),
        opened_(node->Now()),
        timer_(std::in_place, &node->metrics(), Method::kGet, node->options.runtime, node->options.slow_call),
        pass_(std::move(pass)),
        queued_bytes_(queued_bytes),
        taken_at_(opened_) {}

  absl::StatusOr<GetSession::Message> Next() {
    const TraceScope scope(trace_);
    Events events;
    absl::StatusOr<GetSession::Message> message = absl::InternalError("");
    {
      std::lock_guard lock(mutex_);
      message = Step(&events);
      if (!message.ok()) Close(message.status());
    }
    if (events.read && node_->options.hooks.read) node_->options.hooks.read(events.read->first, events.read->second);
    if (events.unreadable) DropIfDamaged(node_, *events.unreadable, FoundBy::kRead).IgnoreError();
    return message;
  }

  void OnEnd(std::function<void()> act) {
    std::lock_guard lock(mutex_);
    act_ = std::move(act);
  }

  void Sweep(absl::Time now) override {
    const TraceScope scope(trace_);
    std::function<void()> act;
    {
      std::unique_lock lock(mutex_, std::try_to_lock);
      if (!lock.owns_lock()) return;  // its user is at it: it is not slow
      const absl::Status verdict = Judge(now);
      if (verdict.ok()) return;
      node_->metrics().CountEndedStream(absl::IsAborted(verdict) ? StreamEnd::kSlowReader : StreamEnd::kDeadline);
      Close(verdict);
      act = std::exchange(act_, nullptr);
    }
    if (act) act();
  }
  void End(absl::Status why) override {
    const TraceScope scope(trace_);
    std::function<void()> act;
    {
      std::lock_guard lock(mutex_);
      Close(why);
      act = std::exchange(act_, nullptr);
    }
    if (act) act();
  }

 private:
  absl::Status Judge(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (closed_) return absl::OkStatus();
    if (now >= deadline_) return absl::DeadlineExceededError("the Get's deadline passed before it was read");
    const AdmissionLimits& limits = node_->options.admission;
    if (now - taken_at_ >= limits.read_stall) {
      return absl::AbortedError(absl::StrCat("the reader took nothing for ", absl::FormatDuration(limits.read_stall),
                                             ": the Get was ended so that its blocks can go"));
    }
    const absl::Duration age = now - opened_;
    if (age >= limits.read_stall && taken_bytes_ < limits.min_read_rate * absl::ToDoubleSeconds(age)) {
      return absl::AbortedError(absl::StrCat("the reader took ", taken_bytes_, " bytes in ", absl::FormatDuration(age),
                                             ", less than ", limits.min_read_rate, " a second: the Get was ended"));
    }
    return absl::OkStatus();
  }

  // The next part of the open item, the next item's header, or the trailer.
  absl::StatusOr<GetSession::Message> Step(Events* events) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (closed_) return Copy(ended_);
    taken_at_ = node_->Now();
    taken_bytes_ = sent_bytes_;
    if (taken_at_ >= deadline_) return absl::DeadlineExceededError("the Get's deadline passed before it was read");
    if (range_ < ranges_.size()) return NextPart();
    block_ = nullptr;
    if (item_ == keys_.size()) return Trailer();
    absl::StatusOr<v1::GetHeader> header = OpenItem(keys_[item_], events);
    if (!header.ok()) return header.status();
    header->set_item(static_cast<uint32_t>(item_));
    (header->miss() == v1::MISS_REASON_UNSPECIFIED ? hits_ : misses_) += 1;
    if (block_ == nullptr) {
      node_->metrics().lookups().CountMisses(LookupOp::kGet, header->miss(), 1);
      node_->metrics().namespaces().CountMiss(request_.namespace_digest());
    }
    node_->metrics().tenants().CountGet(keys_[item_].tenant, block_ != nullptr, header->sent_bytes());
    node_->admission.CountItem(header->sent_bytes());
    Requeue(keys_.size() - item_, header->sent_bytes());
    ++item_;
    return *std::move(header);
  }

  // Looks the item up and plans its ranges. A miss leaves block_ empty.
  absl::StatusOr<v1::GetHeader> OpenItem(const Key& key, Events* events) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ranges_.clear();
    range_ = 0;
    v1::GetHeader header;
    absl::StatusOr<Lookup> lookup = node_->store().Get(key);
    if (!lookup.ok()) return lookup.status();
    if (lookup->block == nullptr) {
      header.set_miss(ToWire(lookup->miss));
      return header;
    }
    uint32_t tokens = 0;
    std::string digest;
    absl::StatusOr<std::vector<ByteRange>> ranges = Plan(lookup->block->pieces(), &header, &tokens, &digest);
    if (!ranges.ok()) return ranges.status();
    if (header.miss() == v1::MISS_REASON_CHECKSUM) events->unreadable = key;
    if (header.miss() != v1::MISS_REASON_UNSPECIFIED) return header;
    absl::StatusOr<Pass> pass =
        node_->admission.Pin(lookup->block->pieces()[0].data(), lookup->block->size_bytes(), pins_);
    if (!pass.ok()) return pass.status();
    LookupMetrics& lookups = node_->metrics().lookups();
    lookups.CountHits(LookupOp::kGet, {1, tokens, lookup->block->size_bytes()});
    if (request_.first_layer() == 0) lookups.CountSaved(tokens);
    node_->metrics().namespaces().CountHit(digest);
    ranges_ = *std::move(ranges);
    header.set_block_bytes(lookup->block->size_bytes());
    header.set_tier(static_cast<v1::Tier>(lookup->tier));
    for (const ByteRange& range : ranges_) header.set_sent_bytes(header.sent_bytes() + range.size_bytes);
    events->read.emplace(lookup->traits.group, header.sent_bytes());
    block_ = std::make_shared<CountedPin>(CountedPin{std::move(lookup->block), *std::move(pass)});
    return header;
  }

  // Which bytes to send of a block of how many tokens and which namespace; or none, and why in the header's miss.
  absl::StatusOr<std::vector<ByteRange>> Plan(Pieces pieces, v1::GetHeader* header, uint32_t* tokens,
                                              std::string* digest) const {
    const auto miss = [header](v1::MissReason reason) {
      header->set_miss(reason);
      return std::vector<ByteRange>();
    };
    const absl::StatusOr<BlockHead> head = BlockHead::Read(pieces);
    if (!head.ok()) return miss(v1::MISS_REASON_CHECKSUM);
    if (!head->IsOf(request_.namespace_digest())) return miss(v1::MISS_REASON_IDENTITY_MISMATCH);
    const BlockView& view = head->view();
    *tokens = view.shape().tokens;
    const auto& made_for = view.identity().namespace_digest;
    digest->assign(made_for.begin(), made_for.end());
    const bool all_layers = request_.first_layer() == 0 && request_.last_layer() == 0;
    if (all_layers && request_.precision() == 0) return std::vector<ByteRange>{{0, view.block_bytes()}};
    absl::StatusOr<std::vector<ByteRange>> ranges =
        view.RangesFor(request_.first_layer(), all_layers ? view.shape().layers : request_.last_layer(),
                       static_cast<int>(request_.precision()));
    if (absl::IsFailedPrecondition(ranges.status())) return miss(v1::MISS_REASON_PRECISION);
    return ranges;
  }

  PinnedPart NextPart() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ByteRange& range = ranges_[range_];
    const ByteRange bytes = {range.offset, std::min<uint64_t>(range.size_bytes, kMaxPartBytes)};
    range.offset += bytes.size_bytes;
    range.size_bytes -= bytes.size_bytes;
    if (range.size_bytes == 0) ++range_;
    sent_bytes_ += bytes.size_bytes;
    node_->admission.SetQueued(&queued_bytes_, queued_bytes_ - std::min(queued_bytes_, bytes.size_bytes));
    return {static_cast<uint32_t>(item_ - 1), bytes.offset, bytes.size_bytes, Slices(*block_->block, bytes), block_};
  }

  v1::GetTrailer Trailer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Close(absl::OkStatus());
    v1::GetTrailer trailer;
    trailer.set_hits(hits_);
    trailer.set_misses(misses_);
    trailer.set_sent_bytes(sent_bytes_);
    trailer.set_view(node_->view_number());
    *trailer.mutable_load() = node_->load();
    return trailer;
  }

  // The item's real size takes the place of its share of the guess.
  void Requeue(size_t items_left, uint64_t item_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    node_->admission.SetQueued(&queued_bytes_, queued_bytes_ - queued_bytes_ / items_left + item_bytes);
  }

  // Gives everything back and counts the call; only the first time.
  void Close(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (closed_) return;
    closed_ = true;
    ended_ = why.ok() ? absl::FailedPreconditionError("the Get is over") : Copy(why);
    block_ = nullptr;
    node_->admission.SetQueued(&queued_bytes_, 0);
    node_->metrics().CountSent(sent_bytes_);
    timer_->SetStatus(Copy(why));
    timer_.reset();
    pass_.Return();
  }

  HandlersState* const node_;
  const Trace trace_ = CurrentTrace();
  const v1::GetRequest request_;
  const std::vector<Key> keys_;
  const absl::Time deadline_, opened_;
  const std::shared_ptr<PinnedBlocks> pins_ = std::make_shared<PinnedBlocks>();  // guarded by the admission

  std::mutex mutex_;
  std::optional<RpcTimer> timer_ ABSL_GUARDED_BY(mutex_);
  Pass pass_ ABSL_GUARDED_BY(mutex_);
  uint64_t queued_bytes_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> act_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);
  // The open item: its pin, what is left to send of it.
  std::shared_ptr<CountedPin> block_ ABSL_GUARDED_BY(mutex_);
  std::vector<ByteRange> ranges_ ABSL_GUARDED_BY(mutex_);
  size_t range_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t item_ ABSL_GUARDED_BY(mutex_) = 0;  // items opened
  uint32_t hits_ ABSL_GUARDED_BY(mutex_) = 0, misses_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sent_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // What the reader is known to have taken, and when it last did.
  uint64_t taken_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time taken_at_ ABSL_GUARDED_BY(mutex_);
};

class GetSessionImpl final : public GetSession {
 public:
  GetSessionImpl(std::shared_ptr<HandlersState> node, std::shared_ptr<GetState> state)
      : node_(std::move(node)), state_(std::move(state)) {
    node_->sessions.Add(state_);
  }
  ~GetSessionImpl() override {
    node_->sessions.Remove(state_.get());
    state_->OnEnd(nullptr);
    state_->End(absl::CancelledError("the reader went away"));
  }
  absl::StatusOr<Message> Next() override { return state_->Next(); }
  void OnEnd(std::function<void()> act) override { state_->OnEnd(std::move(act)); }

 private:
  const std::shared_ptr<HandlersState> node_;
  const std::shared_ptr<GetState> state_;
};

}  // namespace

absl::Status CheckStreamDeadline(const HandlersState& state, absl::Time deadline) {
  const absl::Duration most = state.options.limits.max_stream;
  // A second of grace: the deadline travels as a time-out and is rounded up.
  if (deadline <= state.options.runtime->Now() + most + absl::Seconds(1)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("Get, Put and GetProfile need a deadline of at most ",
                                                 absl::FormatDuration(most), ": set one on the call"));
}

absl::StatusOr<std::unique_ptr<GetSession>> OpenGetSession(std::shared_ptr<HandlersState> state, const Caller& caller,
                                                           const v1::GetRequest& request, absl::Time deadline) {
  const auto refuse = [&state](absl::Status status) {
    RpcTimer(&state->metrics(), Method::kGet, state->options.runtime, state->options.slow_call).SetStatus(status);
    return status;
  };
  if (absl::Status status = CheckGet(*state, request, deadline); !status.ok()) return refuse(status);
  const absl::StatusOr<TenantId> tenant = state->TenantFor(caller, request.tenant());
  if (!tenant.ok()) return refuse(tenant.status());
  absl::StatusOr<std::vector<Key>> keys = ParseKeys(request.keys(), state->options.limits.max_keys, *tenant);
  if (!keys.ok()) return refuse(keys.status());
  uint64_t queued_bytes = 0;
  absl::StatusOr<Pass> pass = state->admission.EnterGet(caller.tenant, keys->size(), &queued_bytes);
  if (!pass.ok()) return refuse(pass.status());
  return std::make_unique<GetSessionImpl>(state, std::make_shared<GetState>(state.get(), request, *std::move(keys),
                                                                            deadline, *std::move(pass), queued_bytes));
}

}  // namespace kvist
