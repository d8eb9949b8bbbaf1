// Goal: no data race, no lost space and no wrong byte when every operation runs against every other.
// Method: threads with bounded numbers of operations on few keys in a small tier, so that eviction, erasure, leases
// that expire, blocks that expire, listings and reservations that are dropped meet all the time. Meant for
// ThreadSanitizer; seeds are the thread numbers.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cachestore/host_tier.h"

namespace kvist {
namespace {

constexpr uint64_t kCapacity = uint64_t{512} << 10;
constexpr uint64_t kKeys = 48;
constexpr int kThreads = 4;

Key KeyOf(uint64_t number) {
  std::mt19937_64 random(number);
  Key key;
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  return key;
}

uint64_t NumberOf(const Key& key) {
  static const std::map<Key, uint64_t>* const numbers = [] {
    auto* all = new std::map<Key, uint64_t>;
    for (uint64_t number = 0; number <= 200; ++number) (*all)[KeyOf(number)] = number;
    return all;
  }();
  return numbers->at(key);
}

size_t SizeOf(uint64_t number) { return 2000 + number * 997; }

// Every byte of a block says its key, so any mixture of two blocks shows.
uint8_t ByteOf(uint64_t number) { return static_cast<uint8_t>(number * 5 + 1); }

bool IsWhole(const PinnedBlock& block, uint64_t number) {
  if (block.size_bytes() != SizeOf(number)) return false;
  for (const absl::Span<const uint8_t>& piece : block.pieces()) {
    for (uint8_t byte : piece) {
      if (byte != ByteOf(number)) return false;
    }
  }
  return true;
}

class HostTierStress : public testing::Test {
 protected:
  HostTierStress() {
    HostTierOptions options;
    options.capacity_bytes = kCapacity;
    options.clock = [this] { return absl::FromUnixMillis(now_ms_.load()); };
    options.index_shards = 8;
    options.remembered_removals = 64;
    tier_ = *HostTier::Create(options);
  }

  absl::Time Now() const { return absl::FromUnixMillis(now_ms_.load()); }

  void Put(uint64_t number, bool commit, absl::Duration lives = absl::InfiniteDuration()) {
    const BlockTraits traits{.group = KeyOf(number / 8), .expires = Now() + lives};
    auto reservation = tier_->Reserve(KeyOf(number), SizeOf(number) + 5000, traits);
    if (!reservation.ok()) {
      const absl::StatusCode code = reservation.status().code();
      const bool late = code == absl::StatusCode::kInvalidArgument && traits.expires <= Now();
      faults_ += code != absl::StatusCode::kAlreadyExists && code != absl::StatusCode::kResourceExhausted && !late;
      return;
    }
    const std::vector<uint8_t> bytes(SizeOf(number), ByteOf(number));
    faults_ += !(*reservation)->Write(0, bytes).ok();
    if (commit) faults_ += !(*reservation)->Commit(bytes.size()).ok();
  }

  void Work(int thread, int operations) {
    std::mt19937_64 random(thread);
    std::vector<std::pair<BlockRef, uint64_t>> held;
    uint64_t cursor = 0;
    for (int i = 0; i < operations; ++i) {
      const uint64_t number = random() % kKeys;
      switch (random() % 11) {
        case 0:
          faults_ += !tier_->Erase(KeyOf(number), random() % 2 == 0 ? MissReason::kErased : MissReason::kDamaged).ok();
          break;
        case 1: {
          std::vector<Key> chain;
          for (uint64_t next = number; next < std::min(number + 6, kKeys); ++next) chain.push_back(KeyOf(next));
          const auto match = tier_->Match(chain, absl::Milliseconds(random() % 50));
          if (random() % 2 == 0) faults_ += !tier_->Release(match->lease).ok();
          break;
        }
        case 2:
          now_ms_ += 5;
          break;
        case 3:
          faults_ += tier_->DropExpired();
          break;
        case 4:
          faults_ += !tier_->Stats().ok();
          break;
        case 5:
        case 6:
        case 7:
          Put(number, random() % 6 != 0,
              random() % 2 == 0 ? absl::InfiniteDuration() : absl::Milliseconds(1 + random() % 100));
          break;
        case 8: {
          const auto scanned = tier_->Scan(cursor, 1 + random() % 8);
          faults_ += !scanned.ok();
          for (const ScannedBlock& block : scanned->blocks) {
            wrong_ += block.traits.group != KeyOf(NumberOf(block.key) / 8);
            wrong_ += block.size_bytes != SizeOf(NumberOf(block.key));
          }
          cursor = scanned->next;
          break;
        }
        default: {
          auto lookup = tier_->Get(KeyOf(number), /*touch=*/random() % 4 != 0);
          if (lookup->block == nullptr) break;
          ++hits_;
          wrong_ += lookup->traits.group != KeyOf(number / 8);
          wrong_ += !IsWhole(*lookup->block, number);
          if (random() % 4 == 0) held.emplace_back(std::move(lookup->block), number);
        }
      }
      if (held.size() > 4) {
        wrong_ += !IsWhole(*held.front().first, held.front().second);
        held.erase(held.begin());
      }
    }
  }

  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  std::atomic<uint64_t> wrong_{0}, faults_{0}, hits_{0};
  std::unique_ptr<HostTier> tier_;
};

TEST_F(HostTierStress, EveryOperationAgainstEveryOther) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back([this, i] { Work(i, 4000); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong_, 0u);
  EXPECT_EQ(faults_, 0u);
  EXPECT_GT(hits_, 0u);
  EXPECT_GT(tier_->Stats()->evicted_blocks, 0u);
  EXPECT_GT(tier_->Stats()->expired_blocks, 0u);

  now_ms_ += 1'000'000;
  StoreStats stats = *tier_->Stats();
  EXPECT_EQ(stats.leases, 0u);
  EXPECT_EQ(stats.pinned_bytes, 0u);
  EXPECT_EQ(stats.reserved_bytes, 0u);
  uint64_t expected_bytes = 0;
  for (uint64_t i = 0; i < kKeys; ++i) {
    if (tier_->Get(KeyOf(i))->block != nullptr) expected_bytes += (SizeOf(i) + 63) / 64 * 64;
  }
  EXPECT_EQ(stats.used_bytes, expected_bytes);
  auto all = tier_->Reserve(KeyOf(kKeys), kCapacity);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ((*all)->pieces().size(), 1u);
}

// Some blocks are held by leases and so stay all the while; thousands of others are put, erased, evicted and expire
// around them, so that places are freed and taken again before, at and behind every cursor. Each pass must meet each
// block that stays once, and no other twice, since each is put once.
TEST_F(HostTierStress, EveryScanMeetsWhatStaysExactlyOnce) {
  constexpr uint64_t kStay = 20, kOthers = 3000, kPasses = 40;
  for (uint64_t i = 0; i < kStay; ++i) {
    Put(i, true);
    ASSERT_NE(tier_->Match({KeyOf(i)}, absl::Seconds(60))->lease, LeaseId{}) << i;
  }
  std::atomic<uint64_t> passes{0}, calls{0};
  std::atomic<int> writing{2};
  std::vector<std::thread> writers;
  for (int thread = 0; thread < 2; ++thread) {
    writers.emplace_back([this, thread, &passes, &writing] {
      std::mt19937_64 random(thread);
      for (uint64_t i = 0; i < kOthers || passes < kPasses; ++i) {
        const uint64_t number = (thread + 1) * 1'000'000'000 + i;
        const size_t size_bytes = 64 + random() % 4000;
        // Of a hundred that fit, a third are erased and a third expire before it would be their turn to be evicted.
        BlockTraits traits;
        if (random() % 3 == 0) traits.expires = Now() + absl::Milliseconds(1);
        auto reservation = tier_->Reserve(KeyOf(number), size_bytes, traits);
        faults_ += !reservation.ok() && !absl::IsInvalidArgument(reservation.status());  // its time may be over already
        if (reservation.ok()) faults_ += !(*reservation)->Commit(size_bytes).ok();
        if (random() % 3 == 0) faults_ += !tier_->Erase(KeyOf(number - std::min(i, random() % 20))).ok();
        if (i < 100'000 && i % 16 == 0) now_ms_ += 1;  // not as far as the leases last
      }
      --writing;
    });
  }
  std::vector<std::thread> scanners;
  for (int thread = 0; thread < 2; ++thread) {
    scanners.emplace_back([this, thread, &writing, &passes, &calls] {
      std::mt19937_64 random(100 + thread);
      do {
        std::map<Key, int> times;
        uint64_t cursor = 0;
        do {
          const auto scanned = tier_->Scan(cursor, 1 + random() % 4);
          for (const ScannedBlock& block : scanned->blocks) ++times[block.key];
          cursor = scanned->next;
          ++calls;
        } while (cursor != 0);
        for (uint64_t i = 0; i < kStay; ++i) wrong_ += times[KeyOf(i)] != 1;
        for (const auto& [key, count] : times) wrong_ += count != 1;
        ++passes;
      } while (writing > 0);
    });
  }
  for (std::thread& thread : writers) thread.join();
  for (std::thread& thread : scanners) thread.join();
  EXPECT_EQ(wrong_, 0u);
  EXPECT_EQ(faults_, 0u);
  EXPECT_GE(calls, passes * kStay / 4) << "a pass had too few steps";
  EXPECT_GT(tier_->Stats()->evicted_blocks, 0u);
  EXPECT_GT(tier_->Stats()->expired_blocks, 0u);
  EXPECT_GT(tier_->Stats()->erased_blocks, 0u);
}

// Readers never take more than half of the tier and no lease is out, so a writer must always find room, whatever the
// other threads have just evicted.
TEST_F(HostTierStress, NoReservationIsRefusedWhileSomethingCanBeEvicted) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([this, thread] {
      std::mt19937_64 random(thread);
      for (int i = 0; i < 3000; ++i) {
        const uint64_t number = random() % kKeys;
        auto reservation = tier_->Reserve(KeyOf(number), kCapacity / 6);
        faults_ += reservation.status().code() == absl::StatusCode::kResourceExhausted;
        if (!reservation.ok()) continue;
        const std::vector<uint8_t> bytes(SizeOf(number), ByteOf(number));
        faults_ += !(*reservation)->Write(0, bytes).ok();
        faults_ += !(*reservation)->Commit(bytes.size()).ok();
        const BlockRef mine = std::move(tier_->Get(KeyOf(random() % kKeys))->block);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(faults_, 0u);
  EXPECT_EQ(tier_->Stats()->refused_reservations, 0u);
}

TEST_F(HostTierStress, ReferencesAndReservationsOutliveTheTierOnOtherThreads) {
  for (uint64_t i = 0; i < 8; ++i) Put(i, true);
  ASSERT_NE(tier_->Match({KeyOf(0)}, absl::Seconds(10))->lease, LeaseId{});
  std::atomic<bool> gone{false};
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 8; ++i) {
    auto reservation = *tier_->Reserve(KeyOf(100 + i), 4096);
    threads.emplace_back([this, i, &gone, block = std::move(tier_->Get(KeyOf(i))->block),
                          reservation = std::move(reservation)]() mutable {
      while (!gone) std::this_thread::yield();
      wrong_ += !IsWhole(*block, i);
      const std::vector<uint8_t> bytes(4096, 1);
      faults_ += !reservation->Write(0, bytes).ok();
      faults_ += reservation->Commit(4096).code() != absl::StatusCode::kFailedPrecondition;
    });
  }
  tier_.reset();
  gone = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong_, 0u);
  EXPECT_EQ(faults_, 0u);
}

}  // namespace
}  // namespace kvist
