// A Device on the CPU, for tests: its memory is mapped without any access, so that a host that follows a device address
// crashes; only its own copies, and those who ask for the alias, see the bytes. Every Stream is a thread.
//
// Units   bytes.
// Threads every method from any thread.
// Sharing Export names the memory by process and file descriptor, so that another process of the same user can Import it.
#ifndef KVIST_TESTS_DEVICE_EMULATED_DEVICE_H_
#define KVIST_TESTS_DEVICE_EMULATED_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cachestore/device.h"

namespace kvist::testing {

class EmulatedDevice final : public Device {
 public:
  struct Options {
    uint64_t memory_bytes = uint64_t{256} << 20;
    bool mig = false;
    int ordinal = 0;
    uint64_t pinned_bytes = uint64_t{1} << 30;  // host memory that may be pinned
  };
  static std::unique_ptr<EmulatedDevice> Create(const Options& options);
  ~EmulatedDevice() override;

  const DeviceDescription& description() const override;
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(uint64_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<PinnedMemory>> AllocatePinned(uint64_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override;
  absl::StatusOr<IpcHandle> Export(const DeviceMemory& memory) override;
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Import(const IpcHandle& handle) override;
  absl::Status Health() override;
  absl::Status MakeCurrent() override { return Health(); }

  void Fail(std::string why);  // a poisoned context: every later call and event is Unavailable
  void Hold();                 // from here on no stream takes up work, until Resume or Fail
  void Resume();
  void Starve(bool starved);         // while it is: no memory for anything, events included (ResourceExhausted)
  uint64_t allocated_bytes() const;  // of device memory; imported memory is not counted
  uint64_t pinned_bytes() const;     // of host memory

  // The bytes as a kernel would see them. REQUIRES: inside one allocation, or imported memory.
  std::vector<uint8_t> Read(DeviceAddress from, uint64_t size_bytes) const;
  void Write(DeviceAddress to, absl::Span<const uint8_t> bytes);
  uint8_t* HostAlias(DeviceAddress address) const;

  struct Core;  // shared with streams and memory, which may outlive the device

 private:
  explicit EmulatedDevice(std::shared_ptr<Core> core);
  const std::shared_ptr<Core> core_;
};

// While any of these lives, device addresses of this process can be followed: for code that stands in for kernels, and
// runs on a stream's thread (kvist_emulated_enqueue). Outside of them the host still crashes.
class EmulatedKernel {
 public:
  EmulatedKernel();
  ~EmulatedKernel();
  EmulatedKernel(const EmulatedKernel&) = delete;
};

}  // namespace kvist::testing

// For libraries that stand in for ones which take device pointers and streams; they look these up by name.
extern "C" {
// Where the host sees a device address of any emulated device of this process; null if it is in none.
uint8_t* kvist_emulated_alias(void* device_pointer);
// Runs `work` in the order of the stream, on its thread.
void kvist_emulated_enqueue(void* native_stream, void (*work)(void*), void* argument);
}

#endif  // KVIST_TESTS_DEVICE_EMULATED_DEVICE_H_
