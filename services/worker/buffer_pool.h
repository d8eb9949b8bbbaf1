// A bounded number of equal buffers for encoded blocks in flight: the client's memory has a limit that can be computed.
//
// Units   bytes; buffers are 64-byte aligned, as planes in a block are.
// Threads any. A Buffer belongs to one thread at a time and must be gone before its pool is.
#ifndef KVIST_SERVICES_WORKER_BUFFER_POOL_H_
#define KVIST_SERVICES_WORKER_BUFFER_POOL_H_

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/runtime/runtime.h"

namespace kvist {

class BufferPool {
 private:
  struct Free {
    void operator()(uint8_t* bytes) const { std::free(bytes); }
  };
  using Bytes = std::unique_ptr<uint8_t, Free>;

 public:
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) = default;
    Buffer& operator=(Buffer&& other);
    ~Buffer() { Return(); }
    explicit operator bool() const { return bytes_ != nullptr; }
    absl::Span<uint8_t> span() const { return {bytes_.get(), bytes_ == nullptr ? 0 : pool_->buffer_bytes_}; }

   private:
    friend class BufferPool;
    Buffer(BufferPool* pool, Bytes bytes) : pool_(pool), bytes_(std::move(bytes)) {}
    void Return();

    BufferPool* pool_ = nullptr;
    Bytes bytes_;
  };

  // Nothing is allocated before it is used; at most `buffers` exist.
  BufferPool(Runtime* runtime, size_t buffers, size_t buffer_bytes)
      : buffer_bytes_(buffer_bytes), returned_(runtime->NewCondition()), buffers_(buffers) {}

  // A free buffer, its content unspecified; empty if none came free in time or memory is exhausted.
  Buffer Acquire(absl::Time deadline);

  // Fewer than exist: those beyond are freed as they return.
  void SetBuffers(size_t buffers);

  size_t buffer_bytes() const { return buffer_bytes_; }

 private:
  void Return(Bytes bytes);

  const size_t buffer_bytes_;
  const std::unique_ptr<Condition> returned_;
  std::mutex mutex_;
  size_t buffers_ ABSL_GUARDED_BY(mutex_);
  std::vector<Bytes> free_ ABSL_GUARDED_BY(mutex_);
  size_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_BUFFER_POOL_H_
