// The cases of the suite, in the order of block_store.h: storing and finding, reservations, capacity, Match and leases,
// Erase, the account, threads.
#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/conformance/block_store_conformance.h"

namespace kvist {

// --- Storing and finding ---

TEST_P(BlockStoreConformance, MissesThenStoresThenFindsTheSameBytes) {
  auto before = store().Get(KeyOf(1));
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EQ(before->block, nullptr);
  EXPECT_EQ(before->miss, MissReason::kNeverStored);
  EXPECT_EQ(before->tier, Tier::kNone);

  ASSERT_TRUE(Put(1).ok());
  auto after = store().Get(KeyOf(1));
  ASSERT_TRUE(after.ok()) << after.status();
  ASSERT_NE(after->block, nullptr);
  EXPECT_EQ(after->miss, MissReason::kNone);
  EXPECT_NE(after->tier, Tier::kNone);
  EXPECT_EQ(after->block->size_bytes(), BlockOf(1).size());
  EXPECT_TRUE(BytesOf(*after->block) == BlockOf(1));
}

TEST_P(BlockStoreConformance, KeepsBlocksOfManySizesApart) {
  for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(Put(i, 8192 + i * 7001, i).ok());
  for (uint64_t i = 0; i < 20; ++i) {
    auto lookup = store().Get(KeyOf(i));
    ASSERT_TRUE(lookup.ok() && lookup->block != nullptr) << i;
    EXPECT_TRUE(BytesOf(*lookup->block) == BlockOf(i, 8192 + i * 7001, i)) << i;
  }
}

TEST_P(BlockStoreConformance, PiecesAreAlignedAndHoldTheWholeBlock) {
  ASSERT_TRUE(Put(1, 100001).ok());
  auto lookup = store().Get(KeyOf(1));
  ASSERT_TRUE(lookup.ok() && lookup->block != nullptr);
  size_t sum_bytes = 0;
  for (const auto& piece : lookup->block->pieces()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(piece.data()) % 64, 0u);
    EXPECT_FALSE(piece.empty());
    sum_bytes += piece.size();
  }
  EXPECT_EQ(sum_bytes, lookup->block->size_bytes());
}

TEST_P(BlockStoreConformance, RefusesAKeyThatIsStored) {
  ASSERT_TRUE(Put(1).ok());
  EXPECT_EQ(Put(1, kBlock, 7).code(), absl::StatusCode::kAlreadyExists);
  auto lookup = store().Get(KeyOf(1));
  ASSERT_TRUE(lookup.ok() && lookup->block != nullptr);
  EXPECT_TRUE(BytesOf(*lookup->block) == BlockOf(1)) << "the first one stays";
}

// --- Reservations ---

TEST_P(BlockStoreConformance, ABlockBeingWrittenIsAMissAndNobodyElseMayWriteIt) {
  const std::string block = BlockOf(1);
  auto first = store().Reserve(KeyOf(1), block.size());
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(store().Reserve(KeyOf(1), block.size()).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(WhyMissing(1), MissReason::kBeingWritten);
  const MatchResult match = Match({KeyOf(1)});
  EXPECT_EQ(match.hits, 0u);
  EXPECT_EQ(match.miss, MissReason::kBeingWritten);
  auto erased = store().Erase(KeyOf(1));
  ASSERT_TRUE(erased.ok());
  EXPECT_FALSE(*erased) << "not a block yet";

  ASSERT_TRUE((*first)->Write(0, AsBytes(block)).ok());
  ASSERT_TRUE((*first)->Commit(block.size()).ok());
  EXPECT_TRUE(Has(1));
}

TEST_P(BlockStoreConformance, AnAbortedReservationReturnsItsSpaceAndItsKey) {
  const std::string block = BlockOf(1);
  {
    auto reservation = store().Reserve(KeyOf(1), block.size());
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    ASSERT_TRUE((*reservation)->Write(0, AsBytes(block).subspan(0, 100)).ok());
    EXPECT_TRUE(Eventually([&] { return Stats().reserved_bytes >= block.size(); }));
  }
  EXPECT_TRUE(Eventually([&] { return Stats().reserved_bytes == 0; }));
  EXPECT_EQ(Stats().used_bytes, 0u);
  EXPECT_EQ(WhyMissing(1), MissReason::kNeverStored);
  EXPECT_TRUE(Eventually([&] { return Put(1).ok(); }));
}

TEST_P(BlockStoreConformance, TakesPartsInAnyOrder) {
  const std::string block = BlockOf(1, 200000);
  auto reservation = store().Reserve(KeyOf(1), block.size());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  std::vector<size_t> offsets;
  constexpr size_t kPart = 7777;
  for (size_t offset = 0; offset < block.size(); offset += kPart) offsets.push_back(offset);
  std::shuffle(offsets.begin(), offsets.end(), std::mt19937_64(11));
  for (size_t offset : offsets) {
    ASSERT_TRUE((*reservation)->Write(offset, AsBytes(block).subspan(offset, kPart)).ok()) << offset;
  }
  if (under_test().reservations_are_readable()) {
    std::string written;
    for (const auto& piece : (*reservation)->pieces()) {
      written.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
    EXPECT_TRUE(written == block) << "before Commit";
  }
  ASSERT_TRUE((*reservation)->Commit(block.size()).ok());
  auto lookup = store().Get(KeyOf(1));
  ASSERT_TRUE(lookup.ok() && lookup->block != nullptr);
  EXPECT_TRUE(BytesOf(*lookup->block) == block);
}

TEST_P(BlockStoreConformance, RefusesAWriteBeyondTheReservation) {
  const std::string block = BlockOf(1);
  auto reservation = store().Reserve(KeyOf(1), block.size());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ASSERT_TRUE((*reservation)->Write(0, AsBytes(block)).ok());
  const std::string other(2, 'x');
  EXPECT_EQ((*reservation)->Write(block.size() - 1, AsBytes(other)).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*reservation)->Write(block.size() + 1, {}).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*reservation)->Write(~size_t{0}, AsBytes(other)).code(), absl::StatusCode::kOutOfRange);
  ASSERT_TRUE((*reservation)->Commit(block.size()).ok());
  auto lookup = store().Get(KeyOf(1));
  ASSERT_TRUE(lookup.ok() && lookup->block != nullptr);
  EXPECT_TRUE(BytesOf(*lookup->block) == block) << "nothing was written by the refused writes";
}

TEST_P(BlockStoreConformance, CommitOfLessReturnsTheRest) {
  const std::string block = BlockOf(1);
  auto reservation = store().Reserve(KeyOf(1), 10 * block.size());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ASSERT_TRUE((*reservation)->Write(0, AsBytes(block)).ok());
  ASSERT_TRUE((*reservation)->Commit(block.size()).ok());
  EXPECT_TRUE(Eventually([&] { return Stats().reserved_bytes == 0; }));
  EXPECT_GE(Stats().used_bytes, block.size());
  EXPECT_LT(Stats().used_bytes, block.size() + 4096);
  auto lookup = store().Get(KeyOf(1));
  ASSERT_TRUE(lookup.ok() && lookup->block != nullptr);
  EXPECT_TRUE(BytesOf(*lookup->block) == block);
}

TEST_P(BlockStoreConformance, RefusesACommitOfNothingOfTooMuchAndTwice) {
  const std::string block = BlockOf(1);
  auto reservation = store().Reserve(KeyOf(1), block.size());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ASSERT_TRUE((*reservation)->Write(0, AsBytes(block)).ok());
  EXPECT_EQ((*reservation)->Commit(0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*reservation)->Commit(block.size() + 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*reservation)->Commit(block.size()).ok()) << "a refused Commit spends nothing";
  EXPECT_EQ((*reservation)->Commit(block.size()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE((*reservation)->Write(0, AsBytes(block)).ok());
  reservation->reset();
  EXPECT_TRUE(Has(1)) << "the end of a spent reservation aborts nothing";
}

// --- Capacity ---

TEST_P(BlockStoreConformance, RefusesABlockOfNothingAndOneAboveTheCapacityAndEvictsNothingForIt) {
  PutAll(0, 10);
  EXPECT_EQ(store().Reserve(KeyOf(100), 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store().Reserve(KeyOf(101), under_test().writable_bytes() + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Stats().blocks, 10u);
  EXPECT_EQ(WhyMissing(101), MissReason::kNeverStored);
}

TEST_P(BlockStoreConformance, EvictsTheLeastRecentlyTouchedForRoom) {
  const uint64_t next = FillUntilEvicted(0, 1);
  EXPECT_EQ(WhyMissing(0), MissReason::kEvicted);
  EXPECT_EQ(Match({KeyOf(0)}).miss, MissReason::kEvicted);
  ASSERT_TRUE(Has(1));                               // a Match touches
  ASSERT_NE(store().Get(KeyOf(2))->block, nullptr);  // and so does a Get
  FillUntilEvicted(next, 2);
  EXPECT_TRUE(Has(1));
  EXPECT_TRUE(Has(2));
  EXPECT_EQ(WhyMissing(3), MissReason::kEvicted);
}

TEST_P(BlockStoreConformance, AnEvictedBlockMayBeStoredAgain) {
  FillUntilEvicted(0, 1);
  ASSERT_FALSE(Has(0));
  ASSERT_TRUE(Put(0).ok());
  EXPECT_TRUE(Has(0));
}

TEST_P(BlockStoreConformance, RefusesWhenAllThatIsLeftIsReserved) {
  const uint64_t capacity = under_test().writable_bytes();
  auto first = store().Reserve(KeyOf(0), capacity / 2);
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = store().Reserve(KeyOf(1), capacity / 2);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(Eventually([&] { return Stats().reserved_bytes >= capacity / 2 * 2; }));
  auto third = store().Reserve(KeyOf(2), kBlock);
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted) << third.status();
  EXPECT_EQ(WhyMissing(2), MissReason::kNeverStored) << "a refused reservation leaves no trace";
  first->reset();
  EXPECT_TRUE(Eventually([&] { return Put(2).ok(); }));
}

TEST_P(BlockStoreConformance, HoldsOneBlockOfItsWholeCapacity) {
  const uint64_t capacity = under_test().writable_bytes();
  PutAll(0, 10);
  auto reservation = store().Reserve(KeyOf(100), capacity);
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  EXPECT_TRUE(Eventually([&] { return Stats().reserved_bytes == capacity; }));
  EXPECT_EQ(Stats().blocks, 0u);
}

TEST_P(BlockStoreConformance, ABlockThatAReaderHoldsIsNeitherEvictedNorChanged) {
  ASSERT_TRUE(Put(0).ok());
  auto held = store().Get(KeyOf(0));
  ASSERT_TRUE(held.ok() && held->block != nullptr);
  FillUntilEvicted(1, 200);  // three times the capacity
  EXPECT_TRUE(BytesOf(*held->block) == BlockOf(0));
  if (under_test().get_holds_space()) {
    EXPECT_TRUE(Has(0));
    EXPECT_GE(Stats().pinned_bytes, held->block->size_bytes());
  }
  held->block.reset();
  EXPECT_TRUE(Eventually([&] { return Stats().pinned_bytes == 0; }));
}

TEST_P(BlockStoreConformance, RefusesWhenAllThatIsLeftIsPinned) {
  if (!under_test().get_holds_space()) GTEST_SKIP() << "a reader holds no space in this store";
  std::vector<BlockRef> held;
  for (uint64_t i = 0; Put(i).ok(); ++i) {
    held.push_back(std::move(store().Get(KeyOf(i))->block));
    ASSERT_NE(held.back(), nullptr);
  }
  EXPECT_EQ(Put(1000).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Stats().evicted_blocks, 0u);
  held.erase(held.begin() + 5);
  EXPECT_TRUE(Put(1000).ok()) << "the one that is free is found among the held";
  EXPECT_FALSE(Has(5));
}

// --- Match and leases ---

TEST_P(BlockStoreConformance, MatchCountsLeadingHitsAndSaysWhyTheNextIsMissing) {
  PutAll(0, 3);
  PutAll(4, 2);  // 3 is missing
  uint64_t sum_bytes = 0;
  for (uint64_t i = 0; i < 3; ++i) sum_bytes += BlockOf(i).size();
  const MatchResult some = Match(Chain(0, 6));
  EXPECT_EQ(some.hits, 3u);
  EXPECT_EQ(some.miss, MissReason::kNeverStored);
  EXPECT_EQ(some.hit_bytes, sum_bytes);
  EXPECT_EQ(some.lease, LeaseId{});
  EXPECT_EQ(some.lease_ttl, absl::ZeroDuration());

  const MatchResult all = Match(Chain(0, 3));
  EXPECT_EQ(all.hits, 3u);
  EXPECT_EQ(all.miss, MissReason::kNone);
  const MatchResult none = Match(Chain(3, 3));
  EXPECT_EQ(none.hits, 0u);
  EXPECT_EQ(none.hit_bytes, 0u);
  const MatchResult empty = Match({});
  EXPECT_EQ(empty.hits, 0u);
  EXPECT_EQ(empty.miss, MissReason::kNone);
}

TEST_P(BlockStoreConformance, EvictsLeavesBeforeTheirParents) {
  constexpr size_t kChain = 20;
  for (const uint64_t evictions : {1, 2, 7, 19}) {
    Open(kCapacity);
    PutAll(0, kChain);  // from the root down
    ASSERT_EQ(Match(Chain(0, kChain)).hits, kChain);
    FillUntilEvicted(1000, evictions);
    const uint64_t evicted = Stats().evicted_blocks;
    EXPECT_EQ(Match(Chain(0, kChain)).hits, kChain - evicted) << "the deepest " << evicted << " went, no other";
  }
}

TEST_P(BlockStoreConformance, EvictsLeavesBeforeTheirParentsAfterALeaseUnderWhichTheChainWasRead) {
  constexpr size_t kChain = 20;
  PutAll(0, kChain);
  const MatchResult match = Match(Chain(0, kChain), absl::Seconds(5));
  ASSERT_EQ(match.hits, kChain);
  for (uint64_t i = 0; i < kChain; ++i) ASSERT_NE(store().Get(KeyOf(i))->block, nullptr);  // from the root down
  ASSERT_TRUE(Eventually([&] { return Stats().pinned_bytes >= match.hit_bytes; }));
  ASSERT_TRUE(store().Release(match.lease).ok());
  ASSERT_TRUE(Eventually([&] { return Stats().pinned_bytes == 0; }));
  FillUntilEvicted(1000, 7);
  EXPECT_EQ(Match(Chain(0, kChain)).hits, kChain - Stats().evicted_blocks);
}

TEST_P(BlockStoreConformance, ALeasePinsUntilItIsReleased) {
  PutAll(0, 4);
  const MatchResult match = Match(Chain(0, 4), absl::Seconds(5));
  ASSERT_EQ(match.hits, 4u);
  ASSERT_NE(match.lease, LeaseId{});
  EXPECT_EQ(match.lease_ttl, absl::Seconds(5));
  EXPECT_EQ(Stats().leases, 1u);
  EXPECT_GE(Stats().pinned_bytes, match.hit_bytes);
  const uint64_t next = FillUntilEvicted(100, 200);
  EXPECT_EQ(Match(Chain(0, 4)).hits, 4u);

  ASSERT_TRUE(store().Release(match.lease).ok());
  EXPECT_EQ(Stats().leases, 0u);
  EXPECT_EQ(Stats().pinned_bytes, 0u);
  FillUntilEvicted(next, 200);
  EXPECT_EQ(Match(Chain(0, 4)).hits, 0u);
}

TEST_P(BlockStoreConformance, ALeasePinsUntilItsDeadline) {
  PutAll(0, 4);
  ASSERT_NE(Match(Chain(0, 4), absl::Seconds(5)).lease, LeaseId{});
  under_test().Advance(absl::Seconds(5) - absl::Milliseconds(1));
  uint64_t next = FillUntilEvicted(100, 200);
  EXPECT_EQ(Match(Chain(0, 4)).hits, 4u);
  under_test().Advance(absl::Milliseconds(1));
  next = FillUntilEvicted(next, 200);
  EXPECT_EQ(Match(Chain(0, 4)).hits, 0u);
  EXPECT_EQ(Stats().leases, 0u);
  EXPECT_EQ(Stats().pinned_bytes, 0u);
  if (under_test().counts_all_events()) {
    EXPECT_EQ(Stats().expired_leases, 1u);
  }
}

TEST_P(BlockStoreConformance, ALeaseLastsNoLongerThanTheStoreAllows) {
  PutAll(0, 1);
  const MatchResult match = Match(Chain(0, 1), absl::Hours(24));
  ASSERT_NE(match.lease, LeaseId{});
  EXPECT_EQ(match.lease_ttl, StoreUnderTest::kMaxLease);
  under_test().Advance(StoreUnderTest::kMaxLease);
  EXPECT_EQ(Stats().leases, 0u);
}

TEST_P(BlockStoreConformance, ALeaseHoldsExactlyTheHits) {
  PutAll(0, 3);
  PutAll(4, 1);
  const MatchResult match = Match(Chain(0, 5), absl::Seconds(5));
  ASSERT_EQ(match.hits, 3u);
  ASSERT_NE(match.lease, LeaseId{});
  FillUntilEvicted(100, 200);
  EXPECT_FALSE(Has(4)) << "it was no hit: nothing held it";
  EXPECT_EQ(Match(Chain(0, 3)).hits, 3u);
}

TEST_P(BlockStoreConformance, NoHitNoLease) {
  const MatchResult match = Match(Chain(0, 3), absl::Seconds(5));
  EXPECT_EQ(match.lease, LeaseId{});
  EXPECT_EQ(match.lease_ttl, absl::ZeroDuration());
  EXPECT_EQ(Stats().leases, 0u);
}

TEST_P(BlockStoreConformance, ABlockUnderTwoLeasesIsHeldByTheLonger) {
  PutAll(0, 2);
  const MatchResult first = Match(Chain(0, 2), absl::Seconds(5));
  const MatchResult second = Match(Chain(0, 1), absl::Seconds(50));
  ASSERT_NE(first.lease, second.lease);
  ASSERT_TRUE(store().Release(first.lease).ok());
  FillUntilEvicted(100, 200);
  EXPECT_TRUE(Has(0));
  EXPECT_FALSE(Has(1));
}

TEST_P(BlockStoreConformance, AboveThePinLimitMatchStillReportsButGrantsNoLease) {
  const size_t half = StoreUnderTest::kMaxPinnedFraction * under_test().writable_bytes() / kBlock;
  PutAll(0, half + half / 2);
  const MatchResult all = Match(Chain(0, half + half / 2), absl::Seconds(5));
  EXPECT_EQ(all.hits, half + half / 2);
  EXPECT_EQ(all.lease, LeaseId{});
  EXPECT_EQ(Stats().pinned_bytes, 0u) << "a refused lease holds nothing";
  EXPECT_NE(Match(Chain(0, half / 2), absl::Seconds(5)).lease, LeaseId{});
  EXPECT_NE(Match(Chain(0, half / 2), absl::Seconds(5)).lease, LeaseId{}) << "the same blocks count once";
}

TEST_P(BlockStoreConformance, ReleaseOfAnUnknownOrEndedLeaseIsNoError) {
  EXPECT_TRUE(store().Release(LeaseId{}).ok());
  EXPECT_TRUE(store().Release(LeaseId{123456789}).ok());
  PutAll(0, 1);
  const MatchResult match = Match(Chain(0, 1), absl::Seconds(5));
  EXPECT_TRUE(store().Release(match.lease).ok());
  EXPECT_TRUE(store().Release(match.lease).ok());
}

// --- Erase ---

TEST_P(BlockStoreConformance, EraseForgetsOnce) {
  PutAll(0, 1);
  auto first = store().Erase(KeyOf(0));
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(*first);
  EXPECT_EQ(WhyMissing(0), MissReason::kErased);
  auto second = store().Erase(KeyOf(0));
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(*second);
  EXPECT_EQ(Stats().used_bytes, 0u);
  EXPECT_TRUE(Put(0).ok()) << "an erased key may be stored again";
}

TEST_P(BlockStoreConformance, ReadersOfAnErasedBlockKeepIt) {
  PutAll(0, 1);
  auto held = store().Get(KeyOf(0));
  ASSERT_TRUE(held.ok() && held->block != nullptr);
  ASSERT_TRUE(*store().Erase(KeyOf(0)));
  EXPECT_FALSE(Has(0));
  ASSERT_TRUE(Put(0, kBlock, 9).ok()) << "the key is free at once";
  FillUntilEvicted(100, 200);
  EXPECT_TRUE(BytesOf(*held->block) == BlockOf(0));
  held->block.reset();
  EXPECT_TRUE(Eventually([&] { return Stats().pinned_bytes == 0; }));
}

TEST_P(BlockStoreConformance, ABlockErasedUnderALeaseReturnsItsSpaceWhenTheLeaseEnds) {
  PutAll(0, 2);
  const MatchResult match = Match(Chain(0, 2), absl::Seconds(5));
  ASSERT_NE(match.lease, LeaseId{});
  ASSERT_TRUE(*store().Erase(KeyOf(1)));
  EXPECT_EQ(Match(Chain(0, 2)).hits, 1u);
  EXPECT_GE(Stats().used_bytes, match.hit_bytes);
  ASSERT_TRUE(store().Release(match.lease).ok());
  EXPECT_LT(Stats().used_bytes, match.hit_bytes);
  EXPECT_EQ(Stats().pinned_bytes, 0u);
}

// --- Account ---

TEST_P(BlockStoreConformance, StatsAddUp) {
  EXPECT_GE(Stats().capacity_bytes, kCapacity);
  PutAll(0, 10);
  uint64_t sum_bytes = 0;
  for (uint64_t i = 0; i < 10; ++i) sum_bytes += BlockOf(i).size();
  EXPECT_EQ(Stats().blocks, 10u);
  EXPECT_GE(Stats().used_bytes, sum_bytes);
  EXPECT_LT(Stats().used_bytes, sum_bytes + 10 * 4096);

  ASSERT_TRUE(*store().Erase(KeyOf(3)));
  EXPECT_EQ(Stats().blocks, 9u);
  FillUntilEvicted(100, 5);
  EXPECT_EQ(Stats().evicted_blocks, 5u);
  EXPECT_GE(Stats().evicted_bytes, 5 * (kBlock - kBlock / 4));
  EXPECT_FALSE(store().Reserve(KeyOf(5000), 0).ok());
  auto all = store().Reserve(KeyOf(5001), under_test().writable_bytes());
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_FALSE(store().Reserve(KeyOf(5002), kBlock).ok());
  all->reset();
  EXPECT_TRUE(Eventually([&] { return Stats().reserved_bytes == 0; }));
  EXPECT_EQ(Stats().blocks, 0u);
  EXPECT_EQ(Stats().used_bytes, 0u);
  if (under_test().counts_all_events()) {
    EXPECT_EQ(Stats().erased_blocks, 1u);
    EXPECT_EQ(Stats().refused_reservations, 1u);
  }
}

// --- Threads ---

// Each thread puts, reads, matches under a lease and erases the same few keys. Whatever is found must be a block that
// was put under that key, whole; in the end everything comes back.
TEST_P(BlockStoreConformance, ManyThreadsOnTheSameKeysSeeOnlyWholeBlocks) {
  constexpr uint64_t kKeys = 40;
  constexpr int kThreads = 4;
  constexpr int kRounds = 250;
  Open(uint64_t{1} << 20);  // holds fewer than kKeys: eviction takes part
  std::vector<std::string> expected;
  for (uint64_t i = 0; i < kKeys; ++i) expected.push_back(BlockOf(i, kBlock));
  std::atomic<uint64_t> wrong{0}, faults{0}, hits{0};
  const auto must = [&](const char* act, const absl::Status& status) {
    if (!status.ok() && faults++ < 5) ADD_FAILURE() << act << ": " << status;
  };
  const auto work = [&](int thread) {
    std::mt19937_64 random(thread);
    for (int round = 0; round < kRounds; ++round) {
      const uint64_t number = random() % kKeys;
      switch (random() % 8) {
        case 0: {
          must("Erase", store().Erase(KeyOf(number)).status());
          break;
        }
        case 1: {
          auto match = store().Match(Chain(number, 4), absl::Seconds(5));
          must("Match", match.status());
          if (match.ok()) must("Release", store().Release(match->lease));
          break;
        }
        case 2:
        case 3:
        case 4: {
          const std::string& block = expected[number];
          auto reservation = store().Reserve(KeyOf(number), block.size());
          if (!reservation.ok()) {
            const absl::Status status = reservation.status();
            if (!absl::IsAlreadyExists(status) && !absl::IsResourceExhausted(status)) must("Reserve", status);
            break;
          }
          must("Write", (*reservation)->Write(0, AsBytes(block)));
          if (random() % 8 != 0) must("Commit", (*reservation)->Commit(block.size()));
          break;
        }
        default: {
          auto lookup = store().Get(KeyOf(number));
          must("Get", lookup.status());
          if (!lookup.ok() || lookup->block == nullptr) break;
          wrong += BytesOf(*lookup->block) != expected[number];
          ++hits;
        }
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(faults, 0u);
  EXPECT_GT(hits, 0u);

  EXPECT_TRUE(Eventually([&] { return Stats().pinned_bytes == 0 && Stats().reserved_bytes == 0; }));
  EXPECT_EQ(Stats().leases, 0u);
  for (uint64_t i = 0; i < kKeys; ++i) EXPECT_TRUE(store().Erase(KeyOf(i)).ok());
  EXPECT_EQ(Stats().blocks, 0u);
  EXPECT_EQ(Stats().used_bytes, 0u);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlockStoreConformance);

}  // namespace kvist
