// Numbers the published blocks of a shard, so that they can be listed in steps while others come and go: a block keeps
// its number for as long as it is published, so whoever counts through the numbers meets it exactly once.
//
// Memory: 8 bytes for each block of the fullest moment; a free number is given out again.
// Threads under the mutex of its shard. Every method is O(1).
#ifndef KVIST_CACHESTORE_ROSTER_H_
#define KVIST_CACHESTORE_ROSTER_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "cachestore/check.h"

namespace kvist {

class Block;

class Roster {
 public:
  uint32_t Add(Block* block) {
    uint32_t number = first_free_;
    if (number == kNone) {
      Check(places_.size() < kNone, "a shard has fewer than 2^32 blocks");
      number = static_cast<uint32_t>(places_.size());
      places_.push_back(0);
    } else {
      first_free_ = static_cast<uint32_t>(places_[number] >> 1);
    }
    places_[number] = reinterpret_cast<uintptr_t>(block);
    return number;
  }
  void Remove(uint32_t number) {
    places_[number] = uint64_t{first_free_} << 1 | 1;
    first_free_ = number;
  }
  // Null if the number is free. REQUIRES: number < end().
  Block* At(uint32_t number) const {
    return (places_[number] & 1) != 0 ? nullptr : reinterpret_cast<Block*>(static_cast<uintptr_t>(places_[number]));
  }
  uint32_t end() const { return static_cast<uint32_t>(places_.size()); }
  void Clear() {
    places_.clear();
    first_free_ = kNone;
  }

 private:
  static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

  // The address of a block, which is even; or the next free number, doubled and made odd.
  std::vector<uint64_t> places_;
  uint32_t first_free_ = kNone;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_ROSTER_H_
