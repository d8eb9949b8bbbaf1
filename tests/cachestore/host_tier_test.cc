// Goal: what the host tier promises beyond BlockStore: its options, its bounds, its messages.
// Method: examples with small tiers and a clock that is set by hand.
#include "cachestore/host_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cachestore/arena.h"
#include "cachestore/removals.h"
#include "cachestore/roster.h"
#include "cachestore/tier_core.h"

namespace kvist {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Key KeyOf(uint64_t number) {
  std::mt19937_64 random(number);
  Key key;
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  return key;
}

class HostTierTest : public testing::Test {
 protected:
  HostTierOptions Options() {
    HostTierOptions options;
    options.capacity_bytes = uint64_t{1} << 20;
    options.clock = [this] { return now_; };
    return options;
  }
  // As many as there are 64-byte blocks.
  HostTierOptions WithManyBlocks() {
    HostTierOptions options = Options();
    options.max_blocks = 20'000;
    return options;
  }
  static BlockTraits Until(absl::Time expires) { return {.group = {}, .expires = expires}; }
  static absl::Status Put(HostTier& tier, uint64_t number, size_t size_bytes, const BlockTraits& traits = {}) {
    auto reservation = tier.Reserve(KeyOf(number), size_bytes, traits);
    if (!reservation.ok()) return reservation.status();
    return (*reservation)->Commit(size_bytes);
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
};

TEST_F(HostTierTest, NamesEveryOptionThatIsWrong) {
  HostTierOptions options;
  options.capacity_bytes = 1000;
  options.max_lease = absl::ZeroDuration();
  options.max_pinned_fraction = 1.5;
  options.index_shards = 3;
  options.remembered_removals = size_t{1} << 40;
  const absl::Status status = HostTier::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("capacity_bytes is 1000"), HasSubstr("clock is missing"), HasSubstr("max_lease is 0"),
                    HasSubstr("max_pinned_fraction is 1.5"), HasSubstr("index_shards is 3"),
                    HasSubstr("remembered_removals is 1099511627776")));
}

TEST_F(HostTierTest, SaysWhenTheMemoryIsNotThere) {
  HostTierOptions options = Options();
  options.capacity_bytes = uint64_t{1} << 60;
  const absl::Status status = HostTier::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("cannot map 1152921504606846976 bytes"));
}

TEST_F(HostTierTest, RoundsItsCapacityDownToWholeGranules) {
  HostTierOptions options = Options();
  options.capacity_bytes += 63;
  EXPECT_EQ((*HostTier::Create(options))->Stats()->capacity_bytes, uint64_t{1} << 20);
}

TEST_F(HostTierTest, RefusesWithFigures) {
  auto tier = *HostTier::Create(Options());
  ASSERT_TRUE(Put(*tier, 1, 300000).ok());
  const BlockRef held = std::move(tier->Get(KeyOf(1))->block);
  const auto open = tier->Reserve(KeyOf(2), 500000);
  const absl::Status status = tier->Reserve(KeyOf(3), 400000).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("no room for 400000 bytes"), HasSubstr("of 1048576 bytes"),
                                      HasSubstr("300032 are used (300032 pinned)"), HasSubstr("500032 reserved"),
                                      HasSubstr("248512 free")));
}

TEST_F(HostTierTest, SaysWhetherAKeyIsStoredOrBeingWritten) {
  auto tier = *HostTier::Create(Options());
  auto reservation = *tier->Reserve(KeyOf(1), 100);
  EXPECT_THAT(tier->Reserve(KeyOf(1), 100).status().message(), HasSubstr("is being written"));
  ASSERT_TRUE(reservation->Commit(100).ok());
  EXPECT_THAT(tier->Reserve(KeyOf(1), 100).status().message(), HasSubstr("is stored"));
}

TEST_F(HostTierTest, HoldsAtMostMaxBlocks) {
  HostTierOptions options = Options();
  options.max_blocks = 10;
  auto tier = *HostTier::Create(options);
  for (uint64_t i = 0; i < 100; ++i) ASSERT_TRUE(Put(*tier, i, 64).ok()) << i;
  EXPECT_EQ(tier->Stats()->blocks, 10u);
  std::vector<BlockRef> held;
  for (uint64_t i = 90; i < 100; ++i) held.push_back(std::move(tier->Get(KeyOf(i))->block));
  const absl::Status status = Put(*tier, 200, 64);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("11 of 10 blocks"));
  held.pop_back();
  EXPECT_TRUE(Put(*tier, 200, 64).ok());
}

TEST_F(HostTierTest, ABlockThatFindsNoSingleHoleIsPlacedInSeveral) {
  auto tier = *HostTier::Create(Options());
  for (uint64_t i = 0; i < 16; ++i) ASSERT_TRUE(Put(*tier, i, 65536).ok());
  for (uint64_t i = 0; i < 16; i += 2) ASSERT_TRUE(*tier->Erase(KeyOf(i)));
  std::string bytes(8 * 65536 - 10, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 >> 3);
  auto reservation = *tier->Reserve(KeyOf(100), bytes.size());
  ASSERT_TRUE(reservation->Write(0, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}).ok());
  ASSERT_TRUE(reservation->Commit(bytes.size()).ok());
  EXPECT_EQ(tier->Stats()->evicted_blocks, 0u);
  const auto lookup = tier->Get(KeyOf(100));
  EXPECT_EQ(lookup->block->pieces().size(), 8u);
  std::string read;
  for (const auto& piece : lookup->block->pieces()) {
    read.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  EXPECT_TRUE(read == bytes);
}

TEST_F(HostTierTest, DropExpiredDropsThemWithoutAnotherCall) {
  auto tier = *HostTier::Create(Options());
  ASSERT_TRUE(Put(*tier, 1, 65536).ok());
  ASSERT_NE(tier->Match({KeyOf(1)}, absl::Seconds(5))->lease, LeaseId{});
  ASSERT_TRUE(*tier->Erase(KeyOf(1)));
  EXPECT_EQ(tier->Stats()->used_bytes, 65536u);
  now_ += absl::Seconds(5);
  EXPECT_FALSE(tier->DropExpired());
  now_ -= absl::Seconds(5);  // so that Stats itself expires nothing
  EXPECT_EQ(tier->Stats()->used_bytes, 0u);
  EXPECT_EQ(tier->Stats()->expired_leases, 1u);
}

TEST_F(HostTierTest, AReservationThatMeetsOnlyAnExpiredLeaseFindsRoom) {
  HostTierOptions options = Options();
  options.max_pinned_fraction = 1.0;
  auto tier = *HostTier::Create(options);
  ASSERT_TRUE(Put(*tier, 1, uint64_t{1} << 20).ok());
  ASSERT_NE(tier->Match({KeyOf(1)}, absl::Seconds(5))->lease, LeaseId{});
  EXPECT_EQ(Put(*tier, 2, 65536).code(), absl::StatusCode::kResourceExhausted);
  now_ += absl::Seconds(5);
  EXPECT_TRUE(Put(*tier, 2, 65536).ok());
}

TEST_F(HostTierTest, DropsABoundedNumberOfExpiredBlocksACall) {
  auto tier = *HostTier::Create(WithManyBlocks());
  const uint64_t due = 2 * HostTier::kMostDropped + 10;
  for (uint64_t i = 0; i < due; ++i) ASSERT_TRUE(Put(*tier, i, 64, Until(now_ + absl::Seconds(5 + i % 3))).ok());
  ASSERT_TRUE(Put(*tier, due, 64, Until(now_ + absl::Hours(1))).ok());
  EXPECT_FALSE(tier->DropExpired()) << "nothing is due";
  EXPECT_EQ(tier->Stats()->blocks, due + 1);
  now_ += absl::Seconds(10);
  EXPECT_TRUE(tier->DropExpired());
  EXPECT_TRUE(tier->DropExpired());
  EXPECT_FALSE(tier->DropExpired());
  now_ -= absl::Seconds(10);  // so that Stats itself expires nothing
  EXPECT_EQ(tier->Stats()->blocks, 1u);
  EXPECT_EQ(tier->Stats()->expired_blocks, due);
  EXPECT_EQ(tier->Stats()->used_bytes, 64u);
  now_ += absl::Hours(1);
  EXPECT_EQ(tier->Stats()->blocks, 0u) << "the last one was not forgotten";
}

TEST_F(HostTierTest, ADropThatStopsAtTheEndOfAShardDoesNotForgetTheNext) {
  HostTierOptions options = WithManyBlocks();
  options.index_shards = 2;
  auto tier = *HostTier::Create(options);
  const BlockTraits traits = Until(now_ + absl::Seconds(5));
  for (uint64_t i = 0; i <= HostTier::kMostDropped; ++i) {
    Key key;
    const uint64_t number = i < HostTier::kMostDropped ? 2 * i : 1;  // the last one lies in the other shard
    std::memcpy(key.bytes.data(), &number, sizeof(number));
    auto reservation = tier->Reserve(key, 64, traits);
    ASSERT_TRUE(reservation.ok() && (*reservation)->Commit(64).ok());
  }
  now_ += absl::Seconds(5);
  EXPECT_TRUE(tier->DropExpired());
  EXPECT_FALSE(tier->DropExpired());
  now_ -= absl::Seconds(5);  // so that Stats itself expires nothing
  EXPECT_EQ(tier->Stats()->blocks, 0u);
}

TEST_F(HostTierTest, AReservationMeetsMoreExpiredLeasesThanOneCallDropsAndFindsRoom) {
  HostTierOptions options = WithManyBlocks();
  options.max_pinned_fraction = 1.0;
  auto tier = *HostTier::Create(options);
  for (uint64_t i = 0; i < 3 * HostTier::kMostDropped; ++i) {
    ASSERT_TRUE(Put(*tier, i, 64).ok());
    ASSERT_NE(tier->Match({KeyOf(i)}, absl::Seconds(5))->lease, LeaseId{});
  }
  now_ += absl::Seconds(5);
  EXPECT_TRUE(Put(*tier, uint64_t{1} << 30, uint64_t{1} << 20).ok());
  EXPECT_EQ(tier->Stats()->expired_leases, 3 * HostTier::kMostDropped);
}

TEST_F(HostTierTest, ABlockWhoseTimeIsOverMakesRoomAsAnExpiredOneEvenIfNoneWasDroppedBefore) {
  HostTierOptions options = WithManyBlocks();
  auto tier = *HostTier::Create(options);
  const uint64_t blocks = options.capacity_bytes / 64;  // more than one call drops
  for (uint64_t i = 0; i < blocks; ++i) ASSERT_TRUE(Put(*tier, i, 64, Until(now_ + absl::Seconds(5))).ok());
  now_ += absl::Seconds(5);
  EXPECT_TRUE(Put(*tier, blocks, options.capacity_bytes).ok());
  const StoreStats stats = *tier->Stats();
  EXPECT_EQ(stats.evicted_blocks, 0u);
  EXPECT_EQ(stats.evicted_bytes, 0u);
  EXPECT_EQ(stats.expired_blocks, blocks);
}

TEST_F(HostTierTest, TheFirstLookAtAnExpiredBlockTellsItWithoutTheRing) {
  HostTierOptions options = Options();
  options.remembered_removals = 0;
  auto tier = *HostTier::Create(options);
  ASSERT_TRUE(Put(*tier, 1, 64, Until(now_ + absl::Seconds(5))).ok());
  now_ += absl::Seconds(7);
  const auto first = tier->Get(KeyOf(1));
  EXPECT_EQ(first->miss, MissReason::kExpired);
  EXPECT_EQ(first->gone, now_ - absl::Seconds(2)) << "its time, not that of the look";
  EXPECT_EQ(tier->Get(KeyOf(1))->miss, MissReason::kNeverStored);
}

TEST_F(HostTierTest, GetReadsTheClockOnlyForABlockThatWillExpire) {
  uint64_t readings = 0;
  HostTierOptions options = Options();
  options.clock = [this, &readings] {
    ++readings;
    return now_;
  };
  auto tier = *HostTier::Create(options);
  ASSERT_TRUE(Put(*tier, 1, 64).ok());
  ASSERT_TRUE(Put(*tier, 2, 64, Until(now_ + absl::Seconds(5))).ok());
  const uint64_t before = readings;
  ASSERT_NE(tier->Get(KeyOf(1))->block, nullptr);
  EXPECT_EQ(readings, before);
  ASSERT_NE(tier->Get(KeyOf(2))->block, nullptr);
  EXPECT_EQ(readings, before + 1);
}

TEST_F(HostTierTest, SaysWhatIsWrongWithATimeAReasonALimitOrACursor) {
  auto tier = *HostTier::Create(Options());
  const absl::Status late = tier->Reserve(KeyOf(1), 64, Until(now_)).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(late.message(), HasSubstr("would expire at 1970-01-01"));
  const absl::Status reason = tier->Erase(KeyOf(1), MissReason::kEvicted).status();
  EXPECT_EQ(reason.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(reason.message(), AllOf(HasSubstr("kErased"), HasSubstr("kDamaged")));
  EXPECT_THAT(tier->Scan(0, 0).status().message(), HasSubstr("limit is 0"));
  EXPECT_THAT(tier->Scan(uint64_t{64} << 32, 1).status().message(), HasSubstr("cursor 274877906944"));
}

TEST_F(HostTierTest, AScanOfAStoreThatWasFullReturnsAfterABoundedLook) {
  HostTierOptions options = WithManyBlocks();
  options.capacity_bytes = uint64_t{8} << 20;
  options.max_blocks = 200'000;
  auto tier = *HostTier::Create(options);
  const uint64_t blocks = options.capacity_bytes / 64;
  for (uint64_t i = 0; i < blocks; ++i) ASSERT_TRUE(Put(*tier, i, 64).ok());
  for (uint64_t i = 1; i < blocks; ++i) ASSERT_TRUE(*tier->Erase(KeyOf(i)));
  uint64_t cursor = 0, calls = 0, listed = 0;
  do {
    const auto scanned = *tier->Scan(cursor, 1000);
    listed += scanned.blocks.size();
    cursor = scanned.next;
    ++calls;
  } while (cursor != 0);
  EXPECT_EQ(listed, 1u);
  EXPECT_EQ(calls, 3u) << "131,072 places and 64 shards, 65,536 a call";
}

TEST_F(HostTierTest, FlipsBitsOfARestingBlockAndOfNoOther) {
  auto tier = *HostTier::Create(Options());
  for (uint64_t i = 0; i < 16; ++i) ASSERT_TRUE(Put(*tier, i, 65536).ok());
  for (uint64_t i = 0; i < 16; i += 2) ASSERT_TRUE(*tier->Erase(KeyOf(i)));
  auto reservation = *tier->Reserve(KeyOf(100), 3 * 65536);  // lies in several pieces
  const std::vector<uint8_t> zeros(3 * 65536, 0);
  ASSERT_TRUE(reservation->Write(0, zeros).ok());
  EXPECT_FALSE(tier->FlipBitsForTest(KeyOf(100), 0, 1)) << "it is being written";
  ASSERT_TRUE(reservation->Commit(zeros.size()).ok());
  EXPECT_TRUE(tier->FlipBitsForTest(KeyOf(100), 0, 0x01));
  EXPECT_TRUE(tier->FlipBitsForTest(KeyOf(100), 65536, 0x80));
  EXPECT_TRUE(tier->FlipBitsForTest(KeyOf(100), 3 * 65536 - 1, 0xFF));
  EXPECT_FALSE(tier->FlipBitsForTest(KeyOf(100), 3 * 65536, 0xFF)) << "beyond its end";
  EXPECT_FALSE(tier->FlipBitsForTest(KeyOf(0), 0, 0xFF)) << "no such block";
  const auto lookup = tier->Get(KeyOf(100));
  ASSERT_GT(lookup->block->pieces().size(), 1u);
  std::vector<uint8_t> read;
  for (const auto& piece : lookup->block->pieces()) read.insert(read.end(), piece.begin(), piece.end());
  std::vector<uint8_t> expected = zeros;
  expected[0] = 0x01;
  expected[65536] = 0x80;
  expected.back() = 0xFF;
  EXPECT_TRUE(read == expected);
}

TEST_F(HostTierTest, ALeaseOfAnEarlierProcessIsUnknown) {
  auto earlier = *HostTier::Create(Options());
  ASSERT_TRUE(Put(*earlier, 1, 100).ok());
  const LeaseId stale = earlier->Match({KeyOf(1)}, absl::Seconds(5))->lease;
  now_ += absl::Seconds(1);
  auto tier = *HostTier::Create(Options());
  ASSERT_TRUE(Put(*tier, 1, 100).ok());
  ASSERT_NE(tier->Match({KeyOf(1)}, absl::Seconds(5))->lease, stale);
  ASSERT_TRUE(tier->Release(stale).ok());
  EXPECT_EQ(tier->Stats()->leases, 1u);
}

TEST_F(HostTierTest, AReferenceAndAReservationOutliveTheTier) {
  auto tier = *HostTier::Create(Options());
  ASSERT_TRUE(Put(*tier, 1, 65536).ok());
  BlockRef block = std::move(tier->Get(KeyOf(1))->block);
  auto reservation = *tier->Reserve(KeyOf(2), 65536);
  tier.reset();
  EXPECT_EQ(block->pieces()[0].size(), 65536u);
  std::vector<uint8_t> bytes(65536, 7);
  EXPECT_TRUE(reservation->Write(0, bytes).ok());
  EXPECT_EQ(reservation->Commit(65536).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(RecentRemovalsTest, ForgetsTheOldestAndKeepsTheLatestCause) {
  RecentRemovals removals(3);
  removals.Remember(KeyOf(1), {.cause = MissReason::kEvicted, .made_room_for = {}});
  removals.Remember(KeyOf(2), {.cause = MissReason::kErased, .made_room_for = {}});
  removals.Remember(KeyOf(1), {.cause = MissReason::kErased, .made_room_for = {}});
  EXPECT_EQ(removals.Find(KeyOf(1)).cause, MissReason::kErased);
  removals.Remember(KeyOf(3), {.cause = MissReason::kEvicted, .made_room_for = {}});
  EXPECT_EQ(removals.Find(KeyOf(1)).cause, MissReason::kErased) << "only its first, void slot was overwritten";
  removals.Remember(KeyOf(4), {.cause = MissReason::kEvicted, .made_room_for = {}});
  EXPECT_EQ(removals.Find(KeyOf(2)).cause, MissReason::kNeverStored);
  removals.Remember(KeyOf(5), {.cause = MissReason::kEvicted, .made_room_for = {}});
  EXPECT_EQ(removals.Find(KeyOf(1)).cause, MissReason::kNeverStored);
  removals.Forget(KeyOf(4));
  EXPECT_EQ(removals.Find(KeyOf(4)).cause, MissReason::kNeverStored);
  EXPECT_EQ(removals.Find(KeyOf(5)).cause, MissReason::kEvicted);
}

// Against a list of all that was remembered: the last of a key counts, if it is among the last `capacity`.
TEST(RecentRemovalsTest, RemembersWhatAPlainListRemembers) {
  std::mt19937_64 random(5);
  for (const size_t capacity : {0, 1, 2, 7, 64}) {
    SCOPED_TRACE(testing::Message() << "capacity " << capacity);
    RecentRemovals removals(capacity);
    std::vector<std::pair<uint64_t, int64_t>> past;  // key or kForgotten, and when
    constexpr uint64_t kForgotten = 1000;
    for (int64_t step = 0; step < 2000; ++step) {
      const uint64_t number = random() % 40;
      if (random() % 5 == 0) {
        removals.Forget(KeyOf(number));
        for (auto& [key, when] : past) key = key == number ? kForgotten : key;
      } else {
        removals.Remember(KeyOf(number), {MissReason::kEvicted, step, KeyOf(step)});
        past.emplace_back(number, step);
      }
      const uint64_t asked = random() % 40;
      const auto last =
          std::find_if(past.rbegin(), past.rend(), [&](const auto& entry) { return entry.first == asked; });
      const bool known = last != past.rend() && last - past.rbegin() < static_cast<std::ptrdiff_t>(capacity);
      const Removal removal = removals.Find(KeyOf(asked));
      ASSERT_EQ(removal.cause, known ? MissReason::kEvicted : MissReason::kNeverStored);
      ASSERT_EQ(removals.Cause(KeyOf(asked)), removal.cause);
      if (known) {
        ASSERT_EQ(removal.when_ns, last->second);
        ASSERT_EQ(removal.made_room_for, KeyOf(last->second));
      }
    }
  }
}

TEST(RosterTest, GivesFreedNumbersOutAgainAndKeepsTheOthers) {
  std::vector<uint64_t> blocks(300);  // only their addresses matter
  const auto block = [&](size_t i) { return reinterpret_cast<Block*>(&blocks[i]); };
  std::mt19937_64 random(6);
  Roster roster;
  std::map<uint32_t, size_t> taken;
  for (int step = 0; step < 20'000; ++step) {
    if (random() % 2 == 0 && taken.size() < blocks.size()) {
      const size_t i = random() % blocks.size();
      ASSERT_TRUE(taken.emplace(roster.Add(block(i)), i).second) << "a number was given out twice";
    } else if (!taken.empty()) {
      const auto at = std::next(taken.begin(), static_cast<std::ptrdiff_t>(random() % taken.size()));
      roster.Remove(at->first);
      taken.erase(at);
    }
    ASSERT_LE(roster.end(), blocks.size()) << "numbers are used again";
    const uint32_t number = static_cast<uint32_t>(random() % (roster.end() + uint64_t{1}));
    if (number == roster.end()) continue;
    const auto at = taken.find(number);
    ASSERT_EQ(roster.At(number), at == taken.end() ? nullptr : block(at->second));
  }
}

TEST(ArenaTest, IsAlignedToHugePagesAndWritableToItsEnd) {
  const auto arena = *Arena::Create({.size_bytes = (uint64_t{3} << 20) + 64, .prefault = true});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(arena->base()) % (uint64_t{2} << 20), 0u);
  arena->base()[arena->size_bytes() - 1] = 1;
  EXPECT_LE(arena->HugePageBytes(), uint64_t{4} << 20);
  if (!arena->huge_pages_advised()) {
    EXPECT_EQ(arena->HugePageBytes(), 0u);
  }
}

uint64_t Counted(const Ages& ages) {
  uint64_t sum = 0;
  for (const uint64_t count : ages.counts) sum += count;
  return sum;
}

TEST_F(HostTierTest, UsesOfABlockLessThanASecondApartAreOne) {
  const auto tier = *HostTier::Create(Options());
  ASSERT_TRUE(Put(*tier, 1, 4096).ok());
  const auto use = [&] {
    // A Match reads the clock for all that follow.
    const MatchResult match = *tier->Match({KeyOf(1)}, absl::Seconds(1));
    ASSERT_NE(tier->Get(KeyOf(1))->block, nullptr);
    ASSERT_TRUE(tier->Release(match.lease).ok());
  };
  now_ += absl::Milliseconds(500);
  use();
  EXPECT_EQ(Counted(tier->core()->index.life().reuse_gap), 0u);
  now_ += absl::Seconds(7);
  use();
  const Ages gaps = tier->core()->index.life().reuse_gap;
  EXPECT_EQ(Counted(gaps), 1u);
  EXPECT_EQ(gaps.counts[3], 1u) << "between 5 and 10 seconds";
  EXPECT_NEAR(gaps.sum_seconds, 7, 0.01);
}

TEST_F(HostTierTest, WhatLeavesIsCountedByCauseWithItsAge) {
  const auto tier = *HostTier::Create(Options());
  ASSERT_TRUE(Put(*tier, 1, 512 << 10).ok());
  now_ += absl::Seconds(20);
  ASSERT_EQ(tier->Match({KeyOf(1)}, absl::ZeroDuration())->hits, 1u);
  now_ += absl::Seconds(100);
  ASSERT_TRUE(Put(*tier, 2, 768 << 10).ok());
  ASSERT_TRUE(*tier->Erase(KeyOf(2), MissReason::kDamaged));
  const LifeFigures life = tier->core()->index.life();
  EXPECT_EQ(life.removed_blocks[static_cast<size_t>(MissReason::kEvicted)], 1u);
  EXPECT_EQ(life.removed_bytes[static_cast<size_t>(MissReason::kEvicted)], 512u << 10);
  EXPECT_EQ(life.removed_blocks[static_cast<size_t>(MissReason::kDamaged)], 1u);
  EXPECT_EQ(life.removed_blocks[static_cast<size_t>(MissReason::kErased)], 0u);
  EXPECT_EQ(Counted(life.eviction_age), 1u);
  EXPECT_NEAR(life.eviction_age.sum_seconds, 100, 0.01) << "since its last use";
  EXPECT_EQ(Counted(life.lifetime), 2u);
  EXPECT_NEAR(life.lifetime.sum_seconds, 120, 0.01) << "since it was stored, and the other at once";
}

TEST_F(HostTierTest, SumsUpWhatItsBlocksStandFor) {
  const auto tier = *HostTier::Create(Options());
  for (const uint64_t number : {1, 2}) {
    auto reservation = *tier->Reserve(KeyOf(number), 4096);
    reservation->SetContent({.tokens = 128, .plain_bytes = 16384});
    ASSERT_TRUE(reservation->Commit(4096).ok());
  }
  EXPECT_EQ(tier->Stats()->tokens, 256u);
  EXPECT_EQ(tier->Stats()->plain_bytes, 32768u);
  EXPECT_EQ(tier->Match({KeyOf(1), KeyOf(2)}, absl::ZeroDuration())->hit_tokens, 256u);
  EXPECT_EQ(tier->Match({KeyOf(1), KeyOf(2)}, absl::Seconds(1))->hit_tokens, 256u);
  ASSERT_TRUE(*tier->Erase(KeyOf(1)));
  const MatchResult match = *tier->Match({KeyOf(2)}, absl::ZeroDuration());
  EXPECT_EQ(match.hit_tokens, 128u);
}

TEST_F(HostTierTest, ABlockThatIsGoneStandsForNothing) {
  const auto tier = *HostTier::Create(Options());
  auto reservation = *tier->Reserve(KeyOf(1), 4096);
  reservation->SetContent({.tokens = 128, .plain_bytes = 16384});
  ASSERT_TRUE(reservation->Commit(4096).ok());
  ASSERT_TRUE(*tier->Erase(KeyOf(1)));
  EXPECT_EQ(tier->Stats()->tokens, 0u);
  EXPECT_EQ(tier->Stats()->plain_bytes, 0u);
}

}  // namespace
}  // namespace kvist
