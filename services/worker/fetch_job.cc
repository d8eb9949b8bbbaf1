#include "services/worker/fetch_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/worker/block_reader.h"
#include "services/worker/cpu_time.h"
#include "services/worker/fetch_sink.h"

namespace kvist {
namespace {

// A replica may lack the block still; it is read in place of the owner only if that has this much more to send.
constexpr uint64_t kBusierBytes = 8 << 20;

}  // namespace

FetchJob::FetchJob(ClientCore* core, absl::Span<const Key> chain, BlockRange range, const Pages& pages,
                   absl::Time deadline)
    : core_(core),
      view_(core->view()),
      chain_(chain.begin(), chain.end()),
      range_(range),
      pages_(pages),
      start_(core->Now()),
      deadline_(deadline),
      segments_(Segments(chain_, range, *view_, core->options.replicas, &core->locations)),
      door_(core->runtime()),
      changed_(core->runtime()->NewCondition()),
      blocks_(range.last - range.first),
      settled_(range.first),
      end_(range.last),
      last_arrival_(start_) {}

absl::StatusOr<GetResult> FetchJob::Run() {
  ChooseCandidates();
  std::vector<size_t> all;
  for (size_t block = range_.first; block < range_.last; ++block) all.push_back(block);
  std::unique_lock lock(mutex_);
  std::vector<std::shared_ptr<Stream>> streams = Ask(all);
  lock.unlock();
  Start(std::move(streams));
  WaitAndHedge();
  door_.Close();
  return Conclude();
}

void FetchJob::ChooseCandidates() {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < segments_.size(); ++i) {
    for (size_t block = segments_[i].first; block < segments_[i].last; ++block) At(block).segment = i;
    candidates_.push_back(CandidatesOf(segments_[i]));
    alternatives_ = alternatives_ || candidates_.back().size() > 1;
  }
}

// Where Match found the segment, or its owner; if it is hot, the less loaded of two holders; then all others.
std::vector<size_t> FetchJob::CandidatesOf(const Segment& segment) {
  std::vector<size_t> candidates = {segment.owner};
  if (segment.others.empty()) return candidates;
  if (segment.found) {
    candidates.insert(candidates.begin(), segment.others[0]);
  } else if (segment.hot_first < segment.hot_last) {
    std::vector<size_t> holders = {segment.owner};
    for (size_t i = segment.hot_first; i < segment.hot_last; ++i) holders.push_back(segment.others[i]);
    candidates.insert(candidates.begin(), LessLoaded(holders));
  } else if (segment.hot_last < segment.others.size()) {
    const size_t replica = segment.others[segment.hot_last];
    const uint64_t replicas = view_->links[replica]->Busy() + kBusierBytes;
    if (view_->links[segment.owner]->Busy() > replicas) candidates.insert(candidates.begin(), replica);
  }
  // Replicas and hot copies before a previous owner: where Match found nothing, that one has nothing either.
  std::vector<size_t> rest(segment.others.begin() + segment.asked_first, segment.others.end());
  rest.insert(rest.end(), segment.others.begin(), segment.others.begin() + segment.asked_first);
  for (const size_t node : rest) candidates.push_back(node);
  std::vector<size_t> once;
  for (const size_t node : candidates) {
    if (std::find(once.begin(), once.end(), node) == once.end()) once.push_back(node);
  }
  return once;
}

// Of two at random: enough to spread a load evenly, and no herd runs to the one that was least loaded a moment ago.
size_t FetchJob::LessLoaded(absl::Span<const size_t> holders) {
  const uint64_t random = core_->runtime()->Random();
  const size_t first = random % holders.size();
  const size_t second = (first + 1 + (random >> 32) % (holders.size() - 1)) % holders.size();
  const uint64_t busy_first = view_->links[holders[first]]->Busy();
  const uint64_t busy_second = view_->links[holders[second]]->Busy();
  return holders[busy_second < busy_first ? second : first];
}

size_t FetchJob::OwnerOf(size_t block) const {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), block,
                                      [](size_t at, const Segment& segment) { return at < segment.first; });
  return (after - 1)->owner;
}

std::optional<size_t> FetchJob::NextCandidate(Block& block) {
  const std::vector<size_t>& candidates = candidates_[block.segment];
  const size_t position = &block - blocks_.data() + range_.first;
  while (block.next < candidates.size()) {
    const size_t node = candidates[block.next++];
    const absl::Status refusal = view_->links[node]->Refusal();
    if (refusal.ok()) return node;
    NoteReason(node, position, MissReasonOf(refusal), std::string(refusal.message()));
  }
  return std::exchange(block.spare, std::nullopt);
}

std::vector<std::shared_ptr<FetchJob::Stream>> FetchJob::Ask(absl::Span<const size_t> blocks) {
  const absl::Time now = core_->Now();
  const absl::Time half = now + (deadline_ - now) / 2;
  std::vector<std::shared_ptr<Stream>> streams;
  for (const size_t block : blocks) {
    if (!Wanted(block)) continue;
    Block& state = At(block);
    const std::optional<size_t> node = NextCandidate(state);
    if (!node) {
      if (state.asked == 0 && !state.decoding) EndRun(block);
      continue;
    }
    // A node has the whole time only if nobody else is left to be asked.
    const absl::Time deadline = state.next < candidates_[state.segment].size() ? half : deadline_;
    auto same = std::find_if(streams.begin(), streams.end(),
                             [&](const auto& stream) { return stream->node == *node && stream->deadline == deadline; });
    if (same == streams.end()) {
      same = streams.insert(same, std::make_shared<Stream>(Stream{*node, {}, deadline, now}));
    }
    (*same)->blocks.push_back(block);
    ++state.asked;
  }
  if (alternatives_) streams_.insert(streams_.end(), streams.begin(), streams.end());
  return streams;
}

void FetchJob::Start(std::vector<std::shared_ptr<Stream>> streams) {
  for (std::shared_ptr<Stream>& stream : streams) {
    NodeLink& link = *view_->links[stream->node];
    link.Expect(static_cast<int64_t>(stream->blocks.size() * core_->reserve_bytes));
    core_->hedges.Earn();
    link.Submit([self = shared_from_this(), stream = std::move(stream), expected = core_->reserve_bytes.load()] {
      self->RunStream(stream);
      self->view_->links[stream->node]->Expect(-static_cast<int64_t>(stream->blocks.size() * expected));
    });
  }
}

// Until all is settled or the time is over. Where there are alternatives, looks after streams that are late.
void FetchJob::WaitAndHedge() {
  std::unique_lock lock(mutex_);
  const auto settled = [this]() { return settled_ >= end_ || !fault_.ok(); };
  if (!alternatives_) {
    changed_->WaitUntil(lock, deadline_, settled);
    return;
  }
  const absl::Duration late_after = core_->latencies.LateAfter();
  while (!settled()) {
    const absl::Time now = core_->Now();
    if (now >= deadline_) return;
    std::vector<std::shared_ptr<Stream>> hedges = Hedge(late_after, now);
    if (!hedges.empty()) {
      lock.unlock();
      Start(std::move(hedges));
      lock.lock();
      continue;
    }
    absl::Time next = deadline_;
    for (const std::shared_ptr<Stream>& stream : streams_) {
      if (!stream->over && !stream->hedged) next = std::min(next, stream->sign_of_life + late_after);
    }
    changed_->WaitUntil(lock, next);
  }
}

// Asks the next candidates for what late streams have not brought. A stream is hedged once.
std::vector<std::shared_ptr<FetchJob::Stream>> FetchJob::Hedge(absl::Duration late_after, absl::Time now) {
  std::vector<size_t> late;
  for (const std::shared_ptr<Stream>& stream : streams_) {
    if (stream->over || stream->hedged || now < stream->sign_of_life + late_after) continue;
    stream->hedged = true;
    std::vector<size_t> movable;
    for (const size_t block : stream->blocks) {
      const Block& state = At(block);
      if (Wanted(block) && !state.decoding && state.next < candidates_[state.segment].size()) movable.push_back(block);
    }
    if (movable.empty() || !core_->hedges.Take()) continue;
    late.insert(late.end(), movable.begin(), movable.end());
  }
  std::sort(late.begin(), late.end());
  late.erase(std::unique(late.begin(), late.end()), late.end());
  std::vector<std::shared_ptr<Stream>> hedges = Ask(late);
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
  core_->counters.fetched_blocks += result_.blocks;
  core_->counters.fetched_bytes += result_.fetched_bytes;
  core_->counters.decode_ns += absl::ToInt64Nanoseconds(result_.decode_time);
  core_->CountMiss(result_.miss);
  return result_;
}

void FetchJob::RunStream(const std::shared_ptr<Stream>& stream) {
  absl::Span<const size_t> blocks = stream->blocks;
  NodeLink& link = *view_->links[stream->node];
  int attempt = 0;
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
    // Another holder is asked at once; where there is none, the node's hint is obeyed.
    if (!rest.empty() && !alternatives_ && core_->WaitAsTold(status, attempt++, stream->deadline)) {
      blocks = rest;
      continue;
    }
    if (IsFault(status) && !rest.empty() && OwnerOf(rest[0]) == stream->node) {
      EndWithFault(AtNode(link.id(), status));
    } else {
      Failed(stream->node, rest, MissReasonOf(status), std::string(status.message()));
    }
  }
  Leave(blocks);
  std::lock_guard lock(mutex_);
  stream->over = true;
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
  return absl::OkStatus();
}

void FetchJob::Decode(const Stream& stream, size_t block, absl::Span<const uint8_t> bytes) {
  if (!Claim(stream.node, block) || !door_.Enter()) return;
  const ExpectedBlock expected = {core_->Identity(chain_[block], block), core_->shape, core_->options.min_precision,
                                  core_->options.floor_db};
  Pages pages = pages_;
  pages.base += block * core_->shape.tokens * pages.token_stride;
  const absl::Duration before = ThreadCpuTime();
  const BlockVerdict verdict = ReadBlock(bytes, expected, pages);
  const absl::Duration decode_time = ThreadCpuTime() - before;
  door_.Leave();
  if (verdict.miss == v1::MISS_REASON_UNSPECIFIED) return Delivered(block, decode_time);
  if (verdict.miss == v1::MISS_REASON_CHECKSUM) ReportDamage(stream.node, block);
  {
    std::lock_guard lock(mutex_);
    At(block).decoding = false;
    ++At(block).asked;  // of which Failed takes it
  }
  Failed(stream.node, {&block, 1}, verdict.miss, verdict.why);
}

// The node verifies its copy and drops it if it is damaged there, and not on the way.
void FetchJob::ReportDamage(size_t node, size_t block) {
  ++core_->counters.damaged;
  v1::ReportRequest request;
  request.set_keys(PackKeys(chain_, {block}));
  core_->errands.Submit([core = core_, link = view_->links[node], request = std::move(request)] {
    const absl::Time deadline = core->Now() + kErrandDeadline;
    link->Ask<v1::ReportResponse>([&](Channel& channel) { return channel.Report(request, deadline); })
        .status()
        .IgnoreError();  // the node's own scrub will find it
  });
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

void FetchJob::Leave(absl::Span<const size_t> blocks) {
  std::lock_guard lock(mutex_);
  for (const size_t block : blocks) --At(block).asked;
}

void FetchJob::NoteReason(size_t node, size_t block, v1::MissReason miss, const std::string& why) {
  const bool owners = node == OwnerOf(block);
  const auto [reason, inserted] = reasons_.try_emplace(block, Reason{miss, why, owners});
  if (!inserted && owners && !reason->second.owners) reason->second = {miss, why, owners};
}

void FetchJob::Failed(size_t node, absl::Span<const size_t> blocks, v1::MissReason miss, const std::string& why) {
  std::unique_lock lock(mutex_);
  std::vector<size_t> again;
  for (const size_t block : blocks) {
    --At(block).asked;
    if (!Wanted(block)) continue;
    NoteReason(node, block, miss, why);
    if (At(block).asked == 0 && !At(block).decoding) again.push_back(block);
  }
  std::vector<std::shared_ptr<Stream>> streams = Ask(again);
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
