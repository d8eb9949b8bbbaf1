// Goal: a block goes up on the second hit of a reader of device memory and comes down under pressure, each within its
// bounds, and what is beyond them is counted.
// Method: an emulated device whose streams are held, so that a move stands still where the test wants it.
#include <gtest/gtest.h>

#include "tests/cachestore/tiered_store_fixture.h"

namespace kvist {
namespace {

// --- Promotion ---

TEST_F(TieredStoreTest, TheSecondReadOfDeviceMemoryWithinTheWindowPromotes) {
  Open();
  ASSERT_TRUE(Put(1).ok());
  EXPECT_EQ(store_->GetOnDevice(KeyOf(1))->tier, Tier::kHost);
  EXPECT_TRUE(store_->moves_are_done());
  EXPECT_FALSE(OnDevice(1)) << "once is no habit";
  Read(1);
  ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  const auto lookup = store_->GetOnDevice(KeyOf(1));
  ASSERT_NE(lookup->pin, nullptr);
  EXPECT_EQ(lookup->tier, Tier::kDevice);
  EXPECT_TRUE(BytesOf(*lookup->pin) == BlockOf(1));
  EXPECT_EQ(store_->tiers().moves.promoted_blocks, 1u);
  EXPECT_EQ(store_->tiers().moves.promoted_bytes, kBlock);
}

TEST_F(TieredStoreTest, ASecondReadAfterTheWindowIsAFirstOne) {
  Open();
  ASSERT_TRUE(Put(1).ok());
  Read(1);
  Advance(rules_.hit_window + absl::Seconds(1));
  ASSERT_NO_FATAL_FAILURE(Read(1));
  EXPECT_TRUE(store_->moves_are_done());
  EXPECT_FALSE(OnDevice(1));
  Read(1);
  EXPECT_TRUE(Eventually([&] { return OnDevice(1); }));
}

TEST_F(TieredStoreTest, ReadsByTheHostPromoteNothing) {
  Open();
  ASSERT_TRUE(Put(1).ok());
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Get(1).tier, Tier::kHost);
  EXPECT_TRUE(store_->moves_are_done());
  EXPECT_FALSE(OnDevice(1));
}

TEST_F(TieredStoreTest, ABlockInTwoTiersIsChargedInBoth) {
  Open();
  ASSERT_TRUE(Put(1).ok());
  Promote(1);
  EXPECT_EQ(store_->Stats()->used_bytes, 2 * kBlock);
  EXPECT_EQ(store_->Stats()->capacity_bytes, (kHostBlocks + kDeviceBlocks) * kBlock);
  EXPECT_EQ(store_->tiers().host.used_bytes, kBlock);
  EXPECT_EQ(store_->tiers().device.used_bytes, kBlock);
}

TEST_F(TieredStoreTest, ABlockLargerThanItsShareOfTheDeviceIsNotPromoted) {
  Open();
  ASSERT_TRUE(Put(1, {}, 3 * kBlock).ok());  // a share is an eighth of 16 blocks
  Promote(1);
  EXPECT_FALSE(OnDevice(1));
  EXPECT_EQ(store_->tiers().moves.refused_promotions, 1u);
}

TEST_F(TieredStoreTest, PromotionsBeyondTheQueueAreRefusedAndReadersNotHeldUp) {
  rules_.max_queued = 2;
  Open();
  PutAll(0, 6);
  ASSERT_NO_FATAL_FAILURE(BeginPromotionAndHold(0));
  for (uint64_t i = 1; i < 6; ++i) {
    Read(i);
    Read(i);
    EXPECT_EQ(Get(i).tier, Tier::kHost);
  }
  EXPECT_EQ(store_->tiers().moves.refused_promotions, 3u);
  device_->Resume();
  ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  EXPECT_EQ(store_->tiers().moves.promoted_blocks, 3u);
}

TEST_F(TieredStoreTest, PromotionsWaitForTheirBandwidth) {
  rules_.burst_bytes = kBlock;
  rules_.promoted_bytes_per_second = kBlock;
  Open();
  PutAll(0, 2);
  Promote(0);
  Read(1);
  Read(1);
  EXPECT_FALSE(store_->moves_are_done()) << "the clock stands still";
  EXPECT_FALSE(OnDevice(1));
  Advance(absl::Seconds(2));
  EXPECT_TRUE(Eventually([&] { return OnDevice(1); }));
}

// --- Demotion ---

TEST_F(TieredStoreTest, WhatTheDeviceGivesUpAndTheHostDoesNotHaveComesDown) {
  Open();
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(1));
  PutAll(100, kDeviceBlocks);
  PromoteAll(100, kDeviceBlocks);
  EXPECT_FALSE(OnDevice(1));
  EXPECT_TRUE(OnHost(1));
  EXPECT_TRUE(BytesOf(*Get(1).block) == BlockOf(1));
  EXPECT_EQ(store_->tiers().moves.demoted_blocks, 1u) << "the others are in the host tier";
  EXPECT_EQ(store_->tiers().lost_to_eviction, 0u);
}

TEST_F(TieredStoreTest, WhatCannotComeDownInTimeIsACountedEviction) {
  rules_.demoted_bytes_per_second = 1;
  rules_.burst_bytes = 1;
  rules_.promoted_bytes_per_second = uint64_t{1} << 40;
  Open();
  for (uint64_t i = 0; i < 4; ++i) {
    Advance(absl::Seconds(1));
    ASSERT_NO_FATAL_FAILURE(PutOnDevice(i));
  }
  PutAll(100, kDeviceBlocks);
  for (uint64_t i = 0; i < kDeviceBlocks; ++i) {
    Advance(absl::Milliseconds(1));
    Promote(100 + i);
  }
  const TierFigures figures = store_->tiers();
  EXPECT_EQ(figures.moves.demoted_blocks, 1u) << "the bucket held one byte";
  EXPECT_EQ(figures.lost_to_eviction, 3u);
  EXPECT_GE(figures.moves.refused_demotions, 3u);
}

TEST_F(TieredStoreTest, RoomIsKeptAheadForThoseWhoWriteOnTheDevice) {
  rules_.kept_free_fraction = 0.25;
  Open();
  for (uint64_t i = 0; i < kDeviceBlocks; ++i) {
    auto reservation = store_->ReserveOnDevice(KeyOf(i), kBlock);
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    ASSERT_TRUE((*reservation)->Commit(kBlock).ok());
    ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  }
  EXPECT_GE(store_->tiers().moves.demoted_blocks, 2u);
  EXPECT_TRUE(OnHost(0)) << "the oldest came down while it was still there";
  EXPECT_TRUE(OnDevice(0));
  EXPECT_EQ(store_->tiers().lost_to_eviction, 0u);
}

}  // namespace
}  // namespace kvist
