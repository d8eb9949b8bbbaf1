// Goal    How long a promotion takes: from the second GetOnDevice of a block that is in the host tier until it is on the
//         device.
// Method  promotion_bench KIND [--json FILE]. A TieredStore whose bandwidth for promotions is not bounded; one block at a
//         time is stored, read twice and waited for. Median and 99th percentile of many; nothing is judged but that each
//         block comes and has its bytes.
// Exit    0 right; 1 wrong; 3 the kind is not here.
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cachestore/tiered_store.h"
#include "tests/device/device_kinds.h"
#include "tests/gpu/numbered.h"
#include "tests/gpu/verdict.h"

namespace kvist::testing {
namespace {

constexpr uint64_t kTierBytes = uint64_t{96} << 20;
constexpr uint64_t kUnbounded = uint64_t{1} << 50;
constexpr absl::Duration kLong = absl::Seconds(10);

std::unique_ptr<TieredStore> StoreOn(const std::shared_ptr<Device>& device) {
  HostTierOptions host;
  host.capacity_bytes = kTierBytes;
  host.clock = [] { return absl::Now(); };
  DeviceTierOptions on_device;
  static_cast<TierRules&>(on_device) = host;
  on_device.device = device;
  on_device.capacity_bytes = kTierBytes;
  MoveRules rules;
  rules.promoted_bytes_per_second = rules.burst_bytes = kUnbounded;
  return std::make_unique<TieredStore>(*HostTier::Create(host), *DeviceTier::Create(on_device), rules);
}

// Of the block that `bytes` are.
absl::StatusOr<absl::Duration> PromoteOnce(TieredStore& store, const Key& key, absl::Span<const uint8_t> bytes) {
  auto reservation = store.Reserve(key, bytes.size());
  if (!reservation.ok()) return reservation.status();
  if (absl::Status written = (*reservation)->Write(0, bytes); !written.ok()) return written;
  if (absl::Status stored = (*reservation)->Commit(bytes.size()); !stored.ok()) return stored;
  if (absl::Status first = store.GetOnDevice(key).status(); !first.ok()) return first;
  const absl::Time begin = absl::Now();
  if (absl::Status second = store.GetOnDevice(key).status(); !second.ok()) return second;
  while (store.device()->Match({key}, absl::ZeroDuration())->hits == 0) {
    if (absl::Now() - begin > kLong) return absl::DeadlineExceededError("the block does not come");
    std::this_thread::yield();
  }
  return absl::Now() - begin;
}

absl::Status Compare(TieredStore& store, const Key& key, const std::vector<uint8_t>& bytes) {
  const auto lookup = store.GetOnDevice(key);
  if (!lookup.ok()) return lookup.status();
  if (lookup->pin == nullptr) return absl::NotFoundError("the block is not on the device");
  const auto read = ReadBytes(store.device()->device(), lookup->pin->extents());
  if (!read.ok()) return read.status();
  return *read == bytes ? absl::OkStatus() : absl::DataLossError("the block has other bytes");
}

absl::StatusOr<std::vector<absl::Duration>> Promote(TieredStore& store, uint64_t size_bytes, int rounds) {
  std::vector<absl::Duration> latencies;
  for (int round = 0; round < rounds; ++round) {
    const Key key = NumberedKey(uint32_t(size_bytes + round));
    const std::vector<uint8_t> bytes = NumberedBytes(uint32_t(round), size_bytes);
    const auto latency = PromoteOnce(store, key, bytes);
    if (!latency.ok()) return latency.status();
    latencies.push_back(*latency);
    if (absl::Status status = Compare(store, key, bytes); !status.ok()) return status;
    if (absl::Status status = store.Erase(key).status(); !status.ok()) return status;
  }
  std::sort(latencies.begin(), latencies.end());
  return latencies;
}

int Run(const std::string& kind, const char* json_path) {
  const auto device = OpenDevice(kind);
  if (!device.ok()) return NotHere(device.status().ToString());
  const std::unique_ptr<TieredStore> store = StoreOn(*device);
  nlohmann::json report = {{"device", (*device)->description().name}};
  std::printf("| promotion of a block of | median | 99th percentile |\n|---|---|---|\n");
  for (const uint64_t mebibytes : {1, 8}) {
    const auto latencies = Promote(*store, mebibytes << 20, kind == kEmulated ? 5 : 200);
    if (!latencies.ok()) return Wrong(latencies.status().ToString());
    const absl::Duration median = (*latencies)[latencies->size() / 2],
                         late = (*latencies)[latencies->size() * 99 / 100];
    std::printf("| %d MiB | %.2f ms | %.2f ms |\n", int(mebibytes), absl::ToDoubleMilliseconds(median),
                absl::ToDoubleMilliseconds(late));
    report["rows"].push_back({{"what", absl::StrCat("promotion, ", mebibytes, " MiB")},
                              {"median_ms", absl::ToDoubleMilliseconds(median)},
                              {"p99_ms", absl::ToDoubleMilliseconds(late)}});
  }
  if (json_path != nullptr) std::ofstream(json_path) << report.dump(1) << "\n";
  return kRight;
}

}  // namespace
}  // namespace kvist::testing

int main(int argc, char** argv) {
  const bool json = argc == 4 && std::string(argv[2]) == "--json";
  if (argc != 2 && !json) {
    std::fprintf(stderr, "promotion_bench Emulated|Cuda [--json FILE]\n");
    return kvist::testing::kWrong;
  }
  return kvist::testing::Run(argv[1], json ? argv[3] : nullptr);
}
