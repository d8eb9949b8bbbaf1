// What became of a tier's blocks: how long they lie between two uses, how old they are when they go, and why they go.
//
// Units   seconds in the bounds of buckets, nanoseconds elsewhere.
// Threads a LifeCounts is changed under the mutex of its shard and read by anybody; so adding needs no locked
//         instruction, and a sum over shards may miss what is added meanwhile.
//
// Why a second: a Match and the Gets that follow it are one use. A touch less than kOneUse after the last one belongs to
// it, costs a comparison, and is counted nowhere; and no eviction was ever decided by it.
#ifndef KVIST_CACHESTORE_LIFE_FIGURES_H_
#define KVIST_CACHESTORE_LIFE_FIGURES_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cachestore/block_store.h"

namespace kvist {

// A histogram of times. The same bounds for all, so that two can be laid beside each other.
struct Ages {
  static constexpr std::array<double, 13> kBounds = {1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 10800, 21600, 86400};
  std::array<uint64_t, kBounds.size() + 1> counts{};  // not cumulative; the last is beyond all bounds
  double sum_seconds = 0;
};

struct LifeFigures {
  static constexpr size_t kCauses = static_cast<size_t>(MissReason::kTierLost) + 1;
  Ages reuse_gap;                                                   // between two uses of a block
  Ages eviction_age;                                                // since the last use of a block that went for room
  Ages lifetime;                                                    // from commit to whatever ended the block
  std::array<uint64_t, kCauses> removed_blocks{}, removed_bytes{};  // by the MissReason that lookups are told; charges
};

class LifeCounts {
 public:
  static constexpr int64_t kOneUseNs = 1'000'000'000;

  // REQUIRES of all but AddTo: the shard's mutex.
  void Used(int64_t gap_ns) {
    if (gap_ns >= kOneUseNs) reuse_gap_.Add(gap_ns);
  }
  void Removed(MissReason why, uint64_t charge_bytes, int64_t idle_ns, int64_t lifetime_ns) {
    const size_t cause = static_cast<size_t>(why);
    Raise(removed_blocks_[cause], 1);
    Raise(removed_bytes_[cause], charge_bytes);
    lifetime_.Add(lifetime_ns);
    if (why == MissReason::kEvicted) eviction_age_.Add(idle_ns);
  }
  void AddTo(LifeFigures& sum) const {
    reuse_gap_.AddTo(sum.reuse_gap);
    eviction_age_.AddTo(sum.eviction_age);
    lifetime_.AddTo(sum.lifetime);
    for (size_t i = 0; i < LifeFigures::kCauses; ++i) {
      sum.removed_blocks[i] += removed_blocks_[i].load(std::memory_order_relaxed);
      sum.removed_bytes[i] += removed_bytes_[i].load(std::memory_order_relaxed);
    }
  }

 private:
  using Count = std::atomic<uint64_t>;
  static void Raise(Count& count, uint64_t by) {
    count.store(count.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }

  class AgeCounts {
   public:
    void Add(int64_t ns) {
      const double seconds = std::max<int64_t>(0, ns) * 1e-9;  // clocks may step back
      const auto bound = std::lower_bound(Ages::kBounds.begin(), Ages::kBounds.end(), seconds);
      Raise(counts_[bound - Ages::kBounds.begin()], 1);
      sum_seconds_.store(sum_seconds_.load(std::memory_order_relaxed) + seconds, std::memory_order_relaxed);
    }
    void AddTo(Ages& sum) const {
      for (size_t i = 0; i < counts_.size(); ++i) sum.counts[i] += counts_[i].load(std::memory_order_relaxed);
      sum.sum_seconds += sum_seconds_.load(std::memory_order_relaxed);
    }

   private:
    std::array<Count, Ages::kBounds.size() + 1> counts_{};
    std::atomic<double> sum_seconds_{0};
  };

  AgeCounts reuse_gap_, eviction_age_, lifetime_;
  std::array<Count, LifeFigures::kCauses> removed_blocks_{}, removed_bytes_{};
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_LIFE_FIGURES_H_
