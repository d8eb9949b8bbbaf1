// Divides one span of memory into extents, so that no free space is ever stranded by fragmentation.
//
// Units   bytes; every extent starts and ends at a multiple of kGranularity.
// Threads every method may be called from any thread (one mutex, held for O(log holes) per extent).
// Errors  no space is a value (nullopt). Returning what was not taken ends the process.
//
// Bound on lost space. A request is refused only if it is larger than the sum of the holes of at least kMinExtent. So
// what cannot be used is at most
//     63 bytes per block                      (rounding to kGranularity)
//   + (live extents + 1) holes below kMinExtent (holes are never neighbours: between two of them lies a live extent)
// and nothing else, however the past went. This follows from Take: with a hole that fits, it succeeds; without one, it
// takes whole holes of at least kMinExtent, largest first, until the rest fits into one hole. The price: a block may
// have several extents, all but its last of at least kMinExtent, so at most size / kMinExtent + 1.
//
// Why not contiguous blocks only: in simulation plain best fit lost up to 14 % of the capacity under eviction in LRU
// order of mixed sizes. tests/bench/capacity_bench.cc measures this one.
#ifndef KVIST_CACHESTORE_ALLOCATOR_H_
#define KVIST_CACHESTORE_ALLOCATOR_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/inlined_vector.h"

namespace kvist {

struct Extent {
  uint64_t offset = 0;
  uint64_t size_bytes = 0;
  friend bool operator==(const Extent&, const Extent&) = default;
};
using Extents = absl::InlinedVector<Extent, 2>;

class Allocator {
 public:
  static constexpr uint64_t kGranularity = 64;
  static constexpr uint64_t kMinExtent = uint64_t{16} << 10;

  // What a block of `size_bytes` takes: its charge.
  static constexpr uint64_t RoundUp(uint64_t size_bytes) {
    return (size_bytes + kGranularity - 1) / kGranularity * kGranularity;
  }

  // REQUIRES: `capacity_bytes` is a positive multiple of kGranularity.
  explicit Allocator(uint64_t capacity_bytes);

  // Takes RoundUp(size_bytes) bytes: one extent where a hole fits (the smallest that does), several otherwise.
  std::optional<Extents> Take(uint64_t size_bytes);
  void Return(const Extents& extents);
  // Keeps the first RoundUp(size_bytes) bytes of `extents` and returns the rest.
  void Shrink(Extents& extents, uint64_t size_bytes);

  struct State {
    uint64_t free_bytes = 0;
    uint64_t usable_bytes = 0;  // of the free: in holes of at least kMinExtent
    uint64_t holes = 0;
    uint64_t live_extents = 0;
  };
  State state() const;
  // Grows with every Return and Shrink: one who was refused sees whether it is worth another try. No lock.
  uint64_t returns() const { return returns_.load(std::memory_order_acquire); }

 private:
  using BySize = absl::btree_set<std::pair<uint64_t, uint64_t>>;  // (size, offset)
  using ByOffset = absl::btree_map<uint64_t, uint64_t>;           // offset -> size

  void AddHole(uint64_t offset, uint64_t size_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveHole(uint64_t offset, uint64_t size_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Carves the first `size_bytes` out of a hole.
  Extent Carve(BySize::iterator hole, uint64_t size_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReturnOne(Extent extent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t capacity_bytes_;
  std::atomic<uint64_t> returns_{0};
  mutable std::mutex mutex_;
  BySize holes_by_size_ ABSL_GUARDED_BY(mutex_);
  ByOffset holes_by_offset_ ABSL_GUARDED_BY(mutex_);
  State state_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_ALLOCATOR_H_
