// Goal: the tiered store is a BlockStore, without a device, with one, and after it has failed. Method: the conformance
// suite over every kind of device; the suite writes and reads by the host, so nothing moves here. What moves is the subject
// of tests/cachestore/tiered_store_test.cc.
#include "cachestore/tiered_store.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/conformance/block_store_conformance.h"
#include "tests/device/device_kinds.h"
#include "tests/device/emulated_device.h"

namespace kvist {
namespace {

class TieredStoreUnderTest final : public StoreUnderTest {
 public:
  // Without a device if it is null.
  TieredStoreUnderTest(uint64_t capacity_bytes, std::shared_ptr<Device> with) {
    HostTierOptions host;
    host.clock = [this] { return absl::FromUnixMillis(now_ms_.load()); };
    host.max_lease = kMaxLease;
    host.max_pinned_fraction = kMaxPinnedFraction;
    host.capacity_bytes = capacity_bytes;
    DeviceTierOptions device;
    static_cast<TierRules&>(device) = host;
    device.device = with;
    device.capacity_bytes = capacity_bytes;
    device.staging_bytes = capacity_bytes;
    std::unique_ptr<DeviceTier> device_tier;
    if (with != nullptr) device_tier = *DeviceTier::Create(device);
    store_ = std::make_unique<TieredStore>(*HostTier::Create(host), std::move(device_tier), MoveRules());
  }

  BlockStore& store() override { return *store_; }
  uint64_t writable_bytes() override { return store_->host().Stats()->capacity_bytes; }
  std::string MakeBlock(const Key& key, size_t approximate_bytes, uint64_t seed) override {
    return RandomBytes(key, approximate_bytes, seed);
  }
  void Advance(absl::Duration by) override { now_ms_ += absl::ToInt64Milliseconds(by); }
  absl::Time Now() const override { return absl::FromUnixMillis(now_ms_.load()); }

  DeviceState device_state() const { return store_->device_state(); }

 private:
  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  std::unique_ptr<TieredStore> store_;
};

std::unique_ptr<StoreUnderTest> WithoutADevice(uint64_t capacity_bytes) {
  return std::make_unique<TieredStoreUnderTest>(capacity_bytes, nullptr);
}

std::unique_ptr<StoreUnderTest> AfterTheDeviceFailed(uint64_t capacity_bytes) {
  const std::shared_ptr<kvist::testing::EmulatedDevice> device = kvist::testing::EmulatedDevice::Create({});
  auto store = std::make_unique<TieredStoreUnderTest>(capacity_bytes, device);
  device->Fail("an illegal address");
  while (store->device_state() != DeviceState::kLost) std::this_thread::yield();  // the mover looks now and then
  return store;
}

std::vector<StoreKind> TieredStoreKinds() {
  std::vector<StoreKind> kinds = {{"WithoutADevice", WithoutADevice}, {"AfterTheDeviceFailed", AfterTheDeviceFailed}};
  for (const std::string& device : kvist::testing::DeviceKinds()) {
    kinds.push_back({absl::StrCat("With", device),
                     [device](uint64_t capacity_bytes) -> std::unique_ptr<StoreUnderTest> {
                       auto opened = kvist::testing::OpenDevice(device);
                       if (!opened.ok()) return nullptr;
                       return std::make_unique<TieredStoreUnderTest>(capacity_bytes, *opened);
                     },
                     kvist::testing::WhyAbsent(device)});
  }
  return kinds;
}

INSTANTIATE_TEST_SUITE_P(Tiered, BlockStoreConformance, ::testing::ValuesIn(TieredStoreKinds()), StoreKindName);

}  // namespace
}  // namespace kvist
