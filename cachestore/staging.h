// Pinned host memory of a fixed size that every copy between the host and a device goes through.
//
// Units   bytes.
// Threads every method of Staging from any thread; a Buffer belongs to its holder. The mutex of a lane is taken alone or
//         under that of the late copies.
// Waiting a copy is enqueued on a stream of ours and its event polled until the deadline (device.h: Await). When that
//         passes, the copy may still come about: its buffer and what the caller gave along as `held` are kept until the
//         event is done, or for ever where the device has failed, and nobody else gets their memory meanwhile.
// Errors  DeadlineExceeded  the device was not done in time. The bytes are not to be used.
//         Unavailable       the device has failed.
//         ResourceExhausted the device has no memory for an event: the copy counts as late, the device is whole.
//
// Why its own memory and not that of the host tier: pinning 100 GiB costs minutes at start and all the page tables of the
// driver, while a copy through a warm piece of staging loses one memcpy, which is several times as fast as PCIe.
#ifndef KVIST_CACHESTORE_STAGING_H_
#define KVIST_CACHESTORE_STAGING_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/allocator.h"
#include "cachestore/device.h"

namespace kvist {

class Staging {
 public:
  // A part of the staging, and nobody else's until destruction. Must not outlive the Staging.
  class Buffer {
   public:
    Buffer(Staging* staging, Extents extents, uint64_t size_bytes);
    ~Buffer() { staging_->allocator_.Return(extents_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    uint64_t size_bytes() const { return size_bytes_; }
    absl::Span<const absl::Span<const uint8_t>> pieces() const { return pieces_; }
    // REQUIRES: inside the buffer.
    void Write(uint64_t offset, absl::Span<const uint8_t> bytes);

   private:
    friend class Staging;
    Staging* const staging_;
    const Extents extents_;
    const uint64_t size_bytes_;
    absl::InlinedVector<absl::Span<const uint8_t>, 2> pieces_;
  };
  using BufferRef = std::shared_ptr<Buffer>;

  // Errors: ResourceExhausted, Unavailable (device.h).
  static absl::StatusOr<std::unique_ptr<Staging>> Create(std::shared_ptr<Device> device, uint64_t size_bytes,
                                                         absl::Duration copy_deadline);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Null when there is no room: it comes back as readers drop their pins.
  BufferRef Take(uint64_t size_bytes);
  // What of the device's memory a copy touches: `size_bytes` bytes from `offset` on of the extents, which lie at `base`.
  struct Target {
    DeviceAddress base;
    const Extents* extents = nullptr;
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
  };
  // The first target.size_bytes bytes of the buffer.
  absl::Status CopyToDevice(const Target& to, const BufferRef& from, const std::shared_ptr<void>& held);
  absl::Status CopyToHost(const BufferRef& to, const Target& from, const std::shared_ptr<void>& held);

  uint64_t size_bytes() const { return memory_->size_bytes; }
  uint64_t free_bytes() const { return allocator_.state().free_bytes; }
  // Copies whose deadline has passed and that the device still has.
  size_t late_copies();

 private:
  struct Lane {  // copies of one direction
    std::mutex mutex;
    std::unique_ptr<Stream> stream ABSL_GUARDED_BY(mutex);
  };
  struct Late {
    Lane* lane;
    std::shared_ptr<DeviceEvent> event;  // null: there was no memory for one, or the device has failed
    BufferRef buffer;
    std::shared_ptr<void> held;
  };
  // What a device may still write to when the Staging goes.
  struct Memory {
    std::shared_ptr<Device> device;
    std::unique_ptr<PinnedMemory> pinned;
    uint64_t size_bytes = 0;
  };
  Staging(std::unique_ptr<Memory> memory, absl::Duration copy_deadline)
      : memory_(std::move(memory)), copy_deadline_(copy_deadline), allocator_(memory_->size_bytes) {}

  uint8_t* base() const { return memory_->pinned->bytes().data(); }
  // Enqueues the parts that are in one piece on both sides, and an event.
  template <typename CopyPart>
  absl::Status Copy(Lane& lane, const Target& target, const BufferRef& buffer, const std::shared_ptr<void>& held,
                    const CopyPart& copy_part);
  void Keep(Lane& lane, std::shared_ptr<DeviceEvent> event, const BufferRef& buffer, const std::shared_ptr<void>& held);
  // Lets go what is done by now.
  void DropDone();
  // An event of now stands behind all that was enqueued before, so it serves a copy that got none.
  void RecordMissing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(late_mutex_);

  std::unique_ptr<Memory> memory_;
  const absl::Duration copy_deadline_;
  Allocator allocator_;
  Lane to_device_, to_host_;
  std::mutex late_mutex_;
  std::vector<Late> late_ ABSL_GUARDED_BY(late_mutex_);
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_STAGING_H_
