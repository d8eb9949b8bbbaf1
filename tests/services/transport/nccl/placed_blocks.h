// TransferBlocks over memory of any device, and landings in it: what stands on both sides of a transfer in tests.
#ifndef KVIST_TESTS_SERVICES_TRANSPORT_NCCL_PLACED_BLOCKS_H_
#define KVIST_TESTS_SERVICES_TRANSPORT_NCCL_PLACED_BLOCKS_H_

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cachestore/device.h"
#include "services/transport/nccl/device_link.h"
#include "services/transport/nccl/transfer_blocks.h"
#include "tests/device/device_kinds.h"
#include "tests/gpu/numbered.h"

namespace kvist::testing {

inline Key KeyOf(uint32_t number) { return NumberedKey(number); }

// Of a block, in order: none is even, and no piece begins at a round place but the first.
inline std::vector<DeviceExtent> PiecesAt(DeviceAddress at, uint64_t size_bytes) {
  const uint64_t first = size_bytes / 3 + 1;
  return {{at, first}, {at + first, size_bytes - first}};
}

// Blocks in two pieces each, as a fragmented arena places them.
class PlacedBlocks final : public TransferBlocks {
 public:
  explicit PlacedBlocks(Device* device) : device_(device) {}

  void Add(const Key& key, const std::vector<uint8_t>& bytes) {
    std::shared_ptr<DeviceMemory> memory = *device_->Allocate(bytes.size());
    if (absl::Status status = WriteBytes(*device_, memory->base(), bytes); !status.ok()) {
      std::fprintf(stderr, "placed blocks: %s\n", status.ToString().c_str());
      std::abort();
    }
    const std::lock_guard lock(mutex_);
    blocks_[key] = std::move(memory);
  }
  absl::StatusOr<FoundBlocks> Find(absl::Span<const Key> keys, uint64_t room_bytes) override {
    const std::lock_guard lock(mutex_);
    FoundBlocks found;
    for (const Key& key : keys) {
      FoundBlock& block = found.blocks.emplace_back();
      const auto entry = blocks_.find(key);
      if (entry == blocks_.end()) {
        block.miss = MissReason::kNeverStored;
        continue;
      }
      const std::shared_ptr<DeviceMemory>& memory = entry->second;
      if (memory->size_bytes() > room_bytes) {
        block.elsewhere = true;
        continue;
      }
      room_bytes -= memory->size_bytes();
      block.extents = PiecesAt(memory->base(), memory->size_bytes());
      ++pins_;
      block.pin = std::shared_ptr<void>(nullptr, [this, memory](void*) { --pins_; });
    }
    return found;
  }
  int pins() const { return pins_; }

 private:
  Device* const device_;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<DeviceMemory>> blocks_;
  std::atomic<int> pins_{0};
};

// Landings of their own allocation: memory that is still held shows in allocated_bytes().
inline TakeLanding Allocating(Device* device) {
  return [device](uint64_t size_bytes) -> absl::StatusOr<Landing> {
    absl::StatusOr<std::unique_ptr<DeviceMemory>> memory = device->Allocate(size_bytes);
    if (!memory.ok()) return memory.status();
    const DeviceAddress base = (*memory)->base();
    return Landing{base, std::shared_ptr<DeviceMemory>(*std::move(memory))};
  };
}

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TRANSPORT_NCCL_PLACED_BLOCKS_H_
