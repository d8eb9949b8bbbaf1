// Goal: one answer for blocks that lie in two tiers: reads, chains and leases over both, a listing, writes and traits, and
// what was erased or has expired in the middle of a move.
// Method: an emulated device whose streams are held, so that a move stands still where the test wants it.
#include <gtest/gtest.h>

#include <map>

#include "tests/cachestore/tiered_store_fixture.h"

namespace kvist {
namespace {

// --- Reads across the tiers ---

TEST_F(TieredStoreTest, AHostReadOfABlockOnTheDeviceAloneIsServedAndCountedThere) {
  Open();
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(1));
  ASSERT_TRUE(Put(2).ok());
  const Lookup lookup = Get(1);
  ASSERT_NE(lookup.block, nullptr);
  EXPECT_EQ(lookup.tier, Tier::kDevice);
  EXPECT_TRUE(BytesOf(*lookup.block) == BlockOf(1));
  const TierFigures before = store_->tiers();
  Get(1);
  Get(2);
  EXPECT_EQ(store_->tiers().device_hits, before.device_hits + 1);
  EXPECT_EQ(store_->tiers().host_hits, before.host_hits + 1);
}

TEST_F(TieredStoreTest, AHostReadWithoutStagingRoomMayBeTriedAgain) {
  device_options_.staging_bytes = kBlock;
  Open();
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(1));
  Lookup held = Get(1);
  EXPECT_EQ(store_->Get(KeyOf(1)).status().code(), absl::StatusCode::kResourceExhausted);
  held.block.reset();
  EXPECT_NE(Get(1).block, nullptr);
  EXPECT_EQ(store_->device_state(), DeviceState::kReady);
}

TEST_F(TieredStoreTest, MatchCountsAChainWhoseBlocksLieApart) {
  Open();
  for (const uint64_t number : {1, 3}) ASSERT_NO_FATAL_FAILURE(PutOnDevice(number));
  PutAll(0, 1);
  PutAll(2, 1);
  PutAll(4, 1);
  const MatchResult match = *store_->Match(Chain(0, 8), {});
  EXPECT_EQ(match.hits, 5u);
  EXPECT_EQ(match.hit_bytes, 5 * kBlock);
  EXPECT_EQ(match.miss, MissReason::kNeverStored);
}

TEST_F(TieredStoreTest, AMatchTellsWhyABlockHasGoneFromADeviceThatIsEmptyNow) {
  Open();
  auto reservation = *store_->ReserveOnDevice(KeyOf(1), kBlock);
  EXPECT_EQ(store_->Match(Chain(1, 1), {})->miss, MissReason::kBeingWritten);
  ASSERT_TRUE(reservation->Commit(kBlock).ok());
  ASSERT_TRUE(*store_->Erase(KeyOf(1)));
  EXPECT_EQ(store_->Match(Chain(1, 1), {})->miss, MissReason::kErased);
  EXPECT_EQ(store_->GetOnDevice(KeyOf(1))->miss, MissReason::kErased);
}

TEST_F(TieredStoreTest, ALeasePinsInBothTiersUntilItIsReleased) {
  Open();
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(1));
  PutAll(0, 1);
  const MatchResult match = *store_->Match(Chain(0, 2), absl::Seconds(5));
  ASSERT_EQ(match.hits, 2u);
  ASSERT_NE(match.lease, LeaseId{});
  EXPECT_EQ(match.lease_ttl, absl::Seconds(5));
  EXPECT_EQ(store_->tiers().host.pinned_bytes, kBlock);
  EXPECT_EQ(store_->tiers().device.pinned_bytes, kBlock);
  PutAll(100, 2 * kHostBlocks);
  PromoteAll(100 + kHostBlocks, kDeviceBlocks + 4);
  EXPECT_TRUE(OnHost(0));
  EXPECT_TRUE(OnDevice(1));
  ASSERT_TRUE(store_->Release(match.lease).ok());
  EXPECT_EQ(store_->Stats()->pinned_bytes, 0u);
  EXPECT_EQ(store_->Stats()->leases, 0u);
}

TEST_F(TieredStoreTest, ALeaseOverBothTiersEndsAtItsDeadline) {
  Open();
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(1));
  PutAll(0, 1);
  ASSERT_NE(store_->Match(Chain(0, 2), absl::Seconds(5))->lease, LeaseId{});
  ASSERT_NE(store_->Match(Chain(1, 1), absl::Seconds(5))->lease, LeaseId{}) << "of the device alone";
  Advance(absl::Seconds(5));
  EXPECT_EQ(store_->Stats()->pinned_bytes, 0u);
  EXPECT_EQ(store_->Stats()->leases, 0u);
}

TEST_F(TieredStoreTest, TheDeviceEvictsLeavesBeforeTheirParentsAfterAMatch) {
  Open();
  PutAll(0, 8);
  PromoteAll(0, 8);  // from the root down: the wrong way round
  ASSERT_EQ(store_->Match(Chain(0, 8), {})->hits, 8u);
  PutAll(100, kDeviceBlocks - 8 + 3);
  PromoteAll(100, kDeviceBlocks - 8 + 3);
  for (uint64_t i = 0; i < 5; ++i) EXPECT_TRUE(OnDevice(i)) << i;
  for (uint64_t i = 5; i < 8; ++i) EXPECT_FALSE(OnDevice(i)) << i;
}

TEST_F(TieredStoreTest, ScanListsABlockOnceWhereverItIs) {
  Open();
  PutAll(0, 4);
  PromoteAll(0, 2);                          // 0 and 1 in both
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(10));  // on the device alone
  for (const size_t limit : {size_t{1}, size_t{2}, size_t{100}}) {
    std::map<Key, int> times;
    uint64_t cursor = 0;
    do {
      const auto scanned = store_->Scan(cursor, limit);
      ASSERT_TRUE(scanned.ok()) << scanned.status();
      for (const ScannedBlock& block : scanned->blocks) ++times[block.key];
      cursor = scanned->next;
    } while (cursor != 0);
    EXPECT_EQ(times.size(), 5u);
    for (const auto& [key, count] : times) EXPECT_EQ(count, 1);
  }
}

// --- Writes, traits, erase ---

TEST_F(TieredStoreTest, AKeyIsWrittenOnceWhicheverTierHasIt) {
  Open();
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(1));
  EXPECT_EQ(Put(1).code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(Put(2).ok());
  EXPECT_EQ(store_->ReserveOnDevice(KeyOf(2), kBlock).status().code(), absl::StatusCode::kAlreadyExists);
  auto open = *store_->ReserveOnDevice(KeyOf(3), kBlock);
  EXPECT_EQ(Put(3).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Get(3).miss, MissReason::kBeingWritten);
  open.reset();
  EXPECT_TRUE(Put(3).ok());
}

TEST_F(TieredStoreTest, TraitsHoldInBothTiersAndAreProlongedInBoth) {
  Open();
  BlockTraits traits{.group = KeyOf(77), .expires = Now() + absl::Seconds(10), .spare = true};
  ASSERT_TRUE(Put(1, traits).ok());
  Promote(1);
  traits.expires += absl::Seconds(10);
  EXPECT_EQ(Put(1, traits).code(), absl::StatusCode::kAlreadyExists);
  Advance(absl::Seconds(15));
  ASSERT_TRUE(OnHost(1));
  ASSERT_TRUE(OnDevice(1));
  ASSERT_TRUE(*store_->host().Erase(KeyOf(1)));
  EXPECT_EQ(Get(1).traits, traits);
  Advance(absl::Seconds(5));
  EXPECT_EQ(Get(1).miss, MissReason::kExpired);
  EXPECT_EQ(store_->tiers().device.used_bytes, 0u);
}

TEST_F(TieredStoreTest, EraseForgetsInBothTiers) {
  Open();
  ASSERT_TRUE(Put(1).ok());
  Promote(1);
  EXPECT_TRUE(*store_->Erase(KeyOf(1)));
  EXPECT_FALSE(*store_->Erase(KeyOf(1)));
  EXPECT_EQ(Get(1).miss, MissReason::kErased);
  EXPECT_EQ(store_->Stats()->used_bytes, 0u);
  EXPECT_TRUE(Put(1).ok());
}

TEST_F(TieredStoreTest, AnEraseDuringAPromotionIsFinal) {
  Open();
  ASSERT_TRUE(Put(1).ok());
  ASSERT_NO_FATAL_FAILURE(BeginPromotionAndHold(1));
  EXPECT_TRUE(*store_->Erase(KeyOf(1)));
  device_->Resume();
  ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  EXPECT_FALSE(OnDevice(1));
  EXPECT_EQ(Get(1).miss, MissReason::kErased);
  EXPECT_EQ(store_->Stats()->used_bytes + store_->Stats()->reserved_bytes, 0u);
  EXPECT_EQ(store_->tiers().moves.dropped_moves, 1u);
}

TEST_F(TieredStoreTest, ABlockThatExpiresDuringAPromotionDoesNotComeBack) {
  Open();
  ASSERT_TRUE(Put(1, {.group = {}, .expires = Now() + absl::Seconds(10)}).ok());
  ASSERT_NO_FATAL_FAILURE(BeginPromotionAndHold(1));
  Advance(absl::Seconds(10));
  device_->Resume();
  ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  EXPECT_FALSE(OnDevice(1));
  EXPECT_EQ(Get(1).miss, MissReason::kExpired);
}

TEST_F(TieredStoreTest, ABlockProlongedDuringAPromotionIsProlongedInBothTiers) {
  Open();
  ASSERT_TRUE(Put(1, {.group = {}, .expires = Now() + absl::Seconds(10)}).ok());
  ASSERT_NO_FATAL_FAILURE(BeginPromotionAndHold(1));
  EXPECT_EQ(Put(1).code(), absl::StatusCode::kAlreadyExists);
  device_->Resume();
  ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  Advance(absl::Hours(1));
  EXPECT_TRUE(OnHost(1));
  EXPECT_TRUE(OnDevice(1));
}

TEST_F(TieredStoreTest, ABlockErasedOrExpiredDuringADemotionDoesNotComeBack) {
  for (const bool erase : {true, false}) {
    Open();
    ASSERT_TRUE(Put(1, {.group = {}, .expires = Now() + absl::Seconds(10)}).ok());
    Promote(1);
    ASSERT_TRUE(*store_->host().Erase(KeyOf(1)));
    PutAll(100, kDeviceBlocks);
    PromoteAll(100, kDeviceBlocks - 1);
    device_->Hold();
    Read(100 + kDeviceBlocks - 1);
    Read(100 + kDeviceBlocks - 1);  // takes the place of block 1, which must come down first
    ASSERT_TRUE(Eventually([&] { return store_->tiers().host.reserved_bytes == kBlock; }));
    if (erase) {
      EXPECT_TRUE(*store_->Erase(KeyOf(1)));
    } else {
      Advance(absl::Seconds(10));
    }
    device_->Resume();
    ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
    EXPECT_EQ(Get(1).miss, erase ? MissReason::kErased : MissReason::kExpired);
    EXPECT_FALSE(OnHost(1));
    EXPECT_FALSE(OnDevice(1));
    EXPECT_EQ(store_->tiers().host.reserved_bytes, 0u);
  }
}

TEST_F(TieredStoreTest, ABlockPinnedOnTheDeviceStaysWhileOthersAreMoved) {
  Open();
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(1));
  const auto held = store_->GetOnDevice(KeyOf(1));
  PutAll(100, kHostBlocks - 2);
  PromoteAll(100, kHostBlocks - 2);
  EXPECT_TRUE(OnDevice(1));
  EXPECT_TRUE(BytesOf(*held->pin) == BlockOf(1));
}

}  // namespace
}  // namespace kvist
