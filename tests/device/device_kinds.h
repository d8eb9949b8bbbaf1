// The kinds of device that tests run over: the emulated one, and a real one where there is one. A test that asks nothing of
// a device but what device.h says runs over both, from the same lines.
//
// Threads any.
// Errors  of OpenDevice, for the kind that is not here: those of OpenCudaDevice. InvalidArgument: no such kind.
#ifndef KVIST_TESTS_DEVICE_DEVICE_KINDS_H_
#define KVIST_TESTS_DEVICE_DEVICE_KINDS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cachestore/device.h"

namespace kvist::testing {

inline constexpr char kEmulated[] = "Emulated", kCuda[] = "Cuda";
inline const std::vector<std::string>& DeviceKinds() {
  static const std::vector<std::string>* const kinds = new std::vector<std::string>{kEmulated, kCuda};
  return *kinds;
}

// A device of the kind: another one at every call of the emulated kind, the GPU of this ordinal of the other.
absl::StatusOr<std::shared_ptr<Device>> OpenDevice(const std::string& kind, int ordinal = 0);

// Why a kind is not here; "" if it is. Asked once a process. In a run that requires a device (required.h) every kind is
// here: a test over a missing one then fails where it opens it.
const std::string& WhyAbsent(const std::string& kind);

// Bytes there and back through pinned memory, by a stream of its own; waits. For tests, which may be slow.
absl::Status WriteBytes(Device& device, DeviceAddress to, absl::Span<const uint8_t> bytes);
absl::StatusOr<std::vector<uint8_t>> ReadBytes(Device& device, DeviceAddress from, uint64_t size_bytes);
absl::StatusOr<std::vector<uint8_t>> ReadBytes(Device& device, absl::Span<const DeviceExtent> extents);

}  // namespace kvist::testing

#endif  // KVIST_TESTS_DEVICE_DEVICE_KINDS_H_
