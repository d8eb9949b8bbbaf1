#include "services/worker/buffer_pool.h"

#include <utility>

namespace kvist {

constexpr size_t kAlignment = 64;

BufferPool::Buffer& BufferPool::Buffer::operator=(Buffer&& other) {
  Return();
  pool_ = other.pool_;
  bytes_ = std::move(other.bytes_);
  return *this;
}

void BufferPool::Buffer::Return() {
  if (bytes_ != nullptr) pool_->Return(std::move(bytes_));
}

BufferPool::Buffer BufferPool::Acquire(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  if (!returned_->WaitUntil(lock, deadline, [this] { return taken_ < buffers_; })) return {};
  Bytes bytes;
  if (free_.empty()) {
    const size_t rounded = (buffer_bytes_ + kAlignment - 1) / kAlignment * kAlignment;
    bytes.reset(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded)));
    if (bytes == nullptr) return {};
  } else {
    bytes = std::move(free_.back());
    free_.pop_back();
  }
  ++taken_;
  return Buffer(this, std::move(bytes));
}

void BufferPool::SetBuffers(size_t buffers) {
  {
    std::lock_guard lock(mutex_);
    buffers_ = buffers;
    while (!free_.empty() && taken_ + free_.size() > buffers_) free_.pop_back();
  }
  returned_->NotifyAll();
}

void BufferPool::Return(Bytes bytes) {
  {
    std::lock_guard lock(mutex_);
    --taken_;
    if (taken_ + free_.size() < buffers_) free_.push_back(std::move(bytes));
  }
  returned_->NotifyOne();
}

}  // namespace kvist
