#include "cachestore/staging.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cachestore/check.h"

namespace kvist {
namespace {

// Calls visit(offset, size, place) for the runs of [offset, offset + size) of a block that lie in one extent each, where
// `place` is where a run begins in the span that the extents divide. Stops at the first error.
template <typename Visit>
absl::Status ForEachRun(const Extents& extents, uint64_t offset, uint64_t size_bytes, const Visit& visit) {
  uint64_t at = 0;
  for (const Extent& extent : extents) {
    const uint64_t first = std::max(at, offset), last = std::min(at + extent.size_bytes, offset + size_bytes);
    if (first < last) {
      absl::Status status = visit(first, last - first, extent.offset + (first - at));
      if (!status.ok()) return status;
    }
    at += extent.size_bytes;
  }
  Check(offset + size_bytes <= at, "a copy stays inside its extents");
  return absl::OkStatus();
}

}  // namespace

Staging::Buffer::Buffer(Staging* staging, Extents extents, uint64_t size_bytes)
    : staging_(staging), extents_(std::move(extents)), size_bytes_(size_bytes) {
  uint64_t left = size_bytes;
  for (const Extent& extent : extents_) {
    pieces_.emplace_back(staging_->base() + extent.offset, std::min(left, extent.size_bytes));
    left -= pieces_.back().size();
  }
}

void Staging::Buffer::Write(uint64_t offset, absl::Span<const uint8_t> bytes) {
  ForEachRun(extents_, offset, bytes.size(), [&](uint64_t at, uint64_t size_bytes, uint64_t place) {
    std::memcpy(staging_->base() + place, bytes.data() + (at - offset), size_bytes);
    return absl::OkStatus();
  }).IgnoreError();
}

absl::StatusOr<std::unique_ptr<Staging>> Staging::Create(std::shared_ptr<Device> device, uint64_t size_bytes,
                                                         absl::Duration copy_deadline) {
  auto pinned = device->AllocatePinned(size_bytes);
  if (!pinned.ok()) return pinned.status();
  auto memory = std::make_unique<Memory>();
  memory->device = std::move(device);
  memory->pinned = *std::move(pinned);
  memory->size_bytes = size_bytes;
  std::unique_ptr<Staging> staging(new Staging(std::move(memory), copy_deadline));
  for (Lane* lane : {&staging->to_device_, &staging->to_host_}) {
    auto stream = staging->memory_->device->NewStream();
    if (!stream.ok()) return stream.status();
    std::lock_guard<std::mutex> lock(lane->mutex);
    lane->stream = *std::move(stream);
  }
  return staging;
}

// A copy that the device still has may write to the memory at any time: where it is not done within the deadline the
// memory is left to it, for good. A device in that state has failed, and this happens once.
Staging::~Staging() {
  std::lock_guard<std::mutex> lock(late_mutex_);
  RecordMissing();
  bool all_done = true;
  for (const Late& late : late_) {
    if (late.event == nullptr || !Await(*late.event, copy_deadline_).ok()) all_done = false;
  }
  // A device that answers nothing any more writes nothing any more either.
  if (!all_done && memory_->device->Health().ok()) {
    new std::vector<Late>(std::move(late_));
    static_cast<void>(memory_.release());
    return;
  }
  late_.clear();
}

Staging::BufferRef Staging::Take(uint64_t size_bytes) {
  DropDone();
  std::optional<Extents> extents = allocator_.Take(size_bytes);
  if (!extents) return nullptr;
  return std::make_shared<Buffer>(this, *std::move(extents), size_bytes);
}

absl::Status Staging::CopyToDevice(const Target& to, const BufferRef& from, const std::shared_ptr<void>& held) {
  return Copy(to_device_, to, from, held, [this](Stream& stream, DeviceAddress device, uint64_t place, uint64_t size) {
    return stream.CopyToDevice(device, absl::MakeConstSpan(base() + place, size));
  });
}

absl::Status Staging::CopyToHost(const BufferRef& to, const Target& from, const std::shared_ptr<void>& held) {
  return Copy(to_host_, from, to, held, [this](Stream& stream, DeviceAddress device, uint64_t place, uint64_t size) {
    return stream.CopyToHost(absl::MakeSpan(base() + place, size), device);
  });
}

template <typename CopyPart>
absl::Status Staging::Copy(Lane& lane, const Target& target, const BufferRef& buffer, const std::shared_ptr<void>& held,
                           const CopyPart& copy_part) {
  std::shared_ptr<DeviceEvent> event;
  absl::Status enqueued;
  {
    std::lock_guard<std::mutex> lock(lane.mutex);
    enqueued =
        ForEachRun(*target.extents, target.offset, target.size_bytes, [&](uint64_t at, uint64_t size, uint64_t place) {
          const DeviceAddress device = target.base + place;
          return ForEachRun(
              buffer->extents_, at - target.offset, size, [&](uint64_t host_at, uint64_t part, uint64_t host_place) {
                return copy_part(*lane.stream, device + (host_at - (at - target.offset)), host_place, part);
              });
        });
    absl::StatusOr<std::unique_ptr<DeviceEvent>> recorded = lane.stream->Record();  // also behind a part of it
    if (recorded.ok()) event = *std::move(recorded);
    enqueued.Update(recorded.status());
  }
  absl::Status done = enqueued.ok() ? Await(*event, copy_deadline_) : enqueued;
  if (!done.ok()) Keep(lane, std::move(event), buffer, held);  // what was enqueued may still run
  return done;
}

void Staging::Keep(Lane& lane, std::shared_ptr<DeviceEvent> event, const BufferRef& buffer,
                   const std::shared_ptr<void>& held) {
  std::lock_guard<std::mutex> lock(late_mutex_);
  late_.push_back({&lane, std::move(event), buffer, held});
}

void Staging::RecordMissing() {
  for (Late& late : late_) {
    if (late.event != nullptr) continue;
    std::lock_guard<std::mutex> lock(late.lane->mutex);
    if (absl::StatusOr<std::unique_ptr<DeviceEvent>> now = late.lane->stream->Record(); now.ok()) {
      late.event = *std::move(now);
    }
  }
}

void Staging::DropDone() {
  std::vector<Late> done;  // let go after the mutex: what they hold takes others
  std::lock_guard<std::mutex> lock(late_mutex_);
  RecordMissing();
  const auto first_done = std::partition(late_.begin(), late_.end(), [](const Late& late) {
    return late.event == nullptr || !late.event->Done().value_or(false);
  });
  done.assign(std::make_move_iterator(first_done), std::make_move_iterator(late_.end()));
  late_.erase(first_done, late_.end());
}

size_t Staging::late_copies() {
  DropDone();
  std::lock_guard<std::mutex> lock(late_mutex_);
  return late_.size();
}

}  // namespace kvist
