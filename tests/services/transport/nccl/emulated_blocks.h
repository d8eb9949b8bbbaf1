// TransferBlocks over emulated device memory, and a fallback that counts: what stands on both sides of a transfer in tests.
#ifndef KVIST_TESTS_SERVICES_TRANSPORT_NCCL_EMULATED_BLOCKS_H_
#define KVIST_TESTS_SERVICES_TRANSPORT_NCCL_EMULATED_BLOCKS_H_

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "services/transport/nccl/device_fetch.h"
#include "services/transport/nccl/transfer_blocks.h"
#include "tests/device/emulated_device.h"
#include "tests/services/transport/nccl/pair.h"

namespace kvist::testing {

inline Key KeyOf(uint32_t number) {
  Key key;
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

// Blocks in two pieces each, as a fragmented arena places them.
class EmulatedBlocks final : public TransferBlocks {
 public:
  explicit EmulatedBlocks(EmulatedDevice* device) : device_(device) {}

  void Add(const Key& key, const std::vector<uint8_t>& bytes) {
    std::shared_ptr<DeviceMemory> memory = *device_->Allocate(bytes.size());
    device_->Write(memory->base(), bytes);
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
      const uint64_t first = memory->size_bytes() / 3 + 1;
      block.extents = {{memory->base(), first}, {memory->base() + first, memory->size_bytes() - first}};
      ++pins_;
      block.pin = std::shared_ptr<void>(nullptr, [this, memory](void*) { --pins_; });
    }
    return found;
  }
  int pins() const { return pins_; }

 private:
  EmulatedDevice* const device_;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<DeviceMemory>> blocks_;
  std::atomic<int> pins_{0};
};

// Landings of their own allocation: memory that is still held shows in allocated_bytes().
inline TakeLanding Allocating(EmulatedDevice* device) {
  return [device](uint64_t size_bytes) -> absl::StatusOr<Landing> {
    absl::StatusOr<std::unique_ptr<DeviceMemory>> memory = device->Allocate(size_bytes);
    if (!memory.ok()) return memory.status();
    const DeviceAddress base = (*memory)->base();
    return Landing{base, std::shared_ptr<DeviceMemory>(*std::move(memory))};
  };
}

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TRANSPORT_NCCL_EMULATED_BLOCKS_H_
