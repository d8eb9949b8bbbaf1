#include "services/worker/device_landing.h"

#include "absl/strings/str_cat.h"

namespace kvist {

std::optional<BlockVerdict> DeviceLanding::Take(size_t block, absl::Span<const uint8_t> bytes,
                                                const ExpectedBlock& expected) {
  if (BlockVerdict verdict = CheckBlock(bytes, expected); verdict.miss != v1::MISS_REASON_UNSPECIFIED) return verdict;
  const absl::StatusOr<Landing> room = TakeRoom(bytes.size());
  if (!room.ok()) return std::nullopt;
  const Staging::BufferRef staged = staging_->Take(bytes.size());
  if (staged == nullptr) {
    NoteTrouble(absl::DeadlineExceededError("the device has not finished earlier copies of this worker's"));
    return std::nullopt;
  }
  staged->Write(0, bytes);
  const Extents whole = {{0, bytes.size()}};
  if (absl::Status copied = staging_->CopyToDevice({room->address, &whole, 0, bytes.size()}, staged, room->hold);
      !copied.ok()) {
    NoteTrouble(copied);
    return std::nullopt;
  }
  Add(block, {{{room->address, bytes.size()}}, BlockWay::kGrpc, nullptr, nullptr, nullptr});
  return BlockVerdict();
}

void DeviceLanding::Add(size_t block, LandedBlock landed) {
  std::lock_guard lock(mutex_);
  if (lane_ != nullptr) blocks_.try_emplace(block, std::move(landed));
}

absl::StatusOr<Landing> DeviceLanding::TakeRoom(uint64_t size_bytes) {
  std::lock_guard lock(mutex_);
  if (lane_ == nullptr) return absl::CancelledError("the Get is over");
  const std::optional<DeviceAddress> at = lane_->Take(size_bytes);
  if (at) return Landing{*at, lane_};
  full_ = true;
  return absl::ResourceExhaustedError(
      absl::StrCat(size_bytes, " bytes of blocks do not fit into what is left of ", lane_->landing_bytes()));
}

void DeviceLanding::Close() {
  std::lock_guard lock(mutex_);
  lane_ = nullptr;
}

void DeviceLanding::NoteTrouble(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  if (trouble_.ok()) trouble_ = absl::Status(status.code(), status.message());
}

std::map<size_t, LandedBlock> DeviceLanding::Blocks() {
  std::lock_guard lock(mutex_);
  return std::move(blocks_);
}
bool DeviceLanding::full() {
  std::lock_guard lock(mutex_);
  return full_;
}
absl::Status DeviceLanding::trouble() {
  std::lock_guard lock(mutex_);
  return absl::Status(trouble_.code(), trouble_.message());
}

}  // namespace kvist
