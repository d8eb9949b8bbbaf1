// Goal: the host tier is a BlockStore. Method: the conformance suite, over random bytes and a virtual clock, with the
// default index and with a single shard.
#include <atomic>
#include <memory>
#include <string>

#include "cachestore/host_tier.h"
#include "tests/conformance/block_store_conformance.h"

namespace kvist {
namespace {

class HostTierUnderTest final : public StoreUnderTest {
 public:
  HostTierUnderTest(uint64_t capacity_bytes, size_t shards) {
    HostTierOptions options;
    options.capacity_bytes = capacity_bytes;
    options.clock = [this] { return absl::FromUnixMillis(now_ms_.load()); };
    options.max_lease = kMaxLease;
    options.max_pinned_fraction = kMaxPinnedFraction;
    options.index_shards = shards;
    auto tier = HostTier::Create(options);
    EXPECT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }

  BlockStore& store() override { return *tier_; }
  std::string MakeBlock(const Key& key, size_t approximate_bytes, uint64_t seed) override {
    return RandomBytes(key, approximate_bytes, seed);
  }
  void Advance(absl::Duration by) override { now_ms_ += absl::ToInt64Milliseconds(by); }
  absl::Time Now() const override { return absl::FromUnixMillis(now_ms_.load()); }

 private:
  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  std::unique_ptr<HostTier> tier_;
};

StoreKind HostTierKind(const std::string& name, size_t shards) {
  return {name,
          [shards](uint64_t capacity_bytes) { return std::make_unique<HostTierUnderTest>(capacity_bytes, shards); }};
}

INSTANTIATE_TEST_SUITE_P(Host, BlockStoreConformance,
                         testing::Values(HostTierKind("ManyShards", 64), HostTierKind("OneShard", 1)), StoreKindName);

}  // namespace
}  // namespace kvist
