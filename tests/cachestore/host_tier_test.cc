// Goal: what the host tier promises beyond BlockStore: its options, its bounds, its messages.
// Method: examples with small tiers and a clock that is set by hand.
#include "cachestore/host_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cachestore/arena.h"
#include "cachestore/removals.h"

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
  static absl::Status Put(HostTier& tier, uint64_t number, size_t size_bytes) {
    auto reservation = tier.Reserve(KeyOf(number), size_bytes);
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
  tier->DropExpired();
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

TEST(ArenaTest, IsAlignedToHugePagesAndWritableToItsEnd) {
  const auto arena = *Arena::Create({.size_bytes = (uint64_t{3} << 20) + 64, .prefault = true});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(arena->base()) % (uint64_t{2} << 20), 0u);
  arena->base()[arena->size_bytes() - 1] = 1;
  EXPECT_LE(arena->HugePageBytes(), uint64_t{4} << 20);
  if (!arena->huge_pages_advised()) {
    EXPECT_EQ(arena->HugePageBytes(), 0u);
  }
}

}  // namespace
}  // namespace kvist
