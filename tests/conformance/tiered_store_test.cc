// Goal: the tiered store is a BlockStore, without a device, with one, and after it has failed. Method: the conformance
// suite over an emulated device; the suite writes and reads by the host, so nothing moves here. What moves is the subject
// of tests/cachestore/tiered_store_test.cc.
#include "cachestore/tiered_store.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "tests/conformance/block_store_conformance.h"
#include "tests/device/emulated_device.h"

namespace kvist {
namespace {

enum class WithDevice { kNone, kReady, kFailed };

class TieredStoreUnderTest final : public StoreUnderTest {
 public:
  TieredStoreUnderTest(uint64_t capacity_bytes, WithDevice with) {
    HostTierOptions host;
    host.clock = [this] { return absl::FromUnixMillis(now_ms_.load()); };
    host.max_lease = kMaxLease;
    host.max_pinned_fraction = kMaxPinnedFraction;
    host.capacity_bytes = capacity_bytes;
    DeviceTierOptions device;
    static_cast<TierRules&>(device) = host;
    device.device = device_;
    device.capacity_bytes = capacity_bytes;
    device.staging_bytes = capacity_bytes;
    std::unique_ptr<DeviceTier> device_tier;
    if (with != WithDevice::kNone) device_tier = *DeviceTier::Create(device);
    store_ = std::make_unique<TieredStore>(*HostTier::Create(host), std::move(device_tier), MoveRules());
    if (with == WithDevice::kFailed) FailDevice();
  }

  BlockStore& store() override { return *store_; }
  uint64_t writable_bytes() override { return store_->host().Stats()->capacity_bytes; }
  std::string MakeBlock(const Key& key, size_t approximate_bytes, uint64_t seed) override {
    return RandomBytes(key, approximate_bytes, seed);
  }
  void Advance(absl::Duration by) override { now_ms_ += absl::ToInt64Milliseconds(by); }
  absl::Time Now() const override { return absl::FromUnixMillis(now_ms_.load()); }

 private:
  void FailDevice() {
    device_->Fail("an illegal address");
    while (store_->device_state() != DeviceState::kLost) std::this_thread::yield();  // the mover looks now and then
  }

  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  const std::shared_ptr<kvist::testing::EmulatedDevice> device_ = kvist::testing::EmulatedDevice::Create({});
  std::unique_ptr<TieredStore> store_;
};

StoreKind TieredStoreKind(const std::string& name, WithDevice with) {
  return {name,
          [with](uint64_t capacity_bytes) { return std::make_unique<TieredStoreUnderTest>(capacity_bytes, with); }};
}

INSTANTIATE_TEST_SUITE_P(Tiered, BlockStoreConformance,
                         ::testing::Values(TieredStoreKind("WithADevice", WithDevice::kReady),
                                           TieredStoreKind("WithoutADevice", WithDevice::kNone),
                                           TieredStoreKind("AfterTheDeviceFailed", WithDevice::kFailed)),
                         StoreKindName);

}  // namespace
}  // namespace kvist
