#include "tests/device/device_kinds.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cachestore/cuda_device.h"
#include "tests/device/emulated_device.h"
#include "tests/device/required.h"

namespace kvist::testing {
namespace {

constexpr absl::Duration kCopyLimit = absl::Seconds(30);

absl::Status Passed(Stream& stream) {
  const absl::StatusOr<std::unique_ptr<DeviceEvent>> event = stream.Record();
  return event.ok() ? Await(**event, kCopyLimit) : event.status();
}

}  // namespace

absl::StatusOr<std::shared_ptr<Device>> OpenDevice(const std::string& kind, int ordinal) {
  if (kind == kEmulated) {
    return std::shared_ptr<Device>(EmulatedDevice::Create({.memory_bytes = uint64_t{256} << 20, .ordinal = ordinal}));
  }
  if (kind != kCuda) return absl::InvalidArgumentError(absl::StrCat("no kind of device is called ", kind));
  absl::StatusOr<std::unique_ptr<Device>> device = OpenCudaDevice(ordinal);
  if (!device.ok()) return device.status();
  return std::shared_ptr<Device>(*std::move(device));
}

const std::string& WhyAbsent(const std::string& kind) {
  static const std::string* const no_cuda = new std::string(OpenCudaDevice(0).status().message());
  static const std::string* const here = new std::string;
  return kind == kCuda && !DeviceIsRequired() ? *no_cuda : *here;
}

absl::Status WriteBytes(Device& device, DeviceAddress to, absl::Span<const uint8_t> bytes) {
  const auto pinned = device.AllocatePinned(bytes.size());
  if (!pinned.ok()) return pinned.status();
  const auto stream = device.NewStream();
  if (!stream.ok()) return stream.status();
  std::copy(bytes.begin(), bytes.end(), (*pinned)->bytes().begin());
  if (absl::Status status = (*stream)->CopyToDevice(to, (*pinned)->bytes()); !status.ok()) return status;
  return Passed(**stream);
}

absl::StatusOr<std::vector<uint8_t>> ReadBytes(Device& device, DeviceAddress from, uint64_t size_bytes) {
  const auto pinned = device.AllocatePinned(size_bytes);
  if (!pinned.ok()) return pinned.status();
  const auto stream = device.NewStream();
  if (!stream.ok()) return stream.status();
  if (absl::Status status = (*stream)->CopyToHost((*pinned)->bytes(), from); !status.ok()) return status;
  if (absl::Status status = Passed(**stream); !status.ok()) return status;
  return std::vector<uint8_t>((*pinned)->bytes().begin(), (*pinned)->bytes().end());
}

absl::StatusOr<std::vector<uint8_t>> ReadBytes(Device& device, absl::Span<const DeviceExtent> extents) {
  std::vector<uint8_t> bytes;
  for (const DeviceExtent& extent : extents) {
    absl::StatusOr<std::vector<uint8_t>> part = ReadBytes(device, extent.address, extent.size_bytes);
    if (!part.ok()) return part.status();
    bytes.insert(bytes.end(), part->begin(), part->end());
  }
  return bytes;
}

}  // namespace kvist::testing
