#include "services/worker/fetch_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"
#include "services/worker/block_reader.h"
#include "services/worker/cpu_time.h"

namespace kvist {

// Receives one stream into buffers of the client. It ends the stream as soon as the run cannot need its next block.
class FetchJob::Sink final : public GetSink {
 public:
  Sink(std::shared_ptr<FetchJob> job, size_t owner, absl::Span<const size_t> blocks)
      : job_(std::move(job)), owner_(owner), blocks_(blocks) {}

  absl::Status OnHeader(const v1::GetHeader& header) override {
    wait_->Alive();
    if (absl::Status status = Complete(); !status.ok()) return status;
    if (header.item() != next_ || next_ == blocks_.size())
      return Doubt(absl::StrCat("item ", header.item(), " came instead of ", next_));
    const size_t block = blocks_[next_];
    if (!job_->Wanted(block)) return Stop();
    if (header.miss() != v1::MISS_REASON_UNSPECIFIED) {
      job_->EndRun(block, header.miss(), owner_, "");
      return Stop();
    }
    if (header.sent_bytes() < kHeaderBytes || header.sent_bytes() > job_->core_->buffers.buffer_bytes()) {
      return Doubt(absl::StrCat("a block of ", header.sent_bytes(), " bytes is none of this namespace"));
    }
    wait_->Pause();
    buffer_ = job_->core_->buffers.Acquire(job_->deadline_);
    wait_->Resume();
    if (!buffer_) return absl::DeadlineExceededError("no buffer came free in time");
    expected_bytes_ = header.sent_bytes();
    received_bytes_ = 0;
    return absl::OkStatus();
  }

  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t item, uint64_t offset, size_t size_bytes) override {
    if (!buffer_ || item != next_ || offset != received_bytes_ || size_bytes > expected_bytes_ - received_bytes_) {
      return Doubt(absl::StrCat("a part of ", size_bytes, " bytes at ", offset, " of item ", item, " is out of place"));
    }
    wait_->Alive();
    received_bytes_ += size_bytes;
    return buffer_.span().subspan(offset, size_bytes);
  }

  // Hands the open item, if there is one, to the decoders. Called when its last part has been written.
  absl::Status Complete() {
    if (!buffer_) return absl::OkStatus();
    if (received_bytes_ != expected_bytes_) {
      return Doubt(absl::StrCat(received_bytes_, " bytes came of ", expected_bytes_));
    }
    job_->Received(received_bytes_);
    auto buffer = std::make_shared<BufferPool::Buffer>(std::move(buffer_));
    job_->core_->decoders.Submit([job = job_, owner = owner_, block = blocks_[next_], buffer, size = received_bytes_] {
      job->Decode(owner, block, buffer->span().first(size));
    });
    ++next_;
    return absl::OkStatus();
  }

  size_t next() const { return next_; }      // position in the batch of the first block that is not complete
  bool stopped() const { return stopped_; }  // by this sink, which has told the job why

 private:
  absl::Status Stop() {
    stopped_ = true;
    return absl::CancelledError("the rest of this stream is not needed");
  }
  absl::Status Doubt(const std::string& why) {
    buffer_ = {};
    if (next_ < blocks_.size()) job_->EndRun(blocks_[next_], v1::MISS_REASON_CHECKSUM, owner_, why);
    return Stop();
  }

  const std::shared_ptr<FetchJob> job_;
  const size_t owner_;
  const absl::Span<const size_t> blocks_;
  size_t next_ = 0;
  BufferPool::Buffer buffer_;  // of the open item
  uint64_t expected_bytes_ = 0, received_bytes_ = 0;
  bool stopped_ = false;

 public:
  NodeLink::Wait* wait_ = nullptr;
};

FetchJob::FetchJob(ClientCore* core, absl::Span<const Key> chain, BlockRange range, const Pages& pages,
                   absl::Time deadline)
    : core_(core),
      view_(core->view()),
      chain_(chain.begin(), chain.end()),
      range_(range),
      pages_(pages),
      start_(core->Now()),
      deadline_(deadline),
      door_(core->runtime()),
      changed_(core->runtime()->NewCondition()),
      delivered_(range.last - range.first),
      settled_(range.first),
      end_(range.last),
      last_arrival_(start_) {}

absl::StatusOr<GetResult> FetchJob::Run() {
  for (OwnerBlocks& part : GroupByOwner(chain_, range_, view_->view)) {
    if (absl::Status refusal = view_->links[part.owner]->Refusal(); !refusal.ok()) {
      EndRun(part.blocks[0], MissReasonOf(refusal), part.owner, std::string(refusal.message()));
      continue;
    }
    NodeLink& link = *view_->links[part.owner];
    link.Submit([self = shared_from_this(), part = std::move(part)] { self->FetchFrom(part); });
  }
  {
    std::unique_lock lock(mutex_);
    const auto settled = [this]() { return settled_ >= end_ || !fault_.ok(); };
    changed_->WaitUntil(lock, deadline_, settled);
  }
  door_.Close();
  return Conclude();
}

// What the caller gets. From here on nothing is wanted any more, so that late streams stop.
absl::StatusOr<GetResult> FetchJob::Conclude() {
  std::lock_guard lock(mutex_);
  if (!fault_.ok()) {
    end_ = range_.first;
    return std::exchange(fault_, absl::OkStatus());
  }
  if (settled_ < end_) {
    result_.miss = v1::MISS_REASON_DEADLINE;
    result_.miss_node = view_->NodeName(ChainOwners(chain_, view_->view)[settled_]);
    result_.why = absl::StrCat("block ", settled_, " did not come in time");
    end_ = settled_;
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

void FetchJob::FetchFrom(const OwnerBlocks& part) {
  const absl::Span<const size_t> blocks = part.blocks;
  for (size_t first = 0; first < blocks.size() && Wanted(blocks[first]); first += kMaxKeysPerCall) {
    const absl::Span<const size_t> batch = blocks.subspan(first, kMaxKeysPerCall);
    Sink sink(shared_from_this(), part.owner, batch);
    const absl::Status status = FetchBatch(part.owner, batch, &sink);
    if (sink.stopped()) return;
    if (status.ok()) continue;
    if (IsFault(status)) return EndWithFault(AtNode(view_->NodeName(part.owner), status));
    return EndRun(batch[sink.next()], MissReasonOf(status), part.owner, std::string(status.message()));
  }
}

absl::Status FetchJob::FetchBatch(size_t owner, absl::Span<const size_t> blocks, Sink* sink) {
  v1::GetRequest request;
  request.set_keys(PackKeys(chain_, blocks));
  request.set_namespace_digest(core_->NamespaceField());
  request.set_view(view_->view.number.value);
  NodeLink::Wait wait(view_->links[owner].get());
  if (!wait.refusal().ok()) return wait.refusal();
  sink->wait_ = &wait;
  const absl::StatusOr<v1::GetTrailer> trailer = view_->links[owner]->channel()->Get(request, deadline_, sink);
  sink->wait_ = nullptr;
  if (!sink->stopped()) wait.End(trailer.status());
  if (!trailer.ok()) return trailer.status();
  core_->keeper.Heard(view_->links[owner], trailer->view());
  if (absl::Status status = sink->Complete(); !status.ok()) return status;
  if (sink->next() < blocks.size()) return absl::InternalError("the node ended a Get before its last block");
  return absl::OkStatus();
}

void FetchJob::Decode(size_t owner, size_t block, absl::Span<const uint8_t> bytes) {
  if (!Wanted(block) || !door_.Enter()) return;
  const ExpectedBlock expected = {core_->Identity(chain_[block], block), core_->shape, core_->options.min_precision,
                                  core_->options.floor_db};
  Pages pages = pages_;
  pages.base += block * core_->shape.tokens * pages.token_stride;
  const absl::Duration before = ThreadCpuTime();
  const BlockVerdict verdict = ReadBlock(bytes, expected, pages);
  const absl::Duration decode_time = ThreadCpuTime() - before;
  door_.Leave();
  if (verdict.miss == v1::MISS_REASON_UNSPECIFIED) {
    Delivered(block, decode_time);
  } else {
    EndRun(block, verdict.miss, owner, verdict.why);
  }
}

bool FetchJob::Wanted(size_t block) {
  std::lock_guard lock(mutex_);
  return block < end_ && fault_.ok();
}

void FetchJob::Received(uint64_t size_bytes) {
  std::lock_guard lock(mutex_);
  result_.fetched_bytes += size_bytes;
  last_arrival_ = core_->Now();
}

void FetchJob::Delivered(size_t block, absl::Duration decode_time) {
  std::lock_guard lock(mutex_);
  result_.decode_time += decode_time;
  delivered_[block - range_.first] = true;
  while (settled_ < range_.last && delivered_[settled_ - range_.first]) ++settled_;
  if (settled_ >= end_) changed_->NotifyAll();
}

void FetchJob::EndRun(size_t block, v1::MissReason reason, size_t owner, const std::string& why) {
  std::lock_guard lock(mutex_);
  if (block >= end_) return;
  end_ = block;
  result_.miss = reason;
  result_.miss_node = view_->NodeName(owner);
  result_.why = why;
  if (settled_ >= end_) changed_->NotifyAll();
}

void FetchJob::EndWithFault(absl::Status fault) {
  std::lock_guard lock(mutex_);
  if (fault_.ok()) fault_ = std::move(fault);  // not a copy: two threads must not share a Status' count
  changed_->NotifyAll();
}

}  // namespace kvist
