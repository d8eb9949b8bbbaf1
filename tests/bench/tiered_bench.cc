// What a Get costs through the tiered store against the host tier alone, both in one process and in turns, so that other
// work on the machine meets both.
//
// Method: 2,048 blocks of 64 KiB in a host tier of 256 MiB; the tiered store has an emulated device of 64 MiB beside it,
// which holds 64 other blocks. The host tier alone is the same tier, asked past the store: so both read the same memory.
// A round is 20,000 Gets of each, who goes first takes turns; the median ratio of 401 rounds is reported.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cachestore/tiered_store.h"
#include "tests/bench/rows.h"
#include "tests/device/emulated_device.h"

namespace kvist {
namespace {

constexpr uint64_t kBlocks = 2048;
constexpr uint64_t kBlockBytes = 65536;
constexpr int kGets = 20000;

Key KeyOf(uint64_t number) {
  Key key;
  for (size_t i = 0; i < key.bytes.size(); ++i) {
    number = number * 6364136223846793005u + 1442695040888963407u;
    key.bytes[i] = static_cast<uint8_t>(number >> 56);
  }
  return key;
}

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "tiered_bench: %s failed\n", what);
  std::exit(1);
}

std::unique_ptr<HostTier> NewHostTier() {
  HostTierOptions options;
  options.capacity_bytes = uint64_t{256} << 20;
  options.clock = [] { return absl::Now(); };
  auto tier = HostTier::Create(options);
  Require(tier.ok(), "HostTier::Create");
  return *std::move(tier);
}

std::unique_ptr<TieredStore> NewTieredStore() {
  DeviceTierOptions options;
  options.device = kvist::testing::EmulatedDevice::Create({});
  options.capacity_bytes = uint64_t{64} << 20;
  options.staging_bytes = uint64_t{8} << 20;
  options.clock = [] { return absl::Now(); };
  auto device = DeviceTier::Create(options);
  Require(device.ok(), "DeviceTier::Create");
  return std::make_unique<TieredStore>(NewHostTier(), *std::move(device), MoveRules());
}

void Fill(BlockStore& store, uint64_t first, uint64_t blocks) {
  for (uint64_t i = first; i < first + blocks; ++i) {
    auto reservation = store.Reserve(KeyOf(i), kBlockBytes);
    Require(reservation.ok() && (*reservation)->Commit(kBlockBytes).ok(), "Put");
  }
}

double Rate(BlockStore& store, const std::vector<Key>& keys) {
  const double seconds = Seconds([&] {
    for (int i = 0; i < kGets; ++i) Require(store.Get(keys[i * 7 % kBlocks])->block != nullptr, "Get");
  });
  return kGets / seconds;
}

void Run() {
  const std::unique_ptr<TieredStore> tiered = NewTieredStore();
  HostTier& host = tiered->host();
  std::vector<Key> keys;
  for (uint64_t i = 0; i < kBlocks; ++i) keys.push_back(KeyOf(i));
  Fill(*tiered, 0, kBlocks);
  Fill(*tiered->device(), kBlocks, 64);
  std::vector<double> ratios, host_rates, tiered_rates;
  for (int round = 0; round < 401; ++round) {
    const bool host_first = round % 2 == 0;
    const double first = Rate(host_first ? static_cast<BlockStore&>(host) : *tiered, keys);
    const double second = Rate(host_first ? static_cast<BlockStore&>(*tiered) : host, keys);
    host_rates.push_back(host_first ? first : second);
    tiered_rates.push_back(host_first ? second : first);
    ratios.push_back(tiered_rates.back() / host_rates.back());
  }
  PrintRow("Get of a host block: tiered store against host tier", Median(tiered_rates), Median(host_rates), "calls/s",
           std::nullopt);
  PrintRow("the same, median of the ratios of 401 rounds", Median(ratios), 1, "", Target{0.95, Reach::kAtLeast});
}

}  // namespace
}  // namespace kvist

int main() { kvist::Run(); }
