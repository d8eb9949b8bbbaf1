// What may be seen of a store of two tiers whose moves run on a thread of their own: a plain account of the lives of
// blocks, which says of every answer whether it can be true.
//
// A life begins with a Commit and has bytes that no other life has. It ends by an erase or at its time, for certain and
// at once; or by an eviction, which the model learns from a miss. After that the same life must never be seen again.
//
// Units   milliseconds since the epoch in names that end in _ms.
// Threads one.
// Errors  the first thing that cannot be true stays in wrong(), and the rest is not to be believed.
#ifndef KVIST_TESTS_CACHESTORE_TIERED_MODEL_H_
#define KVIST_TESTS_CACHESTORE_TIERED_MODEL_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"

namespace kvist::testing {

struct Life {
  uint64_t number = 0;  // of its key
  Key key;
  std::string bytes;
  BlockTraits traits;
  int pins = 0;  // of either kind
};
using LifeRef = std::shared_ptr<Life>;

class TieredModel {
 public:
  struct Lease {
    absl::Time deadline;
    std::vector<LifeRef> blocks;
  };

  const std::string& wrong() const { return wrong_; }
  bool Expect(bool holds, const std::string& what) {
    if (!holds && wrong_.empty()) wrong_ = what;
    return holds;
  }

  const std::map<uint64_t, LifeRef>& alive() const { return alive_; }
  std::map<uint64_t, Lease>& leases() { return leases_; }
  LifeRef Find(uint64_t number) const {
    const auto found = alive_.find(number);
    return found == alive_.end() ? nullptr : found->second;
  }
  bool IsAlive(const Life& life) const { return Find(life.number).get() == &life; }
  bool IsLeased(const Life& life) const {
    return std::any_of(leases_.begin(), leases_.end(), [&](const auto& lease) {
      const auto& blocks = lease.second.blocks;
      return std::any_of(blocks.begin(), blocks.end(), [&](const LifeRef& block) { return block.get() == &life; });
    });
  }

  void Begin(const LifeRef& life, absl::Time now) {
    Expect(Find(life->number) == nullptr, "a block was stored over another");
    alive_[life->number] = life;
    PassTo(now);
  }
  void End(uint64_t number, MissReason why) {
    ends_[number] = why;
    alive_.erase(number);
  }
  // Ends what ends by then.
  void PassTo(absl::Time now) {
    std::vector<uint64_t> over;
    for (const auto& [number, life] : alive_) {
      if (life->traits.expires <= now) over.push_back(number);
    }
    for (const uint64_t number : over) End(number, MissReason::kExpired);
    std::erase_if(leases_, [&](const auto& lease) { return lease.second.deadline <= now; });
  }
  // From now on a block may have gone with its device, whoever held it there.
  void LoseDevice() { device_lost_ = true; }
  bool device_lost() const { return device_lost_; }

  void Prolong(BlockTraits& present, const BlockTraits& traits) {
    if (traits.expires <= present.expires) return;
    present.expires = traits.expires;
    present.spare = traits.spare;
    ++prolonged_;
  }

  // The store has said that the block is there.
  LifeRef SeeHit(uint64_t number) {
    LifeRef life = Find(number);
    Expect(life != nullptr, absl::StrCat("block ", number, " is there after its end"));
    return life;
  }
  // The store has said that it is not there.
  void SeeMiss(uint64_t number, MissReason why, bool being_written) {
    if (being_written) {
      Expect(device_lost_ || why == MissReason::kBeingWritten,
             absl::StrCat("block ", number, " is being written, and a miss as ", int(why)));
      return;
    }
    if (const LifeRef life = Find(number)) {
      Expect(device_lost_ || life->pins == 0, absl::StrCat("block ", number, " is pinned and a miss"));
      Expect(device_lost_ || !IsLeased(*life), absl::StrCat("block ", number, " is leased and a miss"));
      End(number, MissReason::kEvicted);
      ++seen_evictions_;
    }
    const auto end = ends_.find(number);
    const MissReason known = end == ends_.end() ? MissReason::kNeverStored : end->second;
    // An eviction that the model did not see may have come before the end that it knows.
    const bool possible = device_lost_ || why == known || (why == MissReason::kEvicted && end != ends_.end());
    Expect(possible, absl::StrCat("block ", number, " is a miss as ", int(why), " and not as ", int(known)));
  }

  uint64_t seen_evictions() const { return seen_evictions_; }
  uint64_t prolonged() const { return prolonged_; }

 private:
  std::string wrong_;
  std::map<uint64_t, LifeRef> alive_;  // some of them evicted already
  std::map<uint64_t, MissReason> ends_;
  std::map<uint64_t, Lease> leases_;
  bool device_lost_ = false;
  uint64_t seen_evictions_ = 0, prolonged_ = 0;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_CACHESTORE_TIERED_MODEL_H_
