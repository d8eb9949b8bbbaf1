// The way over gRPC: Cache.Get into host memory, then through pinned memory to the device.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/transport/nccl/device_fetch.h"

namespace kvist {
namespace {

constexpr uint64_t kStagingBytes = 4 << 20;
constexpr uint64_t kMostBlockBytes = uint64_t{1} << 32;

uint64_t Aligned(uint64_t size_bytes) {
  return (size_bytes + kLandingAlignment - 1) / kLandingAlignment * kLandingAlignment;
}

class HostSink final : public GetSink {
 public:
  struct Item {
    v1::MissReason miss = v1::MISS_REASON_OWNER_DOWN;  // until its header has come
    std::vector<uint8_t> bytes;
    uint64_t missing = 0;
  };
  explicit HostSink(size_t items) : items_(items) {}

  absl::Status OnHeader(const v1::GetHeader& header) override {
    if (header.item() >= items_.size()) return absl::DataLossError("a header for no item");
    Item& item = items_[header.item()];
    item.miss = header.miss();
    if (header.miss() != v1::MISS_REASON_UNSPECIFIED) return absl::OkStatus();
    if (header.block_bytes() > kMostBlockBytes || header.sent_bytes() != header.block_bytes()) {
      return absl::DataLossError(absl::StrCat("a block of ", header.block_bytes(), " bytes"));
    }
    item.bytes.resize(header.block_bytes());
    item.missing = header.block_bytes();
    return absl::OkStatus();
  }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t index, uint64_t offset, size_t size_bytes) override {
    if (index >= items_.size()) return absl::DataLossError("a part of no item");
    Item& item = items_[index];
    if (offset > item.bytes.size() || size_bytes > item.bytes.size() - offset || size_bytes > item.missing) {
      return absl::DataLossError("a part outside its block");
    }
    item.missing -= size_bytes;
    return absl::Span<uint8_t>(item.bytes.data() + offset, size_bytes);
  }
  std::vector<Item>& items() { return items_; }

 private:
  std::vector<Item> items_;
};

class ChannelFallback final : public BlockFallback {
 public:
  ChannelFallback(Channel* channel, Device* device) : channel_(channel), device_(device) {}

  absl::StatusOr<Fetched> Fetch(absl::Span<const Key> keys, const TakeLanding& take, absl::Time deadline) override {
    v1::GetRequest request;
    for (const Key& key : keys) {
      request.mutable_keys()->append(reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size());
    }
    HostSink sink(keys.size());
    const absl::StatusOr<v1::GetTrailer> trailer = channel_->Get(request, deadline, &sink);
    if (!trailer.ok()) return trailer.status();
    uint64_t total = 0;
    for (HostSink::Item& item : sink.items()) {
      if (item.missing > 0) return absl::DataLossError("a block came in part");
      total += Aligned(item.bytes.size());
    }
    absl::StatusOr<Landing> landing = total == 0 ? Landing() : take(total);
    if (!landing.ok()) return landing.status();
    Fetched fetched;
    fetched.hold = landing->hold;
    uint64_t at = 0;
    for (const HostSink::Item& item : sink.items()) {
      const DeviceExtent extent = {landing->address + at, item.bytes.size()};
      fetched.blocks.push_back({item.miss, false, extent});
      if (absl::Status status = Upload(item.bytes, extent.address, deadline); !status.ok()) return status;
      at += Aligned(item.bytes.size());
    }
    return fetched;
  }

 private:
  // One at a time: this way is for bad times, and pinned memory is dear.
  absl::Status Upload(absl::Span<const uint8_t> bytes, DeviceAddress to, absl::Time deadline) {
    const std::lock_guard lock(mutex_);
    if (absl::Status status = Prepare(); !status.ok()) return status;
    for (uint64_t done = 0; done < bytes.size();) {
      const uint64_t size = std::min<uint64_t>(kStagingBytes, bytes.size() - done);
      std::memcpy(staging_->bytes().data(), bytes.data() + done, size);
      absl::Status status = stream_->CopyToDevice(to + done, staging_->bytes().subspan(0, size));
      if (!status.ok()) return status;
      absl::StatusOr<std::unique_ptr<DeviceEvent>> copied = stream_->Record();
      if (!copied.ok()) return copied.status();
      if (status = Await(**copied, deadline - absl::Now()); !status.ok()) return status;
      done += size;
    }
    return absl::OkStatus();
  }
  absl::Status Prepare() {
    if (stream_ != nullptr) return absl::OkStatus();
    absl::StatusOr<std::unique_ptr<PinnedMemory>> staging = device_->AllocatePinned(kStagingBytes);
    if (!staging.ok()) return staging.status();
    absl::StatusOr<std::unique_ptr<Stream>> stream = device_->NewStream();
    if (!stream.ok()) return stream.status();
    staging_ = *std::move(staging);
    stream_ = *std::move(stream);
    return absl::OkStatus();
  }

  Channel* const channel_;
  Device* const device_;
  std::mutex mutex_;
  std::unique_ptr<PinnedMemory> staging_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Stream> stream_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<BlockFallback> NewChannelFallback(Channel* channel, Device* device) {
  return std::make_unique<ChannelFallback>(channel, device);
}

}  // namespace kvist
