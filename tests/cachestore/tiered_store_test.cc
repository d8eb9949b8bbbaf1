// Goal: what a store of two tiers adds to the waist: promotion on the second hit, demotion under pressure, one answer
// for a chain whose blocks lie apart, and the device's end. And its races: an erase, an expiry, a failure in the middle
// of a move.
// Method: an emulated device whose streams are held, so that a move stands still where the test wants it.
#include "cachestore/tiered_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/device/emulated_device.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using Emulated = kvist::testing::EmulatedDevice;

constexpr size_t kBlock = size_t{64} << 10;
constexpr uint64_t kHostBlocks = 32, kDeviceBlocks = 16;

Key KeyOf(uint64_t number) {
  Key key;
  for (size_t i = 0; i < key.bytes.size(); ++i) {
    number = number * 6364136223846793005u + 1442695040888963407u;
    key.bytes[i] = static_cast<uint8_t>(number >> 56);
  }
  return key;
}

std::vector<Key> Chain(uint64_t first, size_t length) {
  std::vector<Key> chain;
  for (size_t i = 0; i < length; ++i) chain.push_back(KeyOf(first + i));
  return chain;
}

std::vector<uint8_t> BlockOf(uint64_t number, size_t size_bytes = kBlock) {
  std::vector<uint8_t> block(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) block[i] = static_cast<uint8_t>(number * 131 + i * 7 + (i >> 8));
  return block;
}

bool Eventually(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

class TieredStoreTest : public ::testing::Test {
 protected:
  TieredStoreTest() {
    device_options_.capacity_bytes = kDeviceBlocks * kBlock;
    device_options_.staging_bytes = 8 * kBlock;
    device_options_.copy_deadline = absl::Seconds(20);
    rules_.kept_free_fraction = 0;
  }
  void Open() {
    HostTierOptions host;
    host.capacity_bytes = kHostBlocks * kBlock;
    host.clock = [this] { return Now(); };
    static_cast<TierRules&>(device_options_) = host;
    if (device_options_.device == nullptr) device_options_.device = device_;
    auto device = DeviceTier::Create(device_options_);
    ASSERT_TRUE(device.ok()) << device.status();
    store_ = std::make_unique<TieredStore>(*HostTier::Create(host), *std::move(device), rules_);
  }
  absl::Time Now() const { return absl::FromUnixMillis(now_ms_.load()); }
  void Advance(absl::Duration by) { now_ms_ += absl::ToInt64Milliseconds(by); }

  absl::Status Put(uint64_t number, const BlockTraits& traits = {}, size_t size_bytes = kBlock) {
    auto reservation = store_->Reserve(KeyOf(number), size_bytes, traits);
    if (!reservation.ok()) return reservation.status();
    if (absl::Status written = (*reservation)->Write(0, BlockOf(number, size_bytes)); !written.ok()) return written;
    return (*reservation)->Commit(size_bytes);
  }
  void PutAll(uint64_t first, size_t count) {
    for (size_t i = 0; i < count; ++i) ASSERT_TRUE(Put(first + i).ok());
  }
  void Read(uint64_t number) { ASSERT_TRUE(store_->GetOnDevice(KeyOf(number)).ok()); }
  // Two hits of a reader of device memory, and the move that follows.
  void Promote(uint64_t number) {
    Read(number);
    Read(number);
    ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  }
  void PromoteAll(uint64_t first, size_t count) {
    for (size_t i = 0; i < count; ++i) ASSERT_NO_FATAL_FAILURE(Promote(first + i));
  }
  // The block is on the device alone.
  void PutOnDevice(uint64_t number) {
    ASSERT_TRUE(Put(number).ok());
    ASSERT_NO_FATAL_FAILURE(Promote(number));
    ASSERT_TRUE(*store_->host().Erase(KeyOf(number)));
  }
  bool OnHost(uint64_t number) { return store_->host().Get(KeyOf(number), false)->block != nullptr; }
  bool OnDevice(uint64_t number) { return store_->device()->Match({KeyOf(number)}, {})->hits == 1; }
  Lookup Get(uint64_t number) {
    auto lookup = store_->Get(KeyOf(number));
    EXPECT_TRUE(lookup.ok()) << lookup.status();
    return lookup.ok() ? *std::move(lookup) : Lookup();
  }
  static std::vector<uint8_t> BytesOf(const PinnedBlock& block) {
    std::vector<uint8_t> bytes;
    for (const auto& piece : block.pieces()) bytes.insert(bytes.end(), piece.begin(), piece.end());
    return bytes;
  }
  std::vector<uint8_t> BytesOf(const DevicePin& pin) const {
    std::vector<uint8_t> bytes;
    for (const DeviceExtent& extent : pin.extents()) {
      const std::vector<uint8_t> part = device_->Read(extent.address, extent.size_bytes);
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    return bytes;
  }
  // A promotion that has begun and stands still, since the device takes up no work.
  void BeginPromotionAndHold(uint64_t number) {
    device_->Hold();
    Read(number);
    Read(number);
    ASSERT_TRUE(Eventually([&] { return store_->device()->Stats()->reserved_bytes == kBlock; }));
  }

  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  const std::shared_ptr<Emulated> device_ = Emulated::Create({});
  DeviceTierOptions device_options_;
  MoveRules rules_;
  std::unique_ptr<TieredStore> store_;
};

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

// --- The device's end ---

TEST_F(TieredStoreTest, AFailedDeviceIsDroppedAndTheHostGoesOn) {
  Open();
  ASSERT_NO_FATAL_FAILURE(PutOnDevice(1));
  ASSERT_TRUE(Put(2).ok());
  Promote(2);
  Advance(absl::Seconds(1));
  device_->Fail("an illegal address");
  const Lookup lost = Get(1);
  EXPECT_EQ(lost.block, nullptr);
  EXPECT_EQ(lost.miss, MissReason::kTierLost);
  EXPECT_EQ(lost.gone, Now());
  EXPECT_EQ(store_->device_state(), DeviceState::kLost);
  EXPECT_THAT(store_->DeviceTrouble(), HasSubstr("device tier lost"));
  EXPECT_THAT(store_->DeviceTrouble(), HasSubstr("an illegal address"));
  EXPECT_THAT(store_->tiers().why_lost, HasSubstr("an illegal address"));
  EXPECT_EQ(Get(2).tier, Tier::kHost);
  EXPECT_EQ(store_->GetOnDevice(KeyOf(2)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store_->ReserveOnDevice(KeyOf(9), kBlock).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store_->Match(Chain(1, 2), absl::Seconds(5))->miss, MissReason::kTierLost);
  EXPECT_EQ(store_->Stats()->capacity_bytes, kHostBlocks * kBlock);
  ASSERT_TRUE(Put(1).ok()) << "what was lost can be stored again";
  EXPECT_EQ(store_->Match(Chain(1, 2), absl::Seconds(5))->hits, 2u);
}

TEST_F(TieredStoreTest, ADeviceThatFailsDuringAPromotionLosesTheMoveOnly) {
  Open();
  ASSERT_TRUE(Put(1).ok());
  ASSERT_NO_FATAL_FAILURE(BeginPromotionAndHold(1));
  device_->Fail("fell off the bus");
  ASSERT_TRUE(Eventually([&] { return store_->device_state() == DeviceState::kLost; }));
  ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  EXPECT_TRUE(BytesOf(*Get(1).block) == BlockOf(1));
  EXPECT_EQ(store_->tiers().host.pinned_bytes, 0u) << "the source is free again";
}

TEST_F(TieredStoreTest, AnIdleStoreNoticesThatItsDeviceHasFailed) {
  Open();
  device_->Fail("removed");
  EXPECT_TRUE(Eventually([&] { return store_->device_state() == DeviceState::kLost; }));
}

TEST_F(TieredStoreTest, ADeviceThatAnswersNothingInTimeIsDroppedAfterSoManyReads) {
  device_options_.copy_deadline = absl::Milliseconds(5);
  Open();
  ASSERT_TRUE(Put(1).ok());
  Promote(1);
  ASSERT_TRUE(OnDevice(1));
  ASSERT_TRUE(*store_->host().Erase(KeyOf(1)));
  device_->Hold();
  for (int i = 0; i < TieredStore::kDeadlinesUntilLost; ++i) {
    EXPECT_EQ(store_->device_state(), DeviceState::kReady);
    EXPECT_EQ(store_->Get(KeyOf(1)).status().code(), absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_EQ(store_->device_state(), DeviceState::kLost);
  EXPECT_THAT(store_->DeviceTrouble(), HasSubstr("8 copies in a row were not done in time"));
  device_->Resume();
}

TEST_F(TieredStoreTest, DeadlinesBetweenCopiesThatWereDoneLoseNothing) {
  device_options_.copy_deadline = absl::Milliseconds(50);
  Open();
  PutAll(0, 2);
  Promote(0);
  ASSERT_TRUE(*store_->host().Erase(KeyOf(0)));
  const auto miss_deadlines = [&](int count) {
    device_->Hold();
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(store_->Get(KeyOf(0)).status().code(), absl::StatusCode::kDeadlineExceeded);
    }
    device_->Resume();
    ASSERT_TRUE(Eventually([&] { return store_->tiers().late_copies == 0; }));
  };
  ASSERT_NO_FATAL_FAILURE(miss_deadlines(TieredStore::kDeadlinesUntilLost - 1));
  Promote(1);
  if (!OnDevice(1)) GTEST_SKIP() << "this machine was too slow for the deadline";
  ASSERT_NO_FATAL_FAILURE(miss_deadlines(1));
  EXPECT_EQ(store_->device_state(), DeviceState::kReady) << "a promotion was done in between";
}

// The mover reports the failure to a store that is on its way out.
TEST_F(TieredStoreTest, AStoreMayGoWhileItsDeviceFails) {
  for (int round = 0; round < 20; ++round) {
    const std::shared_ptr<Emulated> device = Emulated::Create({});
    device_options_.device = device;
    Open();
    ASSERT_TRUE(Put(1).ok());
    device->Hold();
    Read(1);
    Read(1);
    ASSERT_TRUE(Eventually([&] { return store_->device()->Stats()->reserved_bytes == kBlock; }));
    std::atomic<bool> going{false};
    std::thread goer([&] {
      going = true;
      store_.reset();
    });
    EXPECT_TRUE(Eventually([&] { return going.load(); }));
    for (int i = 0; i < round; ++i) std::this_thread::yield();
    device->Fail("fell off the bus");
    goer.join();
    EXPECT_EQ(device->allocated_bytes(), 0u);
  }
}

// --- Threads ---

// Readers of both kinds, writers and erasers on few keys, with moves in both directions under way. Whatever is found is
// the block of that key, whole; in the end every byte of both tiers comes back.
TEST_F(TieredStoreTest, ManyThreadsSeeOnlyWholeBlocksWhileTheyMove) {
  constexpr uint64_t kKeys = 48;
  Open();
  std::atomic<uint64_t> wrong{0}, hits{0};
  const auto work = [&](uint64_t seed) {
    uint64_t state = seed;
    for (int round = 0; round < 600; ++round) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const uint64_t number = (state >> 33) % kKeys;
      switch ((state >> 60) % 8) {
        case 0:
          wrong += !store_->Erase(KeyOf(number)).ok();
          break;
        case 1:
        case 2:
          Put(number).IgnoreError();
          break;
        case 3: {
          const auto match = store_->Match(Chain(number, 4), absl::Seconds(5));
          wrong += !match.ok() || !store_->Release(match->lease).ok();
          break;
        }
        case 4: {
          const auto lookup = store_->Get(KeyOf(number));
          if (!lookup.ok() || lookup->block == nullptr) break;
          wrong += BytesOf(*lookup->block) != BlockOf(number);
          ++hits;
          break;
        }
        default: {
          const auto lookup = store_->GetOnDevice(KeyOf(number));
          if (!lookup.ok() || lookup->pin == nullptr) break;
          wrong += BytesOf(*lookup->pin) != BlockOf(number);
          ++hits;
        }
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t i = 1; i <= 4; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(Eventually([&] { return store_->moves_are_done(); }));
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(hits, 0u);
  EXPECT_GT(store_->tiers().moves.promoted_blocks, 0u);
  for (uint64_t i = 0; i < kKeys; ++i) EXPECT_TRUE(store_->Erase(KeyOf(i)).ok());
  const StoreStats stats = *store_->Stats();
  EXPECT_EQ(stats.blocks, 0u);
  EXPECT_EQ(stats.used_bytes + stats.reserved_bytes + stats.pinned_bytes, 0u);
  EXPECT_EQ(store_->tiers().staging_free_bytes, store_->tiers().staging_bytes);
}

}  // namespace
}  // namespace kvist
