#include "services/worker/put_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"
#include "services/transport/miss_reason.h"
#include "services/transport/retry_hint.h"
#include "services/worker/cpu_time.h"

namespace kvist {
namespace {

constexpr int kLanesPerOwner = 2;  // one encodes while the other sends
// Tries at a node that leaves: a second of pauses. It refuses blocks a moment before the view says so.
constexpr int kMostAtLeaving = 8;

bool Retryable(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable || status.code() == absl::StatusCode::kResourceExhausted ||
         status.code() == absl::StatusCode::kAborted;
}
// A node that takes no new blocks.
bool Leaves(const absl::Status& status) { return absl::IsFailedPrecondition(status); }
bool OwnerFailed(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || Leaves(status);
}

}  // namespace

PutJob::PutJob(ClientCore* core, absl::Span<const Key> chain, const ConstPages& pages, absl::Time deadline)
    : core_(core),
      view_(core->view()),
      chain_(chain.begin(), chain.end()),
      pages_(pages),
      start_(core->Now()),
      deadline_(deadline),
      door_(core->runtime()),
      changed_(core->runtime()->NewCondition()) {}

absl::StatusOr<PutResult> PutJob::Run(size_t present) {
  for (OwnerBlocks& part : GroupByOwner(chain_, {present, chain_.size()}, view_->view)) {
    queues_.push_back(Queue{part.owner, std::move(part.blocks), 0, {}});
  }
  std::unique_lock lock(mutex_);
  result_.blocks = chain_.size();
  result_.present = present;
  unsettled_ = chain_.size() - present;
  for (Queue& queue : queues_) {
    NodeLink& link = *view_->links[queue.owner];
    for (int lane = 0; lane < std::min<int>(kLanesPerOwner, queue.blocks.size()); ++lane) {
      const absl::Status taken =
          link.Submit([self = shared_from_this(), queue = &queue] { self->RunLane(queue, nullptr); });
      if (taken.ok() || lane > 0) continue;
      queue.next = queue.blocks.size();
      unsettled_ -= queue.blocks.size();
      result_.failed += queue.blocks.size();
      result_.failure = std::string(AtNode(link.id(), taken).message());
    }
  }
  Await(lock);
  over_ = true;
  const std::vector<Resting> given_up = std::move(resting_);
  lock.unlock();
  door_.Close();
  lock.lock();
  if (!fault_.ok()) return std::exchange(fault_, absl::OkStatus());
  if (unsettled_ > 0 && result_.failure.empty())
    result_.failure = absl::StrCat(unsettled_, " blocks were not stored in time");
  result_.failed += unsettled_;
  result_.time = core_->Now() - start_;
  core_->counters.stored_blocks += result_.stored;
  core_->counters.stored_bytes += result_.stored_bytes;
  core_->counters.encode_ns += absl::ToInt64Nanoseconds(result_.encode_time);
  return result_;
}

// Until all is settled or the time is over; has lanes that rested go on.
void PutJob::Await(std::unique_lock<std::mutex>& lock) {
  while (unsettled_ > 0 && fault_.ok()) {
    const absl::Time now = core_->Now();
    if (now >= deadline_) return;
    absl::Time next = deadline_;
    std::vector<Resting> rest;
    for (Resting& lane : resting_) {
      const auto go_on = [self = shared_from_this(), queue = lane.queue, upload = lane.upload] {
        self->RunLane(queue, upload);
      };
      if (lane.resume <= now && view_->links[lane.queue->owner]->Submit(go_on).ok()) continue;
      if (lane.resume <= now) lane.resume = now + core_->retries.Pause(/*attempt=*/0);  // too many wait for a turn
      next = std::min(next, lane.resume);
      rest.push_back(std::move(lane));
    }
    resting_ = std::move(rest);
    changed_->WaitUntil(lock, next);
  }
}

void PutJob::RunLane(Queue* queue, std::shared_ptr<Upload> upload) {
  std::string owner_failure;
  while (true) {
    if (upload == nullptr) {
      const std::optional<size_t> block = NextBlock(queue, &owner_failure);
      if (!block) return;
      upload = std::make_shared<Upload>(Upload{*block, nullptr, nullptr, nullptr, nullptr, {}});
      Place(upload.get());
    }
    // What the first owner said holds for those blocks only that are still its own.
    const bool own = upload->node == view_->links[queue->owner];
    OrAgain<absl::StatusOr<Outcome>> outcome = absl::StatusOr<Outcome>(absl::UnavailableError(owner_failure));
    if (owner_failure.empty() || !own) outcome = PutBlock(upload.get());
    if (const absl::Time* resume = std::get_if<absl::Time>(&outcome)) {
      std::lock_guard lock(mutex_);
      if (!over_) resting_.push_back({queue, std::move(upload), *resume});
      return changed_->NotifyAll();
    }
    Settle(queue, *upload, std::get<absl::StatusOr<Outcome>>(outcome));
    upload = nullptr;
  }
}

// By the newest view: a block may wait long for its turn.
void PutJob::Place(Upload* upload) {
  upload->view = core_->view();
  upload->node = upload->view->links[Owner(chain_[SegmentHead(upload->block)], upload->view->view)];
}

// A node that refuses because it leaves, or is gone, may have a successor already.
bool PutJob::MoveToNewOwner(Upload* upload, const absl::Status& status) {
  if (upload->moved || !(absl::IsUnavailable(status) || absl::IsFailedPrecondition(status))) return false;
  upload->moved = true;
  if (!core_->keeper.Refresh(*upload->node, upload->view->view.number.value, deadline_)) return false;
  const std::shared_ptr<NodeLink> before = upload->node;
  Place(upload);
  upload->reserved_before = upload->reserved_before && upload->node == before;
  return upload->node != before;
}

std::optional<size_t> PutJob::NextBlock(Queue* queue, std::string* owner_failure) {
  std::lock_guard lock(mutex_);
  if (over_ || queue->next == queue->blocks.size()) return std::nullopt;
  *owner_failure = queue->owner_failure;
  return queue->blocks[queue->next++];
}

OrAgain<absl::StatusOr<PutJob::Outcome>> PutJob::PutBlock(Upload* upload) {
  for (;; ++upload->attempt) {
    if (const absl::Status refusal = upload->node->Refusal(); !refusal.ok()) {
      // Given up meanwhile: what the node itself said is the better reason.
      return absl::StatusOr<Outcome>(upload->said.ok() ? refusal : upload->said);
    }
    absl::StatusOr<Outcome> outcome = Try(upload);
    if (outcome.ok()) {
      core_->retries.Succeeded();
      return outcome;
    }
    upload->said = outcome.status();
    if (MoveToNewOwner(upload, outcome.status())) continue;
    const bool leaving = Leaves(outcome.status()) && upload->attempt < kMostAtLeaving;
    if (!Retryable(outcome.status()) && !leaving) return outcome;
    const std::optional<absl::Time> resume = RetryTime(*upload, outcome.status());
    if (!resume) return outcome;
    ++upload->attempt;
    if (leaving) upload->moved = false;  // by then a later view may name its successor
    return *resume;
  }
}

// The first attempt reserves before it encodes: a block that exists costs no work. If tiles had to be raised and it
// does not fit, the reservation is given back and a second one is made at the exact size; later blocks reserve that
// much at once.
absl::StatusOr<PutJob::Outcome> PutJob::Try(Upload* upload) {
  upload->own_attempt_open = false;
  if (absl::Status given = GiveProfile(*upload->node); !given.ok()) return given;
  const size_t reserved_bytes = upload->encoded_bytes > 0 ? upload->encoded_bytes : core_->reserve_bytes.load();
  absl::StatusOr<std::unique_ptr<PutStream>> stream = Reserve(upload, reserved_bytes);
  if (absl::IsAlreadyExists(stream.status())) return Present(upload);
  if (!stream.ok()) return stream.status();
  upload->reserved_before = true;
  if (absl::Status encoded = Encode(upload); !encoded.ok()) return encoded;
  if (upload->encoded_bytes > reserved_bytes) {
    core_->reserve_bytes = std::max(core_->reserve_bytes.load(), upload->encoded_bytes);
    stream->reset();
    return Try(upload);
  }
  const absl::Span<const uint8_t> bytes = upload->buffer.span().first(upload->encoded_bytes);
  const absl::StatusOr<v1::PutResponse> response =
      upload->node->Ask<v1::PutResponse>([&](Channel&) -> absl::StatusOr<v1::PutResponse> {
        if (absl::Status written = (*stream)->Write(0, bytes); !written.ok()) return written;
        return (*stream)->Commit(bytes.size());
      });
  // What was encoded here is a block: if the node says that it is none, it came to the node damaged.
  if (absl::IsInvalidArgument(response.status())) return absl::DataLossError(response.status().message());
  if (!response.ok()) return response.status();
  core_->keeper.Heard(upload->node, response->view());
  return response->stored() ? Outcome::kStored : Outcome::kPresent;
}

absl::StatusOr<std::unique_ptr<PutStream>> PutJob::Reserve(Upload* upload, size_t size_bytes) {
  v1::PutReserve reserve;
  reserve.set_key(PackKeys(chain_, {upload->block}));
  reserve.set_size_bytes(size_bytes);
  reserve.set_namespace_digest(core_->NamespaceField());
  reserve.set_view(upload->view->view.number.value);
  reserve.set_segment_head(PackKeys(chain_, {SegmentHead(upload->block)}));
  reserve.set_replicas(static_cast<uint32_t>(core_->options.replicas));
  Describe(upload->node);
  return upload->node->Ask<std::unique_ptr<PutStream>>([&](Channel& node) { return node.Put(reserve, deadline_); });
}

// Before its first block: no reader must find one whose profile nobody has. Two lanes may both do it the first time; the
// node keeps one.
absl::Status PutJob::GiveProfile(NodeLink& node) {
  if (core_->options.codec != Codec::kQ || node.has_profile()) return absl::OkStatus();
  const OpenProfile& profile = *core_->options.profile;
  v1::ProfileName name;
  name.set_digest(std::string(profile.digest().begin(), profile.digest().end()));
  name.set_size_bytes(profile.file().size());
  const absl::Time deadline = std::min(deadline_, core_->Now() + ProfileKeeper::kLongestCall);
  const absl::Status given = node.Ask<v1::PutProfileResponse>([&](Channel& channel) {
                                   return channel.PutProfile(name, profile.file(), deadline);
                                 })
                                 .status();
  if (given.ok()) node.SetHasProfile();
  return given;
}

// Tells the node once what our namespace is, so that it can name it to others whose is almost the same.
void PutJob::Describe(const std::shared_ptr<NodeLink>& node) {
  if (core_->namespace_text.empty() || !node->TakeDescribe()) return;
  v1::DescribeRequest request;
  request.set_namespace_digest(core_->NamespaceField());
  request.set_namespace_text(core_->namespace_text);
  const bool sent = core_->errands.Submit([core = core_, node, request = std::move(request)] {
    // Past the breaker: an older node may not know the question, and no answer depends on it.
    const absl::Status told = node->channel()->Describe(request, core->Now() + kErrandDeadline).status();
    const bool later = absl::IsUnavailable(told) || absl::IsDeadlineExceeded(told) || absl::IsResourceExhausted(told);
    if (later) node->ForgetDescribe();
  });
  if (!sent) node->ForgetDescribe();
}

// The node says that the block exists or is being written. After a reservation of our own that may be ourselves: the
// node has perhaps not seen yet that it was given up. Then only a committed block counts as present.
absl::StatusOr<PutJob::Outcome> PutJob::Present(Upload* upload) {
  if (!upload->reserved_before) return Outcome::kPresent;
  v1::MatchRequest request;
  request.add_chains()->set_keys(PackKeys(chain_, {upload->block}));
  const absl::StatusOr<v1::MatchResponse> response =
      upload->node->Ask<v1::MatchResponse>([&](Channel& node) { return node.Match(request, deadline_); });
  if (!response.ok()) return response.status();
  if (response->chains_size() == 1 && response->chains(0).hits() == 1) return Outcome::kPresent;
  upload->own_attempt_open = true;
  return absl::AbortedError("the space of an attempt that was given up is not free yet");
}

absl::Status PutJob::Encode(Upload* upload) {
  if (upload->encoded_bytes > 0) return absl::OkStatus();
  upload->encoded_for = upload->node;
  upload->slot = upload->node->buffers().Hold(deadline_);
  if (upload->slot) upload->buffer = core_->buffers.Acquire(deadline_);
  if (!upload->buffer) return absl::ResourceExhaustedError("no buffer of this worker came free in time");
  if (!core_->encoders.Acquire(deadline_)) {
    return absl::DeadlineExceededError("no thread of this worker came free in time");
  }
  const absl::StatusOr<EncodeOptions> options = core_->PreparedForEncode();
  absl::StatusOr<size_t> encoded = absl::DeadlineExceededError("the call was over");
  absl::Duration encode_time;
  if (door_.Enter()) {
    ConstPages pages = pages_;
    pages.base += upload->block * core_->shape.tokens * pages.token_stride;
    const absl::Duration before = ThreadCpuTime();
    encoded = kvist::Encode(core_->Identity(chain_[upload->block], upload->block), core_->shape, pages, *options,
                            upload->buffer.span());
    encode_time = ThreadCpuTime() - before;
    door_.Leave();
  }
  core_->encoders.Release();
  if (!encoded.ok()) return encoded.status();
  upload->encoded_bytes = *encoded;
  std::lock_guard lock(mutex_);
  result_.encode_time += encode_time;
  return absl::OkStatus();
}

// Empty if there is no budget, or not enough time left. Nobody refused an attempt that found an earlier one of our own
// still open, so it costs no budget.
std::optional<absl::Time> PutJob::RetryTime(const Upload& upload, const absl::Status& status) {
  const absl::Time resume = core_->Now() + core_->retries.Pause(upload.attempt, RetryHint(status));
  if (resume >= deadline_) return std::nullopt;
  if (!upload.own_attempt_open && !core_->retries.Take()) return std::nullopt;
  ++core_->counters.retries;
  return resume;
}

void PutJob::Settle(Queue* queue, const Upload& upload, const absl::StatusOr<Outcome>& outcome) {
  std::lock_guard lock(mutex_);
  if (over_) return;
  --unsettled_;
  if (outcome.ok()) {
    if (*outcome == Outcome::kStored) CountStored(upload);
    if (*outcome == Outcome::kPresent) ++result_.present;
  } else {
    const absl::Status status = AtNode(upload.node->id(), outcome.status());
    ++result_.failed;
    if (result_.failure.empty()) result_.failure = std::string(status.message());
    const bool first_owner = upload.node == view_->links[queue->owner];
    if (first_owner && OwnerFailed(outcome.status())) queue->owner_failure = std::string(outcome.status().message());
    if (IsFault(outcome.status()) && !OwnerFailed(outcome.status())) fault_ = status;
  }
  if (unsettled_ == 0 || !fault_.ok()) changed_->NotifyAll();
}

// REQUIRES: mutex_ is held.
void PutJob::CountStored(const Upload& upload) {
  const absl::StatusOr<BlockView> view = BlockView::Parse(upload.buffer.span().first(upload.encoded_bytes));
  if (view.ok()) {
    result_.raised_tiles += view->raised_tiles();
    result_.min_sqnr_db =
        result_.stored == 0 ? view->min_sqnr_db() : std::min(result_.min_sqnr_db, view->min_sqnr_db());
  }
  ++result_.stored;
  result_.plain_bytes += core_->shape.PlainBytes();
  result_.stored_bytes += upload.encoded_bytes;
}

}  // namespace kvist
