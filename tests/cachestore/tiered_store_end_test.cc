// Goal: a device that fails, or answers nothing any more, is dropped, and the host tier goes on; one that is late now and
// then is not. And many threads at once, while blocks move.
// Method: an emulated device whose streams are held, so that a move stands still where the test wants it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/cachestore/tiered_store_fixture.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;

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
  constexpr int kHalf = TieredStore::kDeadlinesUntilLost / 2;
  ASSERT_NO_FATAL_FAILURE(miss_deadlines(kHalf));
  // On a slow machine a promotion may miss the deadline too: so few that they are not too many in a row.
  for (int i = 0; i < kHalf - 1 && !OnDevice(1); ++i) Promote(1);
  ASSERT_TRUE(OnDevice(1));
  ASSERT_NO_FATAL_FAILURE(miss_deadlines(kHalf + 1));
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
