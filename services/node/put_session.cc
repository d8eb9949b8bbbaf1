#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "services/node/block_check.h"
#include "services/node/handlers_state.h"
#include "services/node/log.h"
#include "services/node/request_keys.h"
#include "services/runtime/trace.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

// Longest header and plane table that a block can have.
constexpr size_t kMaxHeadBytes = kHeaderBytes + size_t{kMaxPlanes} * 1024 * kPlaneEntryBytes;

// More copies of a block would cost more than they save; workers are held to it too.
constexpr uint32_t kMaxReplicas = 3;

absl::Status Copy(const absl::Status& status) { return absl::Status(status.code(), status.message()); }

// The head of a copy as it comes, to be compared with that of the block that is there.
class ArrivingHead {
 public:
  explicit ArrivingHead(std::string stored) : stored_(std::move(stored)) {}

  // Takes what `bytes` bring of the head, if they follow what came before. True once the head is whole.
  bool Take(uint64_t offset, absl::Span<const uint8_t> bytes) {
    if (offset == came_.size()) {
      const size_t taken = std::min(bytes.size(), kMaxHeadBytes - came_.size());
      came_.append(reinterpret_cast<const char*>(bytes.data()), taken);
    }
    return came_.size() >= stored_.size();
  }
  // True if what came is the valid head of a block with this key and namespace, and another than the stored one.
  bool Conflicts(const Key& key, std::string_view namespace_digest) const {
    if (came_.compare(0, stored_.size(), stored_) == 0) return false;
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(came_.data()), came_.size());
    const absl::Span<const uint8_t> pieces[] = {bytes};
    const absl::StatusOr<BlockHead> head = BlockHead::Read(pieces);
    return head.ok() && head->IsOf(namespace_digest) && head->view().identity().key == key.bytes;
  }

 private:
  const std::string stored_;
  std::string came_;
};

// States: open -> reserved (parts come) or comparing (a copy of what is there) -> closed. Any fault closes.
class PutState final : public OpenSession {
 public:
  PutState(HandlersState* node, const Caller& caller, absl::Time deadline, Pass pass)
      : node_(node),
        caller_(caller),
        deadline_(deadline),
        opened_(node->Now()),
        timer_(std::in_place, &node->metrics(), Method::kPut, node->options.runtime, node->options.slow_call),
        pass_(std::move(pass)),
        heard_at_(opened_) {}

  absl::StatusOr<bool> Reserve(const v1::PutReserve& reserve) {
    const TraceScope scope(trace_);
    std::unique_lock lock(mutex_);
    heard_at_ = node_->Now();
    bool unreadable = false;
    absl::StatusOr<bool> reserved = TryReserve(reserve, &unreadable);
    if (unreadable) {
      // What is there makes way for the copy.
      lock.unlock();
      DropIfDamaged(node_, key_, FoundBy::kCopy).IgnoreError();
      lock.lock();
      reserved = TryReserve(reserve, &unreadable);
    }
    if (!reserved.ok()) Close(reserved.status());
    if (reserved.ok() && !*reserved) Close(absl::OkStatus());
    return reserved;
  }

  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) {
    const TraceScope scope(trace_);
    std::lock_guard lock(mutex_);
    heard_at_ = node_->Now();
    absl::Status status = Take(offset, bytes);
    if (!status.ok()) Close(status);
    return status;
  }

  bool over() {
    std::lock_guard lock(mutex_);
    return over_;
  }

  absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) {
    const TraceScope scope(trace_);
    bool stored = false;
    {
      std::lock_guard lock(mutex_);
      absl::StatusOr<bool> committed = TryCommit(size_bytes);
      Close(committed.status());
      if (!committed.ok()) return committed.status();
      stored = *committed;
    }
    if (stored) TellOfStored();
    return Answer(stored);
  }

  v1::PutResponse Answer(bool stored) const {
    v1::PutResponse response;
    response.set_stored(stored);
    response.set_view(node_->view_number());
    return response;
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
      const absl::Status verdict = JudgePace(now);
      if (verdict.ok()) return;
      node_->metrics().CountEndedStream(absl::IsAborted(verdict) ? StreamEnd::kSlowWriter : StreamEnd::kDeadline);
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
  absl::Status JudgePace(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (closed_) return absl::OkStatus();
    if (now >= deadline_) return absl::DeadlineExceededError("the Put's deadline passed before its commit");
    const AdmissionLimits& limits = node_->options.admission;
    if (now - heard_at_ >= limits.write_stall) {
      return absl::AbortedError(absl::StrCat("the writer sent nothing for ", absl::FormatDuration(limits.write_stall),
                                             ": the Put was ended so that its space is free again"));
    }
    const absl::Duration age = now - opened_;
    if (age >= limits.write_stall && came_bytes_ < limits.min_write_rate * absl::ToDoubleSeconds(age)) {
      return absl::AbortedError(absl::StrCat("the writer sent ", came_bytes_, " bytes in ", absl::FormatDuration(age),
                                             ", less than ", limits.min_write_rate, " a second: the Put was ended"));
    }
    return absl::OkStatus();
  }

  absl::Status Check(const v1::PutReserve& reserve) const {
    if (reserve.copy()) {
      if (absl::Status status = CheckMay(caller_, Permission::kCopy); !status.ok()) return status;
    }
    if (reserve.key().size() != Key::kBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the key has ", reserve.key().size(), " bytes; a key is 32 bytes"));
    }
    if (const size_t size = reserve.segment_head().size(); size != 0 && size != Key::kBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("segment_head has ", size, " bytes; it is a key of 32 bytes, or absent"));
    }
    if (reserve.namespace_digest().size() != 16) {
      return absl::InvalidArgumentError(
          absl::StrCat("namespace_digest has ", reserve.namespace_digest().size(), " bytes; it is 16 bytes"));
    }
    if (reserve.size_bytes() > node_->options.limits.max_block_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("a block of ", reserve.size_bytes(),
                                                     " bytes is larger than this node's limit of ",
                                                     node_->options.limits.max_block_bytes, " bytes"));
    }
    if (reserve.replicas() > kMaxReplicas) {
      return absl::InvalidArgumentError(
          absl::StrCat("replicas is ", reserve.replicas(), "; a block stands on at most ", kMaxReplicas, " nodes"));
    }
    if (!node_->taking_blocks()) {
      // Not Unavailable: that would say that nobody is here, and readers would give the node up.
      return absl::FailedPreconditionError(
          absl::StrCat("this node is draining: the view ", node_->view_number(), " names its successor"));
    }
    return absl::OkStatus();
  }

  // `unreadable`: the block that is there is damaged, and can be neither kept nor compared.
  absl::StatusOr<bool> TryReserve(const v1::PutReserve& reserve, bool* unreadable)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (closed_) return Copy(ended_);
    if (reservation_ != nullptr || head_) return absl::FailedPreconditionError("a Put reserves once");
    if (absl::Status status = Check(reserve); !status.ok()) return status;
    const absl::StatusOr<TenantId> tenant = node_->TenantFor(caller_, reserve.tenant());
    if (!tenant.ok()) return tenant.status();
    key_ = KeyFrom(reserve.key(), *tenant);
    traits_.group = reserve.segment_head().empty() ? key_ : KeyFrom(reserve.segment_head(), *tenant);
    if (reserve.ttl_ms() > 0) {
      traits_.expires =
          node_->Now() + absl::Milliseconds(static_cast<int64_t>(std::min<uint64_t>(reserve.ttl_ms(), INT64_MAX)));
      traits_.spare = reserve.copy() && reserve.replicas() == 0;  // CopyTerms
    }
    namespace_digest_ = reserve.namespace_digest();
    replicas_ = std::max(1u, reserve.replicas());
    copy_ = reserve.copy();
    absl::StatusOr<Pass> pass = node_->admission.Reserve(reserve.size_bytes());
    if (!pass.ok()) return pass.status();
    absl::StatusOr<std::unique_ptr<Reservation>> reservation =
        node_->store().Reserve(key_, reserve.size_bytes(), traits_);
    if (absl::IsAlreadyExists(reservation.status())) {
      if (!copy_) return false;
      return Compare(unreadable);
    }
    if (absl::IsResourceExhausted(reservation.status())) {
      node_->metrics().tenants().CountRefusedRoom(key_.tenant);
      return node_->admission.RefuseFull(reservation.status());
    }
    if (!reservation.ok()) return reservation.status();
    reserved_ = *std::move(pass);
    reservation_ = *std::move(reservation);
    return true;
  }

  // Begins to compare a copy with the block that is there. Its sender must not take a block for stored whose writer may
  // still fail.
  absl::StatusOr<bool> Compare(bool* unreadable) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::StatusOr<Lookup> stored = node_->store().Get(key_, /*touch=*/false);
    if (!stored.ok()) return stored.status();
    if (stored->block == nullptr) return absl::AbortedError("another is writing this block; send the copy again later");
    const absl::StatusOr<BlockHead> head = BlockHead::Read(stored->block->pieces());
    *unreadable = !head.ok();
    if (!head.ok()) return absl::AbortedError("the block that is here is damaged; send the copy again later");
    head_.emplace(std::string(head->HeadBytes()));
    return true;
  }

  absl::Status Take(uint64_t offset, absl::Span<const uint8_t> bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (over_) return absl::OkStatus();
    if (closed_) return Copy(ended_);
    if (node_->Now() >= deadline_) return absl::DeadlineExceededError("the Put's deadline passed before its commit");
    came_bytes_ += bytes.size();
    if (head_) {
      if (head_->Take(offset, bytes)) Judge();
      return absl::OkStatus();
    }
    if (reservation_ == nullptr) return absl::FailedPreconditionError("a Part came before the reserve");
    if (absl::Status status = reservation_->Write(offset, bytes); !status.ok()) return status;
    node_->metrics().CountReceived(bytes.size());
    return absl::OkStatus();
  }

  // The head of a copy is here: the first block stays, whatever came.
  void Judge() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    over_ = true;
    if (head_->Conflicts(key_, namespace_digest_)) {
      node_->metrics().CountConflict();
      Log(LogLevel::kWarning, "a copy has other bytes than the stored block; the first is kept", {{"key", key_.Hex()}});
      if (node_->options.hooks.conflict) node_->options.hooks.conflict(key_);
    }
    Close(absl::OkStatus());
  }

  absl::StatusOr<bool> TryCommit(uint64_t size_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (over_) return false;
    if (closed_) return Copy(ended_);
    if (node_->Now() >= deadline_) return absl::DeadlineExceededError("the Put's deadline passed before its commit");
    if (head_) return false;  // it ended before its head was whole: nothing to compare
    if (reservation_ == nullptr) return absl::FailedPreconditionError("a commit came before the reserve");
    uint64_t reserved_bytes = 0;
    for (absl::Span<const uint8_t> piece : reservation_->pieces()) reserved_bytes += piece.size();
    if (size_bytes > reserved_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("commit of ", size_bytes, " bytes; ", reserved_bytes, " were reserved"));
    }
    std::string_view cause;
    if (absl::Status status = CheckBeforeCommit(reservation_->pieces(), size_bytes, key_, namespace_digest_, &cause);
        !status.ok()) {
      node_->metrics().CountRefusedBlock(cause);
      return status;
    }
    const absl::StatusOr<BlockHead> head = BlockHead::Read(reservation_->pieces());
    if (!head.ok()) return head.status();
    reservation_->SetContent(head->content());
    profile_digest_ = head->ProfileDigest();
    if (absl::Status status = reservation_->Commit(size_bytes); !status.ok()) return status;
    node_->metrics().lookups().CountStored(head->view());
    node_->metrics().tenants().CountStored(key_.tenant, size_bytes);
    return true;
  }

  // REQUIRES: the session is closed, so that nobody changes what is read here.
  void TellOfStored() {
    node_->namespaces.CountBlock(key_.tenant, namespace_digest_);
    if (!profile_digest_.empty() && node_->options.hooks.needs_profile) {
      node_->options.hooks.needs_profile(node_->TenantName(key_.tenant), profile_digest_);
    }
    node_->metrics().namespaces().CountStored(namespace_digest_);
    if (copy_ && replicas_ > 1 && node_->options.hooks.copied) {
      node_->options.hooks.copied(key_.tenant, namespace_digest_, replicas_);
    }
    if (!copy_ && node_->options.hooks.stored) {
      node_->options.hooks.stored(key_, traits_, namespace_digest_, replicas_);
    }
  }

  void Close(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (closed_) return;
    closed_ = true;
    ended_ = why.ok() ? absl::FailedPreconditionError("the Put is over") : Copy(why);
    reservation_ = nullptr;
    reserved_.Return();
    timer_->SetStatus(Copy(why));
    timer_.reset();
    pass_.Return();
  }

  HandlersState* const node_;
  const Caller caller_;
  const Trace trace_ = CurrentTrace();
  const absl::Time deadline_, opened_;

  // Written by Reserve, before anything reads them.
  Key key_;
  BlockTraits traits_;
  std::string namespace_digest_;
  uint32_t replicas_ = 1;
  bool copy_ = false;
  std::string profile_digest_;  // of the block, set by its commit; "" = it needs none

  std::mutex mutex_;
  std::optional<RpcTimer> timer_ ABSL_GUARDED_BY(mutex_);
  Pass pass_ ABSL_GUARDED_BY(mutex_), reserved_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> act_ ABSL_GUARDED_BY(mutex_);
  absl::Time heard_at_ ABSL_GUARDED_BY(mutex_);  // when the writer last sent anything
  uint64_t came_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;  // a copy was compared: no part is needed any more
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Reservation> reservation_ ABSL_GUARDED_BY(mutex_);
  std::optional<ArrivingHead> head_ ABSL_GUARDED_BY(mutex_);
};

class PutSessionImpl final : public PutSession {
 public:
  PutSessionImpl(std::shared_ptr<HandlersState> node, std::shared_ptr<PutState> state)
      : node_(std::move(node)), state_(std::move(state)) {
    node_->sessions.Add(state_);
  }
  ~PutSessionImpl() override {
    node_->sessions.Remove(state_.get());
    state_->OnEnd(nullptr);
    state_->End(absl::CancelledError("the stream ended without a commit; nothing was stored"));
  }
  absl::StatusOr<bool> Reserve(const v1::PutReserve& reserve) override { return state_->Reserve(reserve); }
  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) override { return state_->Write(offset, bytes); }
  bool over() const override { return state_->over(); }
  absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) override { return state_->Commit(size_bytes); }
  v1::PutResponse NotStored() const override { return state_->Answer(false); }
  void OnEnd(std::function<void()> act) override { state_->OnEnd(std::move(act)); }

 private:
  const std::shared_ptr<HandlersState> node_;
  const std::shared_ptr<PutState> state_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PutSession>> OpenPutSession(std::shared_ptr<HandlersState> state, const Caller& caller,
                                                           absl::Time deadline) {
  const auto refuse = [&state](absl::Status status) {
    RpcTimer(&state->metrics(), Method::kPut, state->options.runtime, state->options.slow_call).SetStatus(status);
    return status;
  };
  if (absl::Status status = CheckStreamDeadline(*state, deadline); !status.ok()) return refuse(std::move(status));
  if (absl::Status status = CheckMay(caller, Permission::kWrite); !status.ok()) return refuse(std::move(status));
  absl::StatusOr<Pass> pass = state->admission.EnterPut(caller.tenant);
  if (!pass.ok()) return refuse(pass.status());
  return std::make_unique<PutSessionImpl>(state,
                                          std::make_shared<PutState>(state.get(), caller, deadline, *std::move(pass)));
}

}  // namespace kvist
