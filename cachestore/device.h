// One accelerator as the store and the transports see it: memory, ordered copies, events. `cuda_device.h` is a real one;
// tests/device/emulated_device.h runs the same logic on a CPU.
//
// Units   bytes. Device addresses are numbers: the host never reads or writes through one.
// Threads every method of Device from any thread; a Stream from one thread at a time; a DeviceEvent from any thread.
// Waiting nothing here waits for the device but `Await`, which has a deadline.
// Errors  ResourceExhausted  the memory is not there; the message says how much was asked and how much is free.
//         Unavailable        the device has failed (a lost driver, a poisoned context). From then on every call answers so,
//                            and Health says why: whoever holds the device drops it.
#ifndef KVIST_CACHESTORE_DEVICE_H_
#define KVIST_CACHESTORE_DEVICE_H_

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace kvist {

// An address in device memory, as the device counts it.
struct DeviceAddress {
  uint64_t value = 0;
  DeviceAddress operator+(uint64_t bytes) const { return {value + bytes}; }
  void* pointer() const { return reinterpret_cast<void*>(value); }  // for kernels and NCCL, never to be followed here
  friend auto operator<=>(const DeviceAddress&, const DeviceAddress&) = default;
};

// Bytes in device memory, one after the other.
struct DeviceExtent {
  DeviceAddress address;
  uint64_t size_bytes = 0;
};

// Becomes done when all that stood before it on its stream is.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;
  virtual absl::StatusOr<bool> Done() = 0;
};

// Work in order. Copies return at once; host memory that they name must be pinned and stay until they are done.
class Stream {
 public:
  virtual ~Stream() = default;  // waits for nothing: what is on it and not done may still run
  virtual absl::Status CopyToDevice(DeviceAddress to, absl::Span<const uint8_t> from) = 0;
  virtual absl::Status CopyToHost(absl::Span<uint8_t> to, DeviceAddress from) = 0;
  virtual absl::Status CopyOnDevice(DeviceAddress to, DeviceAddress from, uint64_t size_bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<DeviceEvent>> Record() = 0;
  virtual absl::Status WaitFor(const DeviceEvent& event) = 0;  // the stream waits, not the caller
  virtual void* native() = 0;                                  // a cudaStream_t
};

// Memory of a device; given back when destroyed.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  DeviceAddress base() const { return base_; }
  uint64_t size_bytes() const { return size_bytes_; }

 protected:
  DeviceMemory(DeviceAddress base, uint64_t size_bytes) : base_(base), size_bytes_(size_bytes) {}

 private:
  const DeviceAddress base_;
  const uint64_t size_bytes_;
};

// Host memory that the device copies from and to at full speed.
class PinnedMemory {
 public:
  virtual ~PinnedMemory() = default;
  absl::Span<uint8_t> bytes() const { return bytes_; }

 protected:
  explicit PinnedMemory(absl::Span<uint8_t> bytes) : bytes_(bytes) {}

 private:
  const absl::Span<uint8_t> bytes_;
};

// Names an allocation to another process on the same host.
struct IpcHandle {
  std::array<uint8_t, 64> bytes{};
  uint64_t size_bytes = 0;
  friend bool operator==(const IpcHandle&, const IpcHandle&) = default;
};

struct DeviceDescription {
  int ordinal = 0;
  std::string name;
  std::array<uint8_t, 16> uuid{};
  uint64_t memory_bytes = 0;
  int driver_version = 0, runtime_version = 0;  // as CUDA counts: 13000 is 13.0
  bool mig = false;                             // a slice of a GPU: no IPC and no NCCL from it
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceDescription& description() const = 0;
  virtual absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(uint64_t size_bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<PinnedMemory>> AllocatePinned(uint64_t size_bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<Stream>> NewStream() = 0;
  // FailedPrecondition: the device cannot share memory (MIG). Import maps what a process that lives has exported; the
  // memory goes away with it, and reads of it then fail the device of the importer.
  virtual absl::StatusOr<IpcHandle> Export(const DeviceMemory& memory) = 0;
  virtual absl::StatusOr<std::unique_ptr<DeviceMemory>> Import(const IpcHandle& handle) = 0;
  virtual absl::Status Health() = 0;
  // Makes it the calling thread's own, for libraries that go by that (NCCL).
  virtual absl::Status MakeCurrent() = 0;
};

// Waits for an event, at most `deadline` from now; polls with short sleeps. DeadlineExceeded, or what Done says.
absl::Status Await(DeviceEvent& event, absl::Duration deadline);

}  // namespace kvist

#endif  // KVIST_CACHESTORE_DEVICE_H_
