#include "services/worker/fetch_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/worker/candidates.h"
#include "services/worker/cpu_time.h"
#include "services/worker/fetch_sink.h"

namespace kvist {
FetchJob::FetchJob(ClientCore* core, absl::Span<const Key> chain, BlockRange range, std::shared_ptr<BlockTarget> target,
                   absl::Time deadline, std::shared_ptr<DirectWay> direct)
    : core_(core),
      view_(core->view()),
      chain_(chain.begin(), chain.end()),
      range_(range),
      start_(core->Now()),
      deadline_(deadline),
      segments_(Segments(chain_, range, *view_, core->options.replicas, &core->locations)),
      target_(std::move(target)),
      direct_(std::move(direct)),
      changed_(core->runtime()->NewCondition()),
      blocks_(range.last - range.first),
      settled_(range.first),
      end_(range.last),
      last_arrival_(start_) {}

absl::StatusOr<GetResult> FetchJob::Run() {
  ChooseCandidates();
  std::vector<size_t> rest;
  std::vector<OwnerBlocks> direct = TakeDirect(&rest);
  Streams streams;
  std::unique_lock lock(mutex_);
  Ask(rest, /*budget=*/nullptr, &streams);
  lock.unlock();
  for (size_t i = 0; i < streams.size(); ++i) core_->hedges.Earn();
  StartDirect(std::move(direct));
  Start(std::move(streams));
  WaitAndHedge();
  absl::StatusOr<GetResult> result = Conclude();  // before the target refuses what is late: that is no reason
  target_->Close();
  return result;
}

void FetchJob::ChooseCandidates() {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < segments_.size(); ++i) {
    for (size_t block = segments_[i].first; block < segments_[i].last; ++block) At(block).segment = i;
    candidates_.push_back(CandidatesOf(segments_[i], *view_, core_->runtime()));
    alternatives_ = alternatives_ || candidates_.back().size() > 1;
  }
}

std::vector<OwnerBlocks> FetchJob::TakeDirect(std::vector<size_t>* rest) {
  std::vector<bool> leads(view_->links.size());
  for (size_t node = 0; direct_ != nullptr && node < leads.size(); ++node) {
    leads[node] = view_->links[node]->Refusal().ok() && direct_->LeadsTo(view_->links[node]);
  }
  std::vector<OwnerBlocks> direct;
  std::lock_guard lock(mutex_);
  for (size_t block = range_.first; block < range_.last; ++block) {
    const size_t node = candidates_[At(block).segment].front();
    if (!leads[node]) {
      rest->push_back(block);
      continue;
    }
    const auto same = std::find_if(direct.begin(), direct.end(), [&](const auto& d) { return d.owner == node; });
    (same == direct.end() ? direct.emplace_back(OwnerBlocks{node, {}}) : *same).blocks.push_back(block);
    ++At(block).asked;
  }
  return direct;
}

void FetchJob::StartDirect(std::vector<OwnerBlocks> direct) {
  const absl::Time now = core_->Now(), deadline = now + (deadline_ - now) / 2;
  for (OwnerBlocks& of_node : direct) {
    const auto shared = std::make_shared<const OwnerBlocks>(std::move(of_node));
    const absl::Status taken = view_->links[shared->owner]->Submit(
        [self = shared_from_this(), shared, deadline] { self->RunDirect(*shared, deadline); });
    if (!taken.ok()) SkipDirect(shared->blocks);
  }
}

void FetchJob::RunDirect(const OwnerBlocks& direct, absl::Time deadline) {
  if (!WantsAny(direct.blocks)) return Leave(direct.blocks);
  const std::vector<DirectBlock> came = direct_->Fetch(view_->links[direct.owner], direct.blocks, deadline);
  std::vector<size_t> elsewhere;
  for (size_t i = 0; i < came.size(); ++i) {
    const size_t block = direct.blocks[i];
    if (came[i].outcome == DirectBlock::Outcome::kElsewhere) {
      elsewhere.push_back(block);
    } else if (came[i].outcome == DirectBlock::Outcome::kHere) {
      Received(came[i].received_bytes);
      if (Claim(direct.owner, block)) Delivered(block, absl::ZeroDuration());
    } else {
      {
        std::lock_guard lock(mutex_);
        ++At(block).next;  // over the wire it would say the same
      }
      Failed(direct.owner, {&block, 1}, Known(came[i].miss), "");
    }
  }
  SkipDirect(elsewhere);
}

void FetchJob::SkipDirect(absl::Span<const size_t> blocks) {
  Streams streams;
  std::unique_lock lock(mutex_);
  for (const size_t block : blocks) --At(block).asked;
  Ask(blocks, /*budget=*/nullptr, &streams);
  if (!streams.empty()) changed_->NotifyAll();  // they may be late too
  lock.unlock();
  for (size_t i = 0; i < streams.size(); ++i) core_->hedges.Earn();
  Start(std::move(streams));
}

size_t FetchJob::OwnerOf(size_t block) const {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), block,
                                      [](size_t at, const Segment& segment) { return at < segment.first; });
  return (after - 1)->owner;
}

bool FetchJob::HasOther(const Block& block) {
  const std::vector<size_t>& candidates = candidates_[block.segment];
  return std::any_of(candidates.begin() + block.next, candidates.end(),
                     [this](size_t node) { return view_->links[node]->Refusal().ok(); });
}

std::optional<FetchJob::Turn> FetchJob::NextTurn(Block& block, absl::Time now) {
  const std::vector<size_t>& candidates = candidates_[block.segment];
  const size_t position = &block - blocks_.data() + range_.first;
  while (block.next < candidates.size()) {
    const size_t node = candidates[block.next++];
    const absl::Status refusal = view_->links[node]->Refusal();
    if (refusal.ok()) return Turn{node, now};
    NoteReason(node, position, MissReasonOf(refusal), std::string(refusal.message()));
  }
  if (block.spare) return Turn{*std::exchange(block.spare, std::nullopt), now};
  return std::exchange(block.told, std::nullopt);
}

bool FetchJob::Ask(absl::Span<const size_t> blocks, Budget* budget, Streams* streams) {
  const absl::Time now = core_->Now();
  bool allowed = true;
  for (const size_t block : blocks) {
    if (!Wanted(block)) continue;
    Block& state = At(block);
    const size_t before = state.next;
    const std::optional<Turn> turn = NextTurn(state, now);
    Stream* const stream = turn ? StreamFor(*turn, HasOther(state), budget, streams) : nullptr;
    if (stream != nullptr) {
      stream->blocks.push_back(block);
      ++state.asked;
      continue;
    }
    if (turn) {
      state.next = before;
      allowed = false;
    }
    if (state.asked == 0 && !state.decoding) EndRun(block);
  }
  return allowed;
}

// The stream of this turn that is not under way yet, or a new one; null if the budget does not allow it.
FetchJob::Stream* FetchJob::StreamFor(const Turn& turn, bool has_other, Budget* budget, Streams* streams) {
  const absl::Time now = core_->Now();
  // A node has the whole time only if nobody else is left to be asked.
  const absl::Time deadline = has_other ? turn.begins + (deadline_ - turn.begins) / 2 : deadline_;
  const bool rests = turn.begins > now;
  Streams& list = rests ? resting_ : *streams;
  const auto same = std::find_if(list.begin(), list.end(), [&](const auto& stream) {
    return stream->node == turn.node && stream->deadline == deadline && stream->begins == turn.begins;
  });
  if (same != list.end()) return same->get();
  if (budget != nullptr && !budget->Take()) return nullptr;
  list.push_back(std::make_shared<Stream>(Stream{turn.node, {}, deadline, turn.begins, turn.begins}));
  if (alternatives_) streams_.push_back(list.back());
  if (rests) {
    ++core_->counters.retries;
    changed_->NotifyAll();
  }
  return list.back().get();
}

void FetchJob::Start(Streams streams) {
  for (const std::shared_ptr<Stream>& stream : streams) {
    NodeLink& link = *view_->links[stream->node];
    const auto expected = static_cast<int64_t>(stream->blocks.size() * core_->reserve_bytes);
    link.Expect(expected);
    const absl::Status taken = link.Submit([self = shared_from_this(), stream, expected] {
      self->RunStream(stream);
      self->view_->links[stream->node]->Expect(-expected);
    });
    if (taken.ok()) continue;
    link.Expect(-expected);
    Failed(stream->node, stream->blocks, MissReasonOf(taken), std::string(taken.message()));
    Over(*stream);
  }
}

// Until all is settled or the time is over: starts what rests until a node said, and looks after streams that are late.
void FetchJob::WaitAndHedge() {
  const absl::Duration late_after = core_->latencies.LateAfter();
  std::unique_lock lock(mutex_);
  while (settled_ < end_ && fault_.ok()) {
    const absl::Time now = core_->Now();
    if (now >= deadline_) return;
    Streams due = Hedge(late_after, now);
    const auto rested =
        std::partition(resting_.begin(), resting_.end(), [&](const auto& s) { return s->begins > now; });
    due.insert(due.end(), rested, resting_.end());
    resting_.erase(rested, resting_.end());
    if (!due.empty()) {
      lock.unlock();
      Start(std::move(due));
      lock.lock();
      continue;
    }
    absl::Time next = deadline_;
    for (const std::shared_ptr<Stream>& stream : resting_) next = std::min(next, stream->begins);
    for (const std::shared_ptr<Stream>& stream : streams_) {
      if (!stream->over && !stream->hedged) next = std::min(next, LateAt(*stream, late_after));
    }
    changed_->WaitUntil(lock, next);
  }
}

// Asks the next candidates for what late streams have not brought. A stream is hedged once; what the budget does not
// allow yet, or nobody who lives can give, is looked at again.
FetchJob::Streams FetchJob::Hedge(absl::Duration late_after, absl::Time now) {
  Streams hedges;
  const size_t known = streams_.size();  // those that are added are not late
  for (size_t i = 0; i < known; ++i) {
    const std::shared_ptr<Stream> stream = streams_[i];
    if (stream->over || stream->hedged || now < LateAt(*stream, late_after)) continue;
    std::vector<size_t> movable;
    size_t stay = 0;  // nobody who is up can give them
    for (const size_t block : stream->blocks) {
      const Block& state = At(block);
      if (!Wanted(block) || state.decoding || state.next == candidates_[state.segment].size()) continue;
      if (HasOther(state)) {
        movable.push_back(block);
      } else {
        ++stay;
      }
    }
    stream->hedged = Ask(movable, &core_->hedges, &hedges) && stay == 0;
    stream->looked_at = now;
  }
  for (const std::shared_ptr<Stream>& hedge : hedges) std::sort(hedge->blocks.begin(), hedge->blocks.end());
  core_->counters.hedges += hedges.size();
  return hedges;
}

// What the caller gets. From here on nothing is wanted any more, so that late streams stop.
absl::StatusOr<GetResult> FetchJob::Conclude() {
  std::lock_guard lock(mutex_);
  if (!fault_.ok()) {
    end_ = range_.first;
    return std::exchange(fault_, absl::OkStatus());
  }
  if (settled_ < end_) {
    NoteReason(OwnerOf(settled_), settled_, v1::MISS_REASON_DEADLINE,
               absl::StrCat("block ", settled_, " did not come in time"));
    end_ = settled_;
  }
  if (end_ < range_.last) {
    const Reason& reason = reasons_[end_];
    result_.miss = reason.miss;
    result_.why = reason.why;
    result_.miss_node = view_->NodeName(OwnerOf(end_));
  }
  result_.blocks = end_ - range_.first;
  result_.plain_bytes = result_.blocks * core_->shape.PlainBytes();
  result_.fetch_time = last_arrival_ - start_;
  return result_;
}

void FetchJob::RunStream(const std::shared_ptr<Stream>& stream) {
  absl::Span<const size_t> blocks = stream->blocks;
  NodeLink& link = *view_->links[stream->node];
  while (!blocks.empty() && WantsAny(blocks)) {
    const absl::Span<const size_t> batch = blocks.first(std::min(blocks.size(), kMaxKeysPerCall));
    NodeLink::Wait wait(&link);
    Sink sink(this, stream, batch, &wait);
    const absl::Status status = wait.refusal().ok() ? FetchBatch(*stream, batch, &sink) : wait.refusal();
    blocks.remove_prefix(batch.size() - sink.rest().size());
    if (sink.stopped()) break;
    if (status.ok()) {
      wait.End(status);
      continue;
    }
    const absl::Span<const size_t> rest = std::exchange(blocks, {});
    if (!sink.doubt().empty()) {
      Failed(stream->node, rest, v1::MISS_REASON_CHECKSUM, sink.doubt());
      break;
    }
    if (!sink.starved()) wait.End(status);
    if (IsFault(status) && !rest.empty() && OwnerOf(rest[0]) == stream->node) {
      EndWithFault(AtNode(link.id(), status));
    } else {
      Failed(stream->node, rest, MissReasonOf(status), std::string(status.message()), status);
    }
  }
  Leave(blocks);
  Over(*stream);
}

absl::Status FetchJob::FetchBatch(const Stream& stream, absl::Span<const size_t> blocks, Sink* sink) {
  v1::GetRequest request;
  request.set_keys(PackKeys(chain_, blocks));
  request.set_namespace_digest(core_->NamespaceField());
  request.set_view(view_->view.number.value);
  NodeLink& link = *view_->links[stream.node];
  const absl::StatusOr<v1::GetTrailer> trailer = link.channel()->Get(request, stream.deadline, sink);
  if (!trailer.ok()) return trailer.status();
  core_->keeper.Heard(view_->links[stream.node], trailer->view());
  link.HeardLoad(trailer->load());
  if (absl::Status status = sink->Complete(); !status.ok()) return status;
  if (!sink->rest().empty()) return absl::InternalError("the node ended a Get before its last block");
  core_->retries.Succeeded();
  return absl::OkStatus();
}

void FetchJob::Decode(const Stream& stream, size_t block, absl::Span<const uint8_t> bytes) {
  if (!Claim(stream.node, block)) return;
  const absl::Duration before = ThreadCpuTime();
  const std::optional<BlockVerdict> verdict = target_->Take(block, bytes, core_->Expected(chain_[block], block));
  const absl::Duration decode_time = ThreadCpuTime() - before;
  if (!verdict) return NotTaken(block, v1::MISS_REASON_OVERLOADED, "this worker had no room for the block");
  if (verdict->miss == v1::MISS_REASON_NO_PROFILE) {  // whoever sends it: another copy is of no use
    core_->profiles.Need(view_->links[stream.node]);
    return NotTaken(block, verdict->miss, verdict->why);
  }
  if (verdict->miss == v1::MISS_REASON_UNSPECIFIED) return Delivered(block, decode_time);
  if (verdict->miss == v1::MISS_REASON_CHECKSUM) core_->ReportDamage(view_->links[stream.node], chain_[block]);
  {
    std::lock_guard lock(mutex_);
    At(block).decoding = false;
    ++At(block).asked;  // of which Failed takes it
  }
  Failed(stream.node, {&block, 1}, verdict->miss, verdict->why);
}

void FetchJob::NotTaken(size_t block, v1::MissReason miss, const std::string& why) {
  std::lock_guard lock(mutex_);
  NoteReason(OwnerOf(block), block, miss, why);
  EndRun(block);
}

bool FetchJob::Wanted(size_t block) { return block < end_ && fault_.ok() && !At(block).delivered; }

bool FetchJob::SignOfLife(Stream& stream, size_t block) {
  const absl::Time now = alternatives_ ? core_->Now() : absl::InfinitePast();
  std::lock_guard lock(mutex_);
  stream.sign_of_life = now;
  return Wanted(block);
}

bool FetchJob::WantsAny(absl::Span<const size_t> blocks) {
  std::lock_guard lock(mutex_);
  return std::any_of(blocks.begin(), blocks.end(), [this](size_t block) { return Wanted(block); });
}

void FetchJob::Over(Stream& stream) {
  std::lock_guard lock(mutex_);
  stream.over = true;
}

void FetchJob::Leave(absl::Span<const size_t> blocks) {
  std::lock_guard lock(mutex_);
  for (const size_t block : blocks) --At(block).asked;
}

void FetchJob::NoteReason(size_t node, size_t block, v1::MissReason miss, const std::string& why) {
  const bool owners = node == OwnerOf(block);
  const auto [reason, inserted] = reasons_.try_emplace(block, Reason{miss, why, owners});
  if (!inserted && owners && !reason->second.owners) reason->second = {miss, why, owners};
}

// Another holder is asked at once; where there is none, the node itself when it said. To ask on behalf of a node that
// is full is load that it has to be allowed.
void FetchJob::Failed(size_t node, absl::Span<const size_t> blocks, v1::MissReason miss, const std::string& why,
                      const absl::Status& status) {
  const bool full = absl::IsResourceExhausted(status);
  const std::optional<absl::Time> told = full ? core_->ToldTime(status) : std::nullopt;
  Streams streams;
  std::unique_lock lock(mutex_);
  std::vector<size_t> again;
  for (const size_t block : blocks) {
    Block& state = At(block);
    --state.asked;
    if (!Wanted(block)) continue;
    NoteReason(node, block, miss, why);
    if (told && *told < deadline_ && (!state.told || *told < state.told->begins)) state.told = Turn{node, *told};
    if (state.asked == 0 && !state.decoding) again.push_back(block);
  }
  Ask(again, full ? &core_->retries.budget() : nullptr, &streams);
  for (const std::shared_ptr<Stream>& stream : streams) core_->counters.failovers += stream->blocks.size();
  if (!streams.empty()) changed_->NotifyAll();  // they may be late too
  lock.unlock();
  Start(std::move(streams));
}

void FetchJob::EndRun(size_t block) {
  end_ = std::min(end_, block);
  if (settled_ >= end_) changed_->NotifyAll();
}

void FetchJob::EndWithFault(absl::Status fault) {
  std::lock_guard lock(mutex_);
  if (fault_.ok()) fault_ = std::move(fault);  // not a copy: two threads must not share a Status' count
  changed_->NotifyAll();
}

void FetchJob::Received(uint64_t size_bytes) {
  const absl::Time now = core_->Now();
  std::lock_guard lock(mutex_);
  result_.fetched_bytes += size_bytes;
  last_arrival_ = now;
}

bool FetchJob::Claim(size_t node, size_t block) {
  std::lock_guard lock(mutex_);
  Block& state = At(block);
  --state.asked;
  if (!Wanted(block)) return false;
  if (state.decoding) {
    state.spare = node;
    return false;
  }
  state.decoding = true;
  return true;
}

void FetchJob::Delivered(size_t block, absl::Duration decode_time) {
  std::lock_guard lock(mutex_);
  result_.decode_time += decode_time;
  At(block).delivered = true;
  while (settled_ < range_.last && At(settled_).delivered) ++settled_;
  if (settled_ >= end_) changed_->NotifyAll();
}

}  // namespace kvist
