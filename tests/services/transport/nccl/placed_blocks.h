// Blocks in the memory of any device, and landings: what stands on both sides of a transfer in tests.
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
#include "cachestore/device_blocks.h"
#include "services/transport/nccl/device_link.h"
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
class PlacedBlocks final : public DeviceBlocks {
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
  absl::StatusOr<DeviceLookup> GetOnDevice(const Key& key) override {
    const std::lock_guard lock(mutex_);
    DeviceLookup lookup;
    const auto entry = blocks_.find(key);
    if (entry == blocks_.end()) {
      lookup.miss = MissReason::kNeverStored;
      return lookup;
    }
    lookup.tier = Tier::kDevice;
    lookup.pin = std::make_unique<Pin>(entry->second, &pins_);
    return lookup;
  }
  // The bytes of a block; none if it is not there.
  std::vector<uint8_t> Bytes(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto entry = blocks_.find(key);
    if (entry == blocks_.end()) return {};
    return ReadBytes(*device_, entry->second->base(), entry->second->size_bytes()).value();
  }
  int pins() const { return pins_; }

 private:
  class Pin final : public DevicePin {
   public:
    Pin(std::shared_ptr<DeviceMemory> memory, std::atomic<int>* pins)
        : memory_(std::move(memory)), pins_(pins), extents_(PiecesAt(memory_->base(), memory_->size_bytes())) {
      ++*pins_;
    }
    ~Pin() override { --*pins_; }
    uint64_t size_bytes() const override { return memory_->size_bytes(); }
    absl::Span<const DeviceExtent> extents() const override { return extents_; }

   private:
    const std::shared_ptr<DeviceMemory> memory_;
    std::atomic<int>* const pins_;
    const std::vector<DeviceExtent> extents_;
  };

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
