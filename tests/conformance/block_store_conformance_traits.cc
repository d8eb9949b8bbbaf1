// The cases of the suite about what a store keeps beside the bytes: groups, expiry, why and when a block went, listing.
#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/conformance/block_store_conformance.h"

namespace kvist {

// --- Expiry ---

TEST_P(BlockStoreConformance, ABlockWhoseTimeIsOverIsAMissAndItsRoomIsFree) {
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(10);
  ASSERT_TRUE(PutWith(1, traits).ok());
  ASSERT_TRUE(Put(2).ok());
  under_test().Advance(absl::Seconds(9));
  EXPECT_TRUE(Has(1));
  under_test().Advance(absl::Seconds(1));
  EXPECT_EQ(WhyMissing(1), MissReason::kExpired);
  EXPECT_EQ(Match(Chain(1, 2)).hits, 0u);
  EXPECT_EQ(Match(Chain(1, 2)).miss, MissReason::kExpired);
  EXPECT_TRUE(Has(2));
  EXPECT_EQ(Stats().blocks, 1u);
  EXPECT_TRUE(Eventually([&] { return Stats().used_bytes < 2 * kBlock * 5 / 4; }));
}

TEST_P(BlockStoreConformance, AnExpiredKeyCanBeStoredAgain) {
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(1);
  ASSERT_TRUE(PutWith(1, traits).ok());
  under_test().Advance(absl::Seconds(2));
  ASSERT_TRUE(Put(1, kBlock, 9).ok());
  under_test().Advance(absl::Hours(1));
  auto lookup = store().Get(KeyOf(1));
  ASSERT_TRUE(lookup.ok() && lookup->block != nullptr);
  EXPECT_TRUE(BytesOf(*lookup->block) == BlockOf(1, kBlock, 9));
}

TEST_P(BlockStoreConformance, ALeasedBlockThatExpiresKeepsItsBytesUntilTheLeaseEnds) {
  if (!under_test().is_local()) GTEST_SKIP() << "what a lease holds is the node's, and was tested there";
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(5);
  ASSERT_TRUE(PutWith(1, traits).ok());
  const MatchResult match = Match(Chain(1, 1), absl::Seconds(30));
  ASSERT_EQ(match.hits, 1u);
  under_test().Advance(absl::Seconds(6));
  EXPECT_EQ(WhyMissing(1), MissReason::kExpired);
  EXPECT_GT(Stats().pinned_bytes, 0u);
  EXPECT_GT(Stats().used_bytes, 0u);
  ASSERT_TRUE(store().Release(match.lease).ok());
  EXPECT_EQ(Stats().pinned_bytes, 0u);
  EXPECT_EQ(Stats().used_bytes, 0u);
  EXPECT_EQ(Stats().expired_blocks, 1u);
}

TEST_P(BlockStoreConformance, AReaderOfABlockThatExpiresKeepsIt) {
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(5);
  ASSERT_TRUE(PutWith(1, traits).ok());
  auto held = store().Get(KeyOf(1));
  ASSERT_TRUE(held.ok() && held->block != nullptr);
  under_test().Advance(absl::Seconds(5));
  EXPECT_EQ(WhyMissing(1), MissReason::kExpired);
  ASSERT_TRUE(Put(1, kBlock, 9).ok()) << "the key is free at once";
  FillUntilEvicted(100, 200);
  EXPECT_TRUE(BytesOf(*held->block) == BlockOf(1));
  if (under_test().get_holds_space()) {
    EXPECT_GT(Stats().pinned_bytes, 0u);
  }
  held->block.reset();
  EXPECT_TRUE(Eventually([&] { return Stats().pinned_bytes == 0; }));
}

TEST_P(BlockStoreConformance, ABlockWhoseTimeEndsWhileItIsWrittenExpires) {
  const std::string block = BlockOf(1);
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(1);
  auto reservation = store().Reserve(KeyOf(1), block.size(), traits);
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ASSERT_TRUE((*reservation)->Write(0, AsBytes(block)).ok());
  under_test().Advance(absl::Seconds(2));
  EXPECT_EQ(WhyMissing(1), MissReason::kBeingWritten);
  const absl::Status committed = (*reservation)->Commit(block.size());
  ASSERT_TRUE(committed.ok()) << committed;
  EXPECT_EQ(WhyMissing(1), MissReason::kExpired);
  EXPECT_EQ(Stats().used_bytes, 0u);
}

TEST_P(BlockStoreConformance, RefusesABlockWhoseTimeIsOver) {
  BlockTraits traits;
  traits.expires = under_test().Now();
  EXPECT_EQ(PutWith(1, traits).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WhyMissing(1), MissReason::kNeverStored);
}

TEST_P(BlockStoreConformance, AnExpiredBlockIsNoneToErase) {
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(5);
  ASSERT_TRUE(PutWith(1, traits).ok());
  under_test().Advance(absl::Seconds(5));
  auto erased = store().Erase(KeyOf(1));
  ASSERT_TRUE(erased.ok());
  EXPECT_FALSE(*erased);
  EXPECT_EQ(WhyMissing(1), MissReason::kExpired);
}

TEST_P(BlockStoreConformance, ExpiredBlocksMakeRoomBeforeAnyOther) {
  const size_t fits = under_test().writable_bytes() / (kBlock * 5 / 4);
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(5);
  PutAll(0, fits / 2);
  for (uint64_t i = fits / 2; i < fits; ++i) ASSERT_TRUE(PutWith(i, traits).ok());
  under_test().Advance(absl::Seconds(5));
  PutAll(1000, fits / 2);
  EXPECT_EQ(Stats().evicted_blocks, 0u);
  EXPECT_EQ(Match(Chain(0, fits / 2)).hits, fits / 2);
}

TEST_P(BlockStoreConformance, AReserveWithALaterTimeProlongsABlockThatIsThereAndNoneShortensIt) {
  const absl::Time start = under_test().Now();
  const auto until = [&](int seconds) {
    BlockTraits traits;
    traits.expires = start + absl::Seconds(seconds);
    return traits;
  };
  for (uint64_t i = 1; i <= 3; ++i) ASSERT_TRUE(PutWith(i, until(10)).ok());
  ASSERT_TRUE(Put(4).ok());
  EXPECT_EQ(PutWith(1, until(30)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(PutWith(1, until(20)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Put(2).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(PutWith(4, until(10)).code(), absl::StatusCode::kAlreadyExists);
  under_test().Advance(absl::Seconds(29));
  EXPECT_TRUE(Has(1));
  EXPECT_EQ(WhyMissing(3), MissReason::kExpired) << "nobody prolonged it";
  under_test().Advance(absl::Seconds(1));
  EXPECT_EQ(WhyMissing(1), MissReason::kExpired);
  under_test().Advance(absl::Hours(1));
  EXPECT_TRUE(Has(2));
  EXPECT_TRUE(Has(4));
  EXPECT_EQ(Stats().blocks, 2u);
}

TEST_P(BlockStoreConformance, AReserveProlongsABlockThatIsBeingWritten) {
  const std::string block = BlockOf(1);
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(10);
  auto reservation = store().Reserve(KeyOf(1), block.size(), traits);
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  EXPECT_EQ(store().Reserve(KeyOf(1), block.size()).status().code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE((*reservation)->Write(0, AsBytes(block)).ok());
  ASSERT_TRUE((*reservation)->Commit(block.size()).ok());
  under_test().Advance(absl::Hours(1));
  EXPECT_TRUE(Has(1));
}

TEST_P(BlockStoreConformance, AProlongedBlockIsSpareIfWhoProlongedItSaidSo) {
  if (!under_test().is_local()) GTEST_SKIP() << "traits go to the node and stay there";
  BlockTraits traits;
  traits.group = KeyOf(77);
  traits.spare = true;
  traits.expires = under_test().Now() + absl::Seconds(10);
  ASSERT_TRUE(PutWith(1, traits).ok());
  EXPECT_EQ(store().Get(KeyOf(1))->traits, traits);
  auto held = store().Get(KeyOf(1));
  traits.expires += absl::Seconds(10);
  EXPECT_EQ(PutWith(1, traits).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(store().Get(KeyOf(1))->traits, traits);
  EXPECT_EQ(ScanAll(10).at(0).traits, traits);
  EXPECT_EQ(PutWith(1, {}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(store().Get(KeyOf(1))->traits, (BlockTraits{.group = KeyOf(77)}));
  EXPECT_TRUE(BytesOf(*held->block) == BlockOf(1));
}

// --- What a lookup tells ---

TEST_P(BlockStoreConformance, TraitsComeBackWithTheBlock) {
  if (!under_test().is_local()) GTEST_SKIP() << "traits go to the node and stay there";
  BlockTraits traits;
  traits.group = KeyOf(77);
  traits.expires = under_test().Now() + absl::Hours(1);
  ASSERT_TRUE(PutWith(1, traits).ok());
  ASSERT_TRUE(Put(2).ok());
  EXPECT_EQ(store().Get(KeyOf(1))->traits, traits);
  EXPECT_EQ(store().Get(KeyOf(2))->traits, BlockTraits());
}

TEST_P(BlockStoreConformance, AMissTellsWhenTheBlockWentAndForWhom) {
  if (!under_test().is_local()) GTEST_SKIP() << "the wire tells it by Explain";
  PutAll(0, 3);
  under_test().Advance(absl::Seconds(5));
  ASSERT_TRUE(*store().Erase(KeyOf(1)));
  ASSERT_TRUE(*store().Erase(KeyOf(2), MissReason::kDamaged));
  const absl::Time erased = under_test().Now();
  under_test().Advance(absl::Seconds(5));
  EXPECT_EQ(store().Get(KeyOf(1))->gone, erased);
  EXPECT_EQ(store().Get(KeyOf(1))->miss, MissReason::kErased);
  EXPECT_EQ(store().Get(KeyOf(2))->miss, MissReason::kDamaged);
  const uint64_t next = FillUntilEvicted(100, 1);
  EXPECT_EQ(store().Get(KeyOf(0))->miss, MissReason::kEvicted);
  EXPECT_EQ(store().Get(KeyOf(0))->gone, under_test().Now());
  EXPECT_EQ(store().Get(KeyOf(0))->made_room_for, KeyOf(next - 1));
  EXPECT_EQ(store().Get(KeyOf(1))->made_room_for, Key()) << "it made room for nobody";

  ASSERT_TRUE(Put(1).ok());
  const Lookup hit = *store().Get(KeyOf(1));
  EXPECT_NE(hit.block, nullptr);
  EXPECT_EQ(hit.gone, absl::InfinitePast()) << "it is there again";
  const Lookup unknown = *store().Get(KeyOf(5000));
  EXPECT_EQ(unknown.gone, absl::InfinitePast());
  EXPECT_EQ(unknown.made_room_for, Key());
}

TEST_P(BlockStoreConformance, AnExpiredBlockWentWhenItsTimeWasOver) {
  if (!under_test().is_local()) GTEST_SKIP() << "the wire tells it by Explain";
  BlockTraits traits;
  traits.expires = under_test().Now() + absl::Seconds(5);
  ASSERT_TRUE(PutWith(1, traits).ok());
  under_test().Advance(absl::Seconds(30));
  for (int looks = 0; looks < 2; ++looks) {
    EXPECT_EQ(store().Get(KeyOf(1))->miss, MissReason::kExpired);
    EXPECT_EQ(store().Get(KeyOf(1))->gone, traits.expires);
    EXPECT_EQ(store().Get(KeyOf(1))->made_room_for, Key());
  }
}

TEST_P(BlockStoreConformance, RefusesAReasonToEraseThatIsNone) {
  PutAll(0, 1);
  EXPECT_EQ(store().Erase(KeyOf(0), MissReason::kEvicted).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Has(0));
}

TEST_P(BlockStoreConformance, AGetThatDoesNotTouchLeavesTheOrderOfEvictionAlone) {
  if (!under_test().is_local()) GTEST_SKIP() << "the wire has no such Get";
  PutAll(0, 3);
  ASSERT_NE(store().Get(KeyOf(0), /*touch=*/false)->block, nullptr);
  ASSERT_NE(store().Get(KeyOf(1), /*touch=*/true)->block, nullptr);
  FillUntilEvicted(100, 2);
  EXPECT_EQ(WhyMissing(0), MissReason::kEvicted);
  EXPECT_EQ(WhyMissing(2), MissReason::kEvicted);
  EXPECT_TRUE(Has(1));
}

// --- Scan ---

TEST_P(BlockStoreConformance, ScanListsEachBlockOnceWithItsFigures) {
  if (!under_test().is_local()) GTEST_SKIP() << "a node does not list its blocks to others";
  BlockTraits traits;
  traits.group = KeyOf(500);
  for (uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(PutWith(i, traits).ok());
  const absl::Time stored = under_test().Now();
  under_test().Advance(absl::Seconds(3));
  EXPECT_EQ(Stats().blocks, 10u) << "and the store has looked at its clock";
  for (int reads = 0; reads < 4; ++reads) ASSERT_NE(store().Get(KeyOf(7))->block, nullptr);
  for (const size_t limit : {size_t{1}, size_t{3}, size_t{10}, size_t{1000}}) {
    std::set<Key> seen;
    for (const ScannedBlock& block : ScanAll(limit)) {
      EXPECT_TRUE(seen.insert(block.key).second) << "listed twice";
      const bool read = block.key == KeyOf(7);
      EXPECT_EQ(block.traits, traits);
      EXPECT_EQ(block.gets, read ? 4u : 0u);
      EXPECT_EQ(block.last_used, read ? stored + absl::Seconds(3) : stored);
      EXPECT_EQ(block.size_bytes, BlockOf(0).size());
    }
    EXPECT_EQ(seen.size(), 10u) << "limit " << limit;
  }
}

TEST_P(BlockStoreConformance, ScanCountsMatchesAsUseButNotAsGetsAndAnUntouchedGetAsNeither) {
  if (!under_test().is_local()) GTEST_SKIP() << "a node does not list its blocks to others";
  PutAll(0, 1);
  const absl::Time stored = under_test().Now();
  under_test().Advance(absl::Seconds(3));
  EXPECT_EQ(Stats().blocks, 1u) << "and the store has looked at its clock";
  ASSERT_NE(store().Get(KeyOf(0), /*touch=*/false)->block, nullptr);
  EXPECT_EQ(ScanAll(10).at(0).last_used, stored);
  EXPECT_EQ(ScanAll(10).at(0).gets, 0u);
  ASSERT_TRUE(Has(0));
  EXPECT_EQ(ScanAll(10).at(0).last_used, stored + absl::Seconds(3));
  EXPECT_EQ(ScanAll(10).at(0).gets, 0u);
  under_test().Advance(absl::Seconds(3));
  const MatchResult leased = Match(Chain(0, 1), absl::Seconds(30));
  EXPECT_EQ(ScanAll(10).at(0).last_used, stored + absl::Seconds(6));
  ASSERT_NE(store().Get(KeyOf(0))->block, nullptr) << "under a lease it counts as well";
  EXPECT_EQ(ScanAll(10).at(0).gets, 1u);
  ASSERT_TRUE(store().Release(leased.lease).ok());
  ASSERT_TRUE(*store().Erase(KeyOf(0)));
  PutAll(0, 1);
  EXPECT_EQ(ScanAll(10).at(0).gets, 0u) << "a new block";
}

TEST_P(BlockStoreConformance, ScanRefusesALimitOfNothingAndACursorOfNobody) {
  if (!under_test().is_local()) GTEST_SKIP() << "a node does not list its blocks to others";
  PutAll(0, 3);
  EXPECT_EQ(store().Scan(0, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store().Scan(~uint64_t{0}, 10).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(BlockStoreConformance, ScanTouchesNothing) {
  if (!under_test().is_local()) GTEST_SKIP() << "a node does not list its blocks to others";
  PutAll(0, 3);
  for (int passes = 0; passes < 3; ++passes) EXPECT_EQ(ScanAll(1).size(), 3u);
  FillUntilEvicted(100, 2);
  EXPECT_EQ(WhyMissing(0), MissReason::kEvicted);
  EXPECT_EQ(WhyMissing(1), MissReason::kEvicted);
  EXPECT_TRUE(Has(2));
  EXPECT_EQ(Stats().pinned_bytes, 0u);
}

TEST_P(BlockStoreConformance, ScanListsNothingThatIsGoneExpiredOrBeingWritten) {
  if (!under_test().is_local()) GTEST_SKIP() << "a node does not list its blocks to others";
  EXPECT_TRUE(ScanAll(10).empty());
  BlockTraits soon;
  soon.expires = under_test().Now() + absl::Seconds(1);
  ASSERT_TRUE(PutWith(1, soon).ok());
  PutAll(2, 2);
  ASSERT_TRUE(*store().Erase(KeyOf(2)));
  auto reservation = store().Reserve(KeyOf(4), kBlock);
  ASSERT_TRUE(reservation.ok());
  under_test().Advance(absl::Seconds(2));
  const std::vector<ScannedBlock> listed = ScanAll(10);
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].key, KeyOf(3));
}

// Blocks come and go all the while; those that stay must be listed exactly once by every pass.
TEST_P(BlockStoreConformance, ScanListsWhatStaysExactlyOnceWhileOthersComeAndGo) {
  if (!under_test().is_local()) GTEST_SKIP() << "a node does not list its blocks to others";
  constexpr uint64_t kStay = 20, kChurn = 1000;
  PutAll(0, kStay);
  ASSERT_NE(Match(Chain(0, kStay), StoreUnderTest::kMaxLease).lease, LeaseId{}) << "else they could be evicted";
  std::atomic<bool> stop = false, broken = false;
  std::atomic<uint64_t> churned = 0;
  std::thread churn([&] {
    for (uint64_t i = kChurn; !stop; ++i) {
      // Six of seven stay for a while, until they are evicted.
      broken = !Put(i, kBlock / 4).ok() || !store().Erase(KeyOf(i - i % 7)).ok();
      if (broken) break;
      ++churned;
    }
  });
  const std::vector<Key> staying = Chain(0, kStay);
  int passes = 0;
  while (!broken && (passes < 100 || churned < 1000)) {
    std::map<Key, int> times;
    for (const ScannedBlock& block : ScanAll(3)) ++times[block.key];
    ++passes;
    if (std::all_of(staying.begin(), staying.end(), [&](const Key& key) { return times[key] == 1; })) continue;
    ADD_FAILURE() << "pass " << passes << " did not list every block once";
    break;
  }
  stop = true;
  churn.join();
  EXPECT_FALSE(broken) << "a Put or an Erase failed";
}

}  // namespace kvist
