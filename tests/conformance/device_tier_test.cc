// Goal: the device tier is a BlockStore. Method: the conformance suite over every kind of device (the emulated one's memory
// crashes a host that reads it); with the default index and with a single shard.
#include "cachestore/device_tier.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/conformance/block_store_conformance.h"
#include "tests/device/device_kinds.h"

namespace kvist {
namespace {

class DeviceTierUnderTest final : public StoreUnderTest {
 public:
  DeviceTierUnderTest(std::shared_ptr<Device> device, uint64_t capacity_bytes, size_t shards) {
    DeviceTierOptions options;
    options.device = std::move(device);
    options.capacity_bytes = capacity_bytes;
    options.staging_bytes = 4 * capacity_bytes;  // the suite holds as many copies as blocks, and reserves the capacity
    options.clock = [this] { return absl::FromUnixMillis(now_ms_.load()); };
    options.max_lease = kMaxLease;
    options.max_pinned_fraction = kMaxPinnedFraction;
    options.index_shards = shards;
    options.copy_deadline = absl::Seconds(20);
    auto tier = DeviceTier::Create(options);
    EXPECT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }

  BlockStore& store() override { return *tier_; }
  std::string MakeBlock(const Key& key, size_t approximate_bytes, uint64_t seed) override {
    return RandomBytes(key, approximate_bytes, seed);
  }
  void Advance(absl::Duration by) override { now_ms_ += absl::ToInt64Milliseconds(by); }
  absl::Time Now() const override { return absl::FromUnixMillis(now_ms_.load()); }
  bool get_holds_space() const override { return false; }

 private:
  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  std::unique_ptr<DeviceTier> tier_;
};

std::vector<StoreKind> DeviceTierKinds() {
  std::vector<StoreKind> kinds;
  for (const std::string& device : kvist::testing::DeviceKinds()) {
    for (const auto& [name, shards] : {std::pair("ManyShards", 64), std::pair("OneShard", 1)}) {
      kinds.push_back({absl::StrCat(device, name),
                       [device, shards = shards](uint64_t capacity_bytes) -> std::unique_ptr<StoreUnderTest> {
                         auto opened = kvist::testing::OpenDevice(device);
                         if (!opened.ok()) return nullptr;
                         return std::make_unique<DeviceTierUnderTest>(*opened, capacity_bytes, size_t(shards));
                       },
                       kvist::testing::WhyAbsent(device)});
    }
  }
  return kinds;
}

INSTANTIATE_TEST_SUITE_P(Device, BlockStoreConformance, ::testing::ValuesIn(DeviceTierKinds()), StoreKindName);

}  // namespace
}  // namespace kvist
