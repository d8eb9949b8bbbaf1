// A store of two small tiers on an emulated device, by a clock that stands still, for the tests of `tiered_store_*_test.cc`:
// blocks put and read by number, and a move that is held in its middle.
#ifndef KVIST_TESTS_CACHESTORE_TIERED_STORE_FIXTURE_H_
#define KVIST_TESTS_CACHESTORE_TIERED_STORE_FIXTURE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "cachestore/tiered_store.h"
#include "tests/device/emulated_device.h"

namespace kvist {

using Emulated = kvist::testing::EmulatedDevice;

inline constexpr size_t kBlock = size_t{64} << 10;
inline constexpr uint64_t kHostBlocks = 32, kDeviceBlocks = 16;

inline Key KeyOf(uint64_t number) {
  Key key;
  for (size_t i = 0; i < key.bytes.size(); ++i) {
    number = number * 6364136223846793005u + 1442695040888963407u;
    key.bytes[i] = static_cast<uint8_t>(number >> 56);
  }
  return key;
}

inline std::vector<Key> Chain(uint64_t first, size_t length) {
  std::vector<Key> chain;
  for (size_t i = 0; i < length; ++i) chain.push_back(KeyOf(first + i));
  return chain;
}

inline std::vector<uint8_t> BlockOf(uint64_t number, size_t size_bytes = kBlock) {
  std::vector<uint8_t> block(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) block[i] = static_cast<uint8_t>(number * 131 + i * 7 + (i >> 8));
  return block;
}

inline bool Eventually(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

class TieredStoreTest : public ::testing::Test {
 protected:
  TieredStoreTest() {
    device_options_.capacity_bytes = kDeviceBlocks * kBlock;
    device_options_.staging_bytes = 8 * kBlock;
    device_options_.copy_deadline = absl::Seconds(20);
    rules_.kept_free_fraction = 0;
  }
  void Open() {
    HostTierOptions host;
    host.capacity_bytes = kHostBlocks * kBlock;
    host.clock = [this] { return Now(); };
    static_cast<TierRules&>(device_options_) = host;
    if (device_options_.device == nullptr) device_options_.device = device_;
    auto device = DeviceTier::Create(device_options_);
    ASSERT_TRUE(device.ok()) << device.status();
    store_ = std::make_unique<TieredStore>(*HostTier::Create(host), *std::move(device), rules_);
  }
  absl::Time Now() const { return absl::FromUnixMillis(now_ms_.load()); }
  void Advance(absl::Duration by) { now_ms_ += absl::ToInt64Milliseconds(by); }

  absl::Status Put(uint64_t number, const BlockTraits& traits = {}, size_t size_bytes = kBlock) {
    auto reservation = store_->Reserve(KeyOf(number), size_bytes, traits);
    if (!reservation.ok()) return reservation.status();
    if (absl::Status written = (*reservation)->Write(0, BlockOf(number, size_bytes)); !written.ok()) return written;
    return (*reservation)->Commit(size_bytes);
  }
  void PutAll(uint64_t first, size_t count) {
    for (size_t i = 0; i < count; ++i) ASSERT_TRUE(Put(first + i).ok());
  }
  void Read(uint64_t number) { ASSERT_TRUE(store_->GetOnDevice(KeyOf(number)).ok()); }
  // Two hits of a reader of device memory, and the move that follows.
  void Promote(uint64_t number) {
    Read(number);
    Read(number);
    ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  }
  void PromoteAll(uint64_t first, size_t count) {
    for (size_t i = 0; i < count; ++i) ASSERT_NO_FATAL_FAILURE(Promote(first + i));
  }
  // The block is on the device alone.
  void PutOnDevice(uint64_t number) {
    ASSERT_TRUE(Put(number).ok());
    ASSERT_NO_FATAL_FAILURE(Promote(number));
    ASSERT_TRUE(*store_->host().Erase(KeyOf(number)));
  }
  bool OnHost(uint64_t number) { return store_->host().Get(KeyOf(number), false)->block != nullptr; }
  bool OnDevice(uint64_t number) { return store_->device()->Match({KeyOf(number)}, {})->hits == 1; }
  Lookup Get(uint64_t number) {
    auto lookup = store_->Get(KeyOf(number));
    EXPECT_TRUE(lookup.ok()) << lookup.status();
    return lookup.ok() ? *std::move(lookup) : Lookup();
  }
  static std::vector<uint8_t> BytesOf(const PinnedBlock& block) {
    std::vector<uint8_t> bytes;
    for (const auto& piece : block.pieces()) bytes.insert(bytes.end(), piece.begin(), piece.end());
    return bytes;
  }
  std::vector<uint8_t> BytesOf(const DevicePin& pin) const {
    std::vector<uint8_t> bytes;
    for (const DeviceExtent& extent : pin.extents()) {
      const std::vector<uint8_t> part = device_->Read(extent.address, extent.size_bytes);
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    return bytes;
  }
  // A promotion that has begun and stands still, since the device takes up no work.
  void BeginPromotionAndHold(uint64_t number) {
    device_->Hold();
    Read(number);
    Read(number);
    ASSERT_TRUE(Eventually([&] { return store_->device()->Stats()->reserved_bytes == kBlock; }));
  }

  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  const std::shared_ptr<Emulated> device_ = Emulated::Create({});
  DeviceTierOptions device_options_;
  MoveRules rules_;
  std::unique_ptr<TieredStore> store_;
};

}  // namespace kvist

#endif  // KVIST_TESTS_CACHESTORE_TIERED_STORE_FIXTURE_H_
