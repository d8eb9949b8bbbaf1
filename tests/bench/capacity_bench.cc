// How much of its configured capacity the host tier really fills, and how many calls it answers.
//
// Usable capacity: blocks of 24 KiB to 6 MiB (sizes log-uniform, each reserved with up to 10 % to spare and committed
// at its size) are put for 20 turnovers of the capacity, with three Zipf re-reads (exponent 1) of what was put between
// two puts, so that blocks leave in another order than that of their addresses. After every Commit of the last 17
// turnovers the live block bytes are held against the configured bytes; min and mean are reported. The bytes are not
// written: only their place matters here.
//
// Throughput: calls per second of one thread and of two; nothing is compared with an outside figure.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cachestore/host_tier.h"
#include "tests/bench/rows.h"

namespace kvist {
namespace {

constexpr uint64_t kCapacity = uint64_t{1} << 30;
constexpr double kSmallest = 24 << 10;
constexpr double kLargest = 6 << 20;

Key KeyOf(uint64_t number) {
  Key key;
  for (size_t i = 0; i < key.bytes.size(); ++i) {
    number = number * 6364136223846793005u + 1442695040888963407u;
    key.bytes[i] = static_cast<uint8_t>(number >> 56);
  }
  return key;
}

// The reads and writes of a bench never fail; if one does, its figures mean nothing.
void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "capacity_bench: %s failed\n", what);
  std::exit(1);
}

std::unique_ptr<HostTier> NewTier() {
  HostTierOptions options;
  options.capacity_bytes = kCapacity;
  options.clock = [] { return absl::Now(); };
  auto tier = HostTier::Create(options);
  Require(tier.ok(), "Create");
  return *std::move(tier);
}

void Put(HostTier& tier, uint64_t number, size_t reserved_bytes, size_t size_bytes) {
  auto reservation = tier.Reserve(KeyOf(number), reserved_bytes);
  Require(reservation.ok() && (*reservation)->Commit(size_bytes).ok(), "Put");
}

struct Usable {
  double min = 1, mean = 0, pieces_per_block = 0;
};

Usable Churn(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform;
  const std::unique_ptr<HostTier> tier = NewTier();
  uint64_t put_bytes = 0, samples = 0, reads = 0, pieces = 0;
  Usable usable;
  for (uint64_t number = 0; put_bytes < 20 * kCapacity; ++number) {
    const size_t size_bytes = static_cast<size_t>(kSmallest * std::pow(kLargest / kSmallest, uniform(random)));
    Put(*tier, number, size_bytes + static_cast<size_t>(size_bytes * 0.1 * uniform(random)), size_bytes);
    put_bytes += size_bytes;
    for (int i = 0; i < 3; ++i) {
      // Rank r of the most recent comes with a probability of about 1 / r.
      const uint64_t back = static_cast<uint64_t>(std::pow(static_cast<double>(number + 1), uniform(random))) - 1;
      const auto lookup = tier->Get(KeyOf(number - back));
      if (lookup->block == nullptr) continue;
      ++reads;
      pieces += lookup->block->pieces().size();
    }
    if (put_bytes < 3 * kCapacity) continue;
    const StoreStats stats = *tier->Stats();
    const double live_bytes = static_cast<double>(stats.used_bytes) - 63.0 * stats.blocks;  // at least
    usable.min = std::min(usable.min, live_bytes / kCapacity);
    usable.mean += live_bytes / kCapacity;
    ++samples;
  }
  usable.mean /= samples;
  usable.pieces_per_block = static_cast<double>(pieces) / reads;
  return usable;
}

void PrintUsable() {
  Usable worst;
  double sum_of_means = 0, sum_of_pieces = 0;
  constexpr int kSeeds = 3;
  for (int seed = 1; seed <= kSeeds; ++seed) {
    const Usable usable = Churn(seed);
    worst.min = std::min(worst.min, usable.min);
    sum_of_means += usable.mean;
    sum_of_pieces += usable.pieces_per_block;
  }
  const double gib = kCapacity / double(1 << 30);
  PrintRow("usable capacity under churn, worst moment", worst.min * gib, gib, "GiB", Target{0.95, Reach::kAtLeast});
  PrintRow("usable capacity under churn, mean", sum_of_means / kSeeds * gib, gib, "GiB", Target{0.95, Reach::kAtLeast});
  PrintRow("pieces of a block under churn, against one", sum_of_pieces / kSeeds, 1, "pieces", std::nullopt);
}

// Calls per second of `threads` threads that make `calls` calls each.
double Rate(int threads, int calls, const std::function<void(int thread, int call)>& act) {
  std::atomic<int> ready{0};
  const auto work = [&](int thread) {
    ++ready;
    while (ready < threads) std::this_thread::yield();
    for (int call = 0; call < calls; ++call) act(thread, call);
  };
  const double seconds = Seconds([&] {
    std::vector<std::thread> running;
    for (int thread = 0; thread < threads; ++thread) running.emplace_back(work, thread);
    for (std::thread& thread : running) thread.join();
  });
  return threads * calls / seconds;
}

void PrintRates(const std::string& name, int calls, const std::function<void(int, int)>& act) {
  std::vector<double> one, two;
  Rate(1, calls, act);
  for (int round = 0; round < 5; ++round) {
    one.push_back(Rate(1, calls, act));
    two.push_back(Rate(2, calls, act));
  }
  PrintRow(name + ", two threads against one", Median(two), Median(one), "calls/s", std::nullopt);
}

void PrintThroughputRows() {
  const std::unique_ptr<HostTier> tier = NewTier();
  std::vector<Key> chains[2];
  for (uint64_t i = 0; i < 4096; ++i) {
    Put(*tier, i, 65536, 65536);
    chains[i / 2048].push_back(KeyOf(i));
  }
  PrintRates("host tier: Match of 2,048 keys", 200, [&](int thread, int) {
    Require(tier->Match(chains[thread], absl::ZeroDuration())->hits == 2048, "Match");
  });
  PrintRates("host tier: Match of 2,048 keys under a lease, and Release", 200, [&](int thread, int) {
    const MatchResult match = *tier->Match(chains[thread], absl::Seconds(5));
    Require(match.lease.value != 0 && tier->Release(match.lease).ok(), "Match and Release");
  });
  PrintRates("host tier: Get", 300000, [&](int thread, int call) {
    Require(tier->Get(chains[thread][call * 7 % 2048])->block != nullptr, "Get");
  });
  std::atomic<uint64_t> next{1 << 20};
  PrintRates("host tier: Reserve and Commit of 64 KiB, full store", 50000,
             [&](int, int) { Put(*tier, next++, 65536, 65536); });
}

}  // namespace
}  // namespace kvist

int main() {
  kvist::PrintUsable();
  kvist::PrintThroughputRows();
}
