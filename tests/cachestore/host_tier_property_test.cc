// Goal: the host tier does exactly what a plain model does: content and traits, misses with their reasons, times and
// causes, expiry, pins, leases, the order of eviction, what Scan lists and every figure of Stats; and no two blocks
// share a byte.
// Method: random operations, one thread, seeded. The model keeps blocks in a map and the order of eviction in one list;
// it learns from Stats only how many blocks were evicted for a reservation, and says itself which.
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cachestore/allocator.h"
#include "cachestore/host_tier.h"

namespace kvist {
namespace {

constexpr uint64_t kCapacity = uint64_t{2} << 20;
constexpr uint64_t kKeys = 90;
constexpr absl::Duration kMaxLease = absl::Seconds(20);

Key KeyOf(uint64_t number) {
  std::mt19937_64 random(number);
  Key key;
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  return key;
}

std::string Pattern(uint64_t serial, size_t size_bytes) {
  std::string bytes(size_bytes, '\0');
  uint32_t state = static_cast<uint32_t>(serial * 2654435761u + 1);
  for (char& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

struct ModelBlock {
  uint64_t number = 0;  // of its key
  std::string bytes;
  BlockTraits traits;
  absl::Time last_used;
  uint64_t gets = 0;
  int refs = 0;
  int leases = 0;
  bool indexed = true;
  uint64_t charge() const { return Allocator::RoundUp(bytes.size()); }
  bool held() const { return refs + leases > 0; }
};
using ModelRef = std::shared_ptr<ModelBlock>;

struct OpenReservation {
  std::unique_ptr<Reservation> reservation;
  std::string bytes;
  BlockTraits traits;
};

struct Gone {
  MissReason why = MissReason::kNeverStored;
  absl::Time when = absl::InfinitePast();
  Key made_room_for;
};

class HostTierProperty : public testing::TestWithParam<uint64_t> {
 protected:
  HostTierProperty() : random_(GetParam()) {
    HostTierOptions options;
    options.capacity_bytes = kCapacity;
    options.clock = [this] { return now_; };
    options.max_lease = kMaxLease;
    options.index_shards = size_t{1} << (GetParam() % 7);
    tier_ = *HostTier::Create(options);
  }

  uint64_t Pick(uint64_t count) { return random_() % count; }
  size_t RandomSize() { return 1 + (Pick(4) == 0 ? Pick(kCapacity / 6) : Pick(60000)); }

  // --- The model ---
  void Touch(const ModelRef& block) {
    const auto at = std::find(order_.begin(), order_.end(), block);
    if (at != order_.end()) order_.splice(order_.end(), order_, at);
  }
  void Remove(const ModelRef& block, const Gone& gone) {
    order_.remove(block);
    block->indexed = false;
    if (block->held()) removed_held_.push_back(block);
    gone_[block->number] = gone;
    stored_.erase(block->number);
  }
  void EvictFromModel(const Key& made_room_for) {
    for (size_t seen = 0; seen <= order_.size(); ++seen) {
      const ModelRef oldest = order_.front();
      order_.pop_front();
      if (oldest->refs > 0) {
        order_.push_back(oldest);
        continue;
      }
      evicted_bytes_ += oldest->charge();
      return Remove(oldest, {MissReason::kEvicted, now_, made_room_for});
    }
    FAIL() << "the tier evicted when all was held";
  }
  void EndLease(const std::vector<ModelRef>& blocks) {
    for (const ModelRef& block : blocks) {
      if (--block->leases == 0 && block->indexed) order_.push_back(block);
    }
  }
  // What any look at an expired block does to it.
  void Meet(uint64_t number) {
    const auto stored = stored_.find(number);
    if (stored == stored_.end() || stored->second->traits.expires > now_) return;
    const ModelRef block = stored->second;
    Remove(block, {MissReason::kExpired, block->traits.expires, {}});
    ++expired_blocks_;
  }
  void Expire() {
    for (uint64_t number = 0; number < kKeys; ++number) Meet(number);
    while (true) {
      const auto first = std::min_element(leases_.begin(), leases_.end(), [](const auto& a, const auto& b) {
        return std::pair(a.second.first, a.first) < std::pair(b.second.first, b.first);
      });
      if (first == leases_.end() || first->second.first > now_) return;
      EndLease(first->second.second);
      leases_.erase(first);
      ++expired_leases_;
    }
  }
  Gone WhyMissing(uint64_t number) const {
    if (reservations_.contains(number)) return {.why = MissReason::kBeingWritten, .made_room_for = {}};
    const auto gone = gone_.find(number);
    return gone == gone_.end() ? Gone() : gone->second;
  }
  // Every block that takes space: stored, or held after it was erased or expired.
  std::vector<ModelRef> Alive() const {
    std::vector<ModelRef> alive;
    for (const auto& [number, block] : stored_) alive.push_back(block);
    for (const ModelRef& block : removed_held_) {
      if (block->held()) alive.push_back(block);
    }
    return alive;
  }

  // --- Operations ---
  void Reserve() {
    const uint64_t number = Pick(kKeys);
    const size_t size_bytes = Pick(40) == 0 ? kCapacity / 2 : RandomSize();
    BlockTraits traits{.group = KeyOf(1000 + number / 10)};
    if (Pick(4) == 0) {
      traits.expires = now_ + absl::Milliseconds(1 + Pick(30000));
      traits.spare = Pick(2) == 0;
    }
    auto reservation = tier_->Reserve(KeyOf(number), size_bytes, traits);
    Expire();
    const uint64_t evicted = tier_->Stats()->evicted_blocks;
    for (; evicted_blocks_ < evicted; ++evicted_blocks_) ASSERT_NO_FATAL_FAILURE(EvictFromModel(KeyOf(number)));
    if (stored_.contains(number) || reservations_.contains(number)) {
      BlockTraits& present =
          stored_.contains(number) ? stored_[number]->traits : reservations_.find(number)->second.traits;
      if (traits.expires > present.expires) {
        present.expires = traits.expires;
        present.spare = traits.spare;
        ++prolonged_;
      }
      ASSERT_EQ(reservation.status().code(), absl::StatusCode::kAlreadyExists);
    } else if (reservation.ok()) {
      reservations_[number] = {*std::move(reservation), Pattern(++serial_, size_bytes), traits};
    } else {
      ASSERT_EQ(reservation.status().code(), absl::StatusCode::kResourceExhausted) << reservation.status();
      ++refused_;
      for (const ModelRef& block : order_) ASSERT_GT(block->refs, 0) << "refused while a block could be evicted";
    }
  }

  void FinishReservation() {
    if (reservations_.empty()) return;
    const auto at = std::next(reservations_.begin(), Pick(reservations_.size()));
    auto [number, open] = std::move(*at);
    reservations_.erase(at);
    if (Pick(5) == 0) return;  // abort
    size_t offset = 0;
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(open.bytes.data()), open.bytes.size());
    while (offset < bytes.size()) {
      const size_t part = 1 + Pick(40000);
      ASSERT_TRUE(open.reservation->Write(offset, bytes.subspan(offset, part)).ok());
      offset += std::min(part, bytes.size() - offset);
    }
    ASSERT_EQ(open.reservation->Write(bytes.size(), bytes.subspan(0, 1)).code(), absl::StatusCode::kOutOfRange);
    const size_t kept = Pick(3) == 0 ? 1 + Pick(bytes.size()) : bytes.size();
    ASSERT_TRUE(open.reservation->Commit(kept).ok());
    open.bytes.resize(kept);
    const auto block = std::make_shared<ModelBlock>(
        ModelBlock{.number = number, .bytes = open.bytes, .traits = open.traits, .last_used = now_});
    stored_[number] = block;
    gone_.erase(number);
    order_.push_back(block);
    Meet(number);  // its time may be over already
  }

  void Get(bool touch) {
    const uint64_t number = Pick(kKeys);
    auto lookup = tier_->Get(KeyOf(number), touch);
    Meet(number);
    ASSERT_TRUE(lookup.ok());
    const auto stored = stored_.find(number);
    ASSERT_EQ(lookup->block != nullptr, stored != stored_.end()) << number;
    if (lookup->block == nullptr) {
      const Gone gone = WhyMissing(number);
      ASSERT_EQ(lookup->miss, gone.why) << number;
      ASSERT_EQ(lookup->gone, gone.when) << number;
      ASSERT_EQ(lookup->made_room_for, gone.made_room_for) << number;
      return;
    }
    ASSERT_EQ(lookup->traits, stored->second->traits);
    if (touch) {
      Touch(stored->second);
      stored->second->last_used = now_;
      ++stored->second->gets;
    }
    ++stored->second->refs;
    refs_.emplace_back(std::move(lookup->block), stored->second);
    ASSERT_NO_FATAL_FAILURE(CheckContent(*refs_.back().first, *refs_.back().second));
    if (Pick(3) != 0 || refs_.size() > 12) DropRef(refs_.size() - 1);
  }
  void DropSomeRef() {
    if (!refs_.empty()) DropRef(Pick(refs_.size()));
  }
  void DropRef(size_t at) {
    ASSERT_NO_FATAL_FAILURE(CheckContent(*refs_[at].first, *refs_[at].second));
    --refs_[at].second->refs;
    std::swap(refs_[at], refs_.back());
    refs_.pop_back();
  }

  void Match() {
    const uint64_t first = Pick(kKeys);
    std::vector<Key> chain;
    for (uint64_t i = first; i < std::min(first + 1 + Pick(12), kKeys); ++i) chain.push_back(KeyOf(i));
    const absl::Duration ttl = Pick(2) == 0 ? absl::ZeroDuration() : absl::Seconds(1 + Pick(30));
    if (ttl > absl::ZeroDuration()) Expire();
    std::vector<ModelRef> hits;  // deepest first
    uint64_t hit_bytes = 0, leased_bytes = 0;
    for (uint64_t i = first; i < first + chain.size() && stored_.contains(i); ++i) {
      hits.insert(hits.begin(), stored_[i]);
      hit_bytes += stored_[i]->bytes.size();
    }
    for (const ModelRef& block : Alive()) {
      const bool wanted = std::find(hits.begin(), hits.end(), block) != hits.end();
      if (block->leases > 0 || wanted) leased_bytes += block->charge();
    }
    auto match = tier_->Match(chain, ttl);
    ASSERT_TRUE(match.ok());
    ASSERT_EQ(match->hits, hits.size());
    ASSERT_EQ(match->hit_bytes, hit_bytes);
    ASSERT_EQ(match->miss, hits.size() == chain.size() ? MissReason::kNone : WhyMissing(first + hits.size()).why);
    const bool granted = ttl > absl::ZeroDuration() && !hits.empty() && leased_bytes <= kCapacity / 2;
    ASSERT_EQ(match->lease.value != 0, granted);
    ASSERT_EQ(match->lease_ttl, granted ? std::min(ttl, kMaxLease) : absl::ZeroDuration());
    for (const ModelRef& block : hits) {
      block->last_used = now_;
      if (!granted) {
        Touch(block);
      } else if (block->leases++ == 0) {
        order_.remove(block);
      }
    }
    if (granted) leases_[match->lease.value] = {now_ + match->lease_ttl, hits};
  }

  void Release() {
    uint64_t id = Pick(1000);
    if (!leases_.empty() && Pick(4) != 0) {
      const auto at = std::next(leases_.begin(), Pick(leases_.size()));
      id = at->first;
      EndLease(at->second.second);
      leases_.erase(at);
    }
    ASSERT_TRUE(tier_->Release(LeaseId{id}).ok());
  }

  void Erase() {
    const uint64_t number = Pick(kKeys);
    const MissReason why = Pick(3) == 0 ? MissReason::kDamaged : MissReason::kErased;
    auto erased = tier_->Erase(KeyOf(number), why);
    Meet(number);
    ASSERT_TRUE(erased.ok());
    const auto stored = stored_.find(number);
    ASSERT_EQ(*erased, stored != stored_.end());
    if (!*erased) return;
    Remove(ModelRef(stored->second), {why, now_, {}});
    ++erased_;
  }

  // Time passes, and the tier learns it from one of several calls. Leases must not run out behind the model's back, so
  // only calls that do not change the order of eviction come before those that drop leases too.
  void PassTime() {
    now_ += absl::Seconds(Pick(8));
    for (uint64_t looks = Pick(4); looks > 0; --looks) ASSERT_NO_FATAL_FAILURE(Get(/*touch=*/false));
    if (Pick(3) == 0) {
      ASSERT_NO_FATAL_FAILURE(Erase());
    }
    if (Pick(3) == 0) {
      ASSERT_NO_FATAL_FAILURE(CheckScan());
    }
    if (Pick(3) == 0) return Reserve();
    ASSERT_FALSE(tier_->DropExpired());
    Expire();
  }

  // --- Checks ---
  static void CheckContent(const PinnedBlock& block, const ModelBlock& model) {
    ASSERT_EQ(block.size_bytes(), model.bytes.size());
    size_t offset = 0;
    for (const absl::Span<const uint8_t>& piece : block.pieces()) {
      ASSERT_EQ(0,
                model.bytes.compare(offset, piece.size(), reinterpret_cast<const char*>(piece.data()), piece.size()));
      offset += piece.size();
    }
    ASSERT_EQ(offset, model.bytes.size());
  }

  void CheckStats() {
    uint64_t used = 0, pinned = 0, reserved = 0;
    for (const ModelRef& block : Alive()) {
      used += block->charge();
      if (block->held()) pinned += block->charge();
    }
    for (const auto& [number, open] : reservations_) reserved += Allocator::RoundUp(open.bytes.size());
    const StoreStats stats = *tier_->Stats();
    ASSERT_EQ(stats.capacity_bytes, kCapacity);
    ASSERT_EQ(stats.used_bytes, used);
    ASSERT_EQ(stats.pinned_bytes, pinned);
    ASSERT_EQ(stats.reserved_bytes, reserved);
    ASSERT_LE(used + reserved, kCapacity);
    ASSERT_EQ(stats.blocks, stored_.size());
    ASSERT_EQ(stats.leases, leases_.size());
    ASSERT_EQ(stats.evicted_blocks, evicted_blocks_);
    ASSERT_EQ(stats.evicted_bytes, evicted_bytes_);
    ASSERT_EQ(stats.expired_blocks, expired_blocks_);
    ASSERT_EQ(stats.erased_blocks, erased_);
    ASSERT_EQ(stats.expired_leases, expired_leases_);
    ASSERT_EQ(stats.refused_reservations, refused_);
  }

  void CheckScan() {
    std::map<Key, const ModelBlock*> expected;
    for (const auto& [number, block] : stored_) {
      if (block->traits.expires > now_) expected[KeyOf(number)] = block.get();
    }
    const size_t limit = 1 + Pick(2 * kKeys);
    uint64_t cursor = 0;
    do {
      const auto scanned = tier_->Scan(cursor, limit);
      ASSERT_TRUE(scanned.ok());
      ASSERT_LE(scanned->blocks.size(), limit);
      for (const ScannedBlock& block : scanned->blocks) {
        const auto model = expected.find(block.key);
        ASSERT_NE(model, expected.end()) << "listed twice, or not there";
        ASSERT_EQ(block.traits, model->second->traits);
        ASSERT_EQ(block.size_bytes, model->second->bytes.size());
        ASSERT_EQ(block.gets, model->second->gets);
        ASSERT_EQ(block.last_used, model->second->last_used);
        expected.erase(model);
      }
      cursor = scanned->next;
    } while (cursor != 0);
    ASSERT_TRUE(expected.empty()) << expected.size() << " blocks were not listed";
  }

  // Pins every block for a moment: content of all, and no byte in two of them. The order of eviction is kept in step.
  void CheckEverything() {
    std::map<uintptr_t, uintptr_t> taken;
    const auto take = [&](absl::Span<const absl::Span<const uint8_t>> pieces) {
      for (const absl::Span<const uint8_t>& piece : pieces) {
        const uintptr_t begin = reinterpret_cast<uintptr_t>(piece.data());
        const auto next = taken.lower_bound(begin);
        ASSERT_EQ(begin % 64, 0u);
        if (next != taken.end()) {
          ASSERT_LE(begin + piece.size(), next->first);
        }
        if (next != taken.begin()) {
          ASSERT_LE(std::prev(next)->second, begin);
        }
        taken[begin] = begin + piece.size();
      }
    };
    for (const auto& [number, block] : stored_) {
      auto lookup = tier_->Get(KeyOf(number));
      ASSERT_TRUE(lookup.ok() && lookup->block != nullptr) << number;
      Touch(block);
      block->last_used = now_;
      ++block->gets;
      ASSERT_NO_FATAL_FAILURE(CheckContent(*lookup->block, *block));
      ASSERT_NO_FATAL_FAILURE(take(lookup->block->pieces()));
    }
    std::vector<const ModelBlock*> seen;
    for (const auto& [ref, block] : refs_) {
      if (block->indexed || std::find(seen.begin(), seen.end(), block.get()) != seen.end()) continue;
      seen.push_back(block.get());
      ASSERT_NO_FATAL_FAILURE(take(ref->pieces()));
    }
    for (const auto& [number, open] : reservations_) ASSERT_NO_FATAL_FAILURE(take(open.reservation->pieces()));
  }

  void Step() {
    switch (Pick(20)) {
      case 0:
        return Erase();
      case 1:
        return Release();
      case 2:
        return PassTime();
      case 3:
        return DropSomeRef();
      case 4:
      case 5:
      case 6:
        return Match();
      case 7:
      case 8:
      case 9:
      case 10:
        return Get(/*touch=*/Pick(4) != 0);
      case 11:
      case 12:
      case 13:
      case 14:
      case 15:
        return Reserve();
      default:
        return FinishReservation();
    }
  }

  std::mt19937_64 random_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::unique_ptr<HostTier> tier_;

  std::map<uint64_t, ModelRef> stored_;
  std::vector<ModelRef> removed_held_;
  std::list<ModelRef> order_;  // oldest first; blocks under a lease are not in it
  std::map<uint64_t, Gone> gone_;
  std::map<uint64_t, std::pair<absl::Time, std::vector<ModelRef>>> leases_;
  std::map<uint64_t, OpenReservation> reservations_;
  std::vector<std::pair<BlockRef, ModelRef>> refs_;
  uint64_t serial_ = 0, evicted_blocks_ = 0, evicted_bytes_ = 0, erased_ = 0, refused_ = 0;
  uint64_t expired_leases_ = 0, expired_blocks_ = 0, prolonged_ = 0;
};

TEST_P(HostTierProperty, DoesWhatThePlainModelDoes) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  for (int step = 0; step < 4000; ++step) {
    SCOPED_TRACE(testing::Message() << "step " << step);
    ASSERT_NO_FATAL_FAILURE(Step());
    Expire();
    ASSERT_NO_FATAL_FAILURE(CheckStats());
    if (step % 100 == 99) {
      ASSERT_NO_FATAL_FAILURE(CheckEverything());
      ASSERT_NO_FATAL_FAILURE(CheckScan());
    }
    std::erase_if(removed_held_, [](const ModelRef& block) { return !block->held(); });
  }
  EXPECT_GT(evicted_bytes_, 5 * kCapacity) << "the run was too easy";
  EXPECT_GT(expired_leases_, 0u) << "the run was too easy";
  EXPECT_GT(expired_blocks_, 0u) << "the run was too easy";
  EXPECT_GT(prolonged_, 0u) << "the run was too easy";

  reservations_.clear();
  while (!refs_.empty()) DropRef(refs_.size() - 1);
  now_ += kMaxLease;
  Expire();
  removed_held_.clear();
  ASSERT_NO_FATAL_FAILURE(CheckStats());
  EXPECT_EQ(tier_->Stats()->pinned_bytes, 0u);
  auto all = tier_->Reserve(KeyOf(kKeys), kCapacity);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ((*all)->pieces().size(), 1u) << "everything came back and was joined";
}

INSTANTIATE_TEST_SUITE_P(Seeds, HostTierProperty, testing::Range<uint64_t>(1, 9));

}  // namespace
}  // namespace kvist
