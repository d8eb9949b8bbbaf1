// Receives one stream of a Get into buffers of the client. Internal to services/worker; part of fetch_job.cc.
#ifndef KVIST_SERVICES_WORKER_FETCH_SINK_H_
#define KVIST_SERVICES_WORKER_FETCH_SINK_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/worker/fetch_job.h"

namespace kvist {

// It ends the stream as soon as the run cannot need the rest of it, or when what comes does not fit the request.
class FetchJob::Sink final : public GetSink {
 public:
  Sink(FetchJob* job, std::shared_ptr<Stream> stream, absl::Span<const size_t> blocks, NodeLink::Wait* wait)
      : job_(job), stream_(std::move(stream)), blocks_(blocks), wait_(wait), began_(job->core_->Now()) {}

  absl::Status OnHeader(const v1::GetHeader& header) override {
    wait_->Alive();
    if (next_ == 0 && !buffer_) job_->core_->latencies.Add(job_->core_->Now() - began_);
    if (absl::Status status = Complete(); !status.ok()) return status;
    if (header.item() != next_ || next_ == blocks_.size()) {
      return Doubt(absl::StrCat("item ", header.item(), " came instead of ", next_));
    }
    if (!job_->SignOfLife(*stream_, blocks_[next_]) && !job_->WantsAny(blocks_.subspan(next_))) return Stop();
    if (header.miss() != v1::MISS_REASON_UNSPECIFIED) {
      job_->Failed(stream_->node, blocks_.subspan(next_, 1), Known(header.miss()), "");
      ++next_;
      return job_->WantsAny(blocks_.subspan(next_)) ? absl::OkStatus() : Stop();
    }
    if (header.sent_bytes() < kHeaderBytes || header.sent_bytes() > job_->core_->buffers.buffer_bytes()) {
      return Doubt(absl::StrCat("a block of ", header.sent_bytes(), " bytes is none of this namespace"));
    }
    return Open(header.sent_bytes());
  }

  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t item, uint64_t offset, size_t size_bytes) override {
    if (!buffer_ || item != next_ || offset != received_bytes_ || size_bytes > expected_bytes_ - received_bytes_) {
      return Doubt(absl::StrCat("a part of ", size_bytes, " bytes at ", offset, " of item ", item, " is out of place"));
    }
    wait_->Alive();
    job_->SignOfLife(*stream_, blocks_[next_]);
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
    slot_ = nullptr;
    job_->core_->decoders.Submit([job = job_->shared_from_this(), stream = stream_, block = blocks_[next_], buffer,
                                  size = received_bytes_] { job->Decode(*stream, block, buffer->span().first(size)); });
    ++next_;
    return absl::OkStatus();
  }

  // Of the batch, the blocks that were neither handed on nor answered with a miss.
  absl::Span<const size_t> rest() const { return blocks_.subspan(next_); }
  bool stopped() const { return stopped_; }            // by this sink: nothing of the rest is needed
  const std::string& doubt() const { return doubt_; }  // by this sink: what came does not fit the request; else ""
  bool starved() const { return starved_; }            // by this sink: no buffer came free in time

 private:
  absl::Status Open(uint64_t bytes) {
    wait_->Pause();
    slot_ = job_->view_->links[stream_->node]->buffers().Hold(stream_->deadline);
    if (slot_) buffer_ = job_->core_->buffers.Acquire(stream_->deadline);
    wait_->Resume();
    starved_ = !buffer_;
    if (starved_) return absl::DeadlineExceededError("no buffer of this worker came free in time");
    expected_bytes_ = bytes;
    received_bytes_ = 0;
    return absl::OkStatus();
  }
  absl::Status Stop() {
    stopped_ = true;
    return absl::CancelledError("the rest of this stream is not needed");
  }
  absl::Status Doubt(const std::string& why) {
    buffer_ = {};
    doubt_ = why;
    return absl::CancelledError("what came does not fit the request");
  }

  FetchJob* const job_;  // outlives the sink: its caller holds it
  const std::shared_ptr<Stream> stream_;
  const absl::Span<const size_t> blocks_;
  NodeLink::Wait* const wait_;
  const absl::Time began_;
  size_t next_ = 0;            // position in the batch of the first block that is not complete
  Slots::Held slot_;           // of the node, while it fills the buffer
  BufferPool::Buffer buffer_;  // of the open item
  uint64_t expected_bytes_ = 0, received_bytes_ = 0;
  bool stopped_ = false, starved_ = false;
  std::string doubt_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_FETCH_SINK_H_
