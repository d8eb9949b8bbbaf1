// Goal: what the device tier adds to the waist: its options and limits, pins and reservations on the device, the staging
// and its end, and a device that is slow, stuck or failed.
// Method: an emulated device, whose streams are held and whose context is poisoned on purpose. The waist itself is
// stated in tests/conformance/.
#include "cachestore/device_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/device/emulated_device.h"

namespace kvist {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Emulated = kvist::testing::EmulatedDevice;

constexpr size_t kBlock = size_t{64} << 10;

Key KeyOf(uint64_t number) {
  Key key;
  for (size_t i = 0; i < key.bytes.size(); ++i) {
    number = number * 6364136223846793005u + 1442695040888963407u;
    key.bytes[i] = static_cast<uint8_t>(number >> 56);
  }
  return key;
}

std::vector<uint8_t> BlockOf(uint64_t number, size_t size_bytes = kBlock) {
  std::vector<uint8_t> block(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) block[i] = static_cast<uint8_t>(number * 131 + i * 7 + (i >> 8));
  return block;
}

class DeviceTierTest : public ::testing::Test {
 protected:
  DeviceTierOptions Options() {
    DeviceTierOptions options;
    options.device = device_;
    options.capacity_bytes = 16 * kBlock;
    options.staging_bytes = 4 * kBlock;
    options.clock = [this] { return now_; };
    options.copy_deadline = absl::Seconds(20);
    return options;
  }
  std::unique_ptr<DeviceTier> Open(const DeviceTierOptions& options) {
    auto tier = DeviceTier::Create(options);
    EXPECT_TRUE(tier.ok()) << tier.status();
    return *std::move(tier);
  }
  static absl::Status Put(DeviceTier& tier, uint64_t number, size_t size_bytes = kBlock) {
    auto reservation = tier.Reserve(KeyOf(number), size_bytes);
    if (!reservation.ok()) return reservation.status();
    const std::vector<uint8_t> block = BlockOf(number, size_bytes);
    if (absl::Status written = (*reservation)->Write(0, block); !written.ok()) return written;
    return (*reservation)->Commit(size_bytes);
  }
  static bool Has(DeviceTier& tier, uint64_t number) { return tier.Match({KeyOf(number)}, {})->hits == 1; }
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

  static bool Eventually(const std::function<bool()>& condition) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      std::this_thread::yield();
    }
    return true;
  }

  const std::shared_ptr<Emulated> device_ = Emulated::Create({});
  absl::Time now_ = absl::FromUnixSeconds(1000);
};

// --- Start ---

TEST_F(DeviceTierTest, NamesEveryOptionThatIsWrong) {
  DeviceTierOptions options;
  options.capacity_bytes = 1000;
  options.staging_bytes = 10;
  options.copy_deadline = absl::ZeroDuration();
  options.index_shards = 3;
  const absl::Status status = DeviceTier::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("device is missing"), HasSubstr("capacity_bytes is 1000"),
                                      HasSubstr("staging_bytes is 10"), HasSubstr("copy_deadline is 0"),
                                      HasSubstr("clock is missing"), HasSubstr("index_shards is 3")));
}

TEST_F(DeviceTierTest, SaysHowMuchDeviceMemoryWasAskedAndHowMuchIsFree) {
  DeviceTierOptions options = Options();
  options.capacity_bytes = uint64_t{1} << 40;
  const absl::Status status = DeviceTier::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("1099511627776"), HasSubstr("268435456")));
}

TEST_F(DeviceTierTest, AStartWithoutPinnedMemorySaysSoAndGivesTheDeviceMemoryBack) {
  const std::shared_ptr<Emulated> device = Emulated::Create({.pinned_bytes = kBlock});
  DeviceTierOptions options = Options();
  options.device = device;
  const absl::Status status = DeviceTier::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("262144 bytes asked, 65536 free"));
  EXPECT_EQ(device->allocated_bytes(), 0u);
  EXPECT_EQ(device->pinned_bytes(), 0u);
}

TEST_F(DeviceTierTest, TakesItsMemoryAtStartAndGivesItBackWithTheLastPin) {
  auto tier = Open(Options());
  EXPECT_GE(device_->allocated_bytes(), 16 * kBlock);
  ASSERT_TRUE(Put(*tier, 1).ok());
  std::unique_ptr<DevicePin> pin = std::move(tier->GetOnDevice(KeyOf(1))->pin);
  tier.reset();
  EXPECT_TRUE(BytesOf(*pin) == BlockOf(1)) << "a pin outlives the tier";
  pin.reset();
  EXPECT_EQ(device_->allocated_bytes(), 0u);
}

// --- Beside the waist ---

TEST_F(DeviceTierTest, APinGivesTheBytesWhereTheyLieOnTheDevice) {
  auto tier = Open(Options());
  ASSERT_TRUE(Put(*tier, 1, 100001).ok());
  const auto lookup = tier->GetOnDevice(KeyOf(1));
  ASSERT_TRUE(lookup.ok() && lookup->pin != nullptr);
  EXPECT_EQ(lookup->tier, Tier::kDevice);
  EXPECT_EQ(lookup->pin->size_bytes(), 100001u);
  for (const DeviceExtent& extent : lookup->pin->extents()) EXPECT_EQ(extent.address.value % 64, 0u);
  EXPECT_TRUE(BytesOf(*lookup->pin) == BlockOf(1, 100001));
  EXPECT_EQ(tier->staging_free_bytes(), tier->staging_bytes()) << "no staging is taken";
  EXPECT_EQ(tier->GetOnDevice(KeyOf(2))->miss, MissReason::kNeverStored);
}

TEST_F(DeviceTierTest, ABlockPinnedOnTheDeviceIsNotEvicted) {
  auto tier = Open(Options());
  ASSERT_TRUE(Put(*tier, 0).ok());
  const auto lookup = tier->GetOnDevice(KeyOf(0));
  for (uint64_t i = 1; i < 50; ++i) ASSERT_TRUE(Put(*tier, i).ok());
  EXPECT_TRUE(Has(*tier, 0));
  EXPECT_TRUE(BytesOf(*lookup->pin) == BlockOf(0));
  EXPECT_EQ(tier->Stats()->pinned_bytes, kBlock);
}

TEST_F(DeviceTierTest, ABlockWrittenOnTheDeviceIsReadThroughTheWaist) {
  auto tier = Open(Options());
  auto reservation = *tier->ReserveOnDevice(KeyOf(1), kBlock);
  EXPECT_EQ(tier->Get(KeyOf(1))->miss, MissReason::kBeingWritten);
  const std::vector<uint8_t> block = BlockOf(1);
  size_t offset = 0;
  for (const DeviceExtent& extent : reservation->extents()) {
    device_->Write(extent.address, absl::MakeConstSpan(block).subspan(offset, extent.size_bytes));
    offset += extent.size_bytes;
  }
  EXPECT_EQ(reservation->Commit(0).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(reservation->Commit(kBlock).ok());
  EXPECT_EQ(reservation->Commit(kBlock).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(BytesOf(*tier->Get(KeyOf(1))->block) == block);
}

TEST_F(DeviceTierTest, AnAbandonedReservationFreesItsKeyAtOnceAndItsSpaceWhenTheDeviceLetsGo) {
  auto tier = Open(Options());
  auto reservation = *tier->ReserveOnDevice(KeyOf(1), kBlock);
  std::shared_ptr<void> held = reservation->Hold();
  reservation->Abandon();
  EXPECT_EQ(reservation->Commit(kBlock).code(), absl::StatusCode::kFailedPrecondition);
  reservation.reset();
  EXPECT_EQ(tier->Stats()->reserved_bytes, kBlock);
  EXPECT_TRUE(Put(*tier, 1).ok()) << "the key is free";
  held.reset();
  EXPECT_EQ(tier->Stats()->reserved_bytes, 0u);
}

// --- Staging ---

TEST_F(DeviceTierTest, WithoutStagingRoomAReadIsRefusedAndServedOnceAReaderLetsGo) {
  auto tier = Open(Options());
  for (uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(Put(*tier, i).ok());
  std::vector<BlockRef> held;
  for (uint64_t i = 0; i < 4; ++i) held.push_back(std::move(tier->Get(KeyOf(i))->block));
  const absl::Status refused = tier->Get(KeyOf(4)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("no staging room for 65536 bytes"), HasSubstr("of 262144 bytes")));
  EXPECT_EQ(Put(*tier, 10).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier->Stats()->reserved_bytes, 0u) << "the refused write holds nothing";
  held.pop_back();
  EXPECT_TRUE(BytesOf(*tier->Get(KeyOf(4))->block) == BlockOf(4));
  EXPECT_TRUE(BytesOf(*held[2]) == BlockOf(2));
}

TEST_F(DeviceTierTest, ACopyInTheStagingHoldsNothingOnTheDevice) {
  auto tier = Open(Options());
  ASSERT_TRUE(Put(*tier, 0).ok());
  const BlockRef copy = std::move(tier->Get(KeyOf(0))->block);
  EXPECT_EQ(tier->Stats()->pinned_bytes, 0u);
  for (uint64_t i = 1; i < 50; ++i) ASSERT_TRUE(Put(*tier, i).ok());
  EXPECT_FALSE(Has(*tier, 0));
  EXPECT_TRUE(BytesOf(*copy) == BlockOf(0));
}

TEST_F(DeviceTierTest, BlocksInPiecesOnBothSidesKeepTheirOrder) {
  auto tier = Open(Options());
  // Every second of small blocks goes, so that a large one finds only holes.
  for (uint64_t i = 0; i < 32; ++i) ASSERT_TRUE(Put(*tier, i, kBlock / 2).ok());
  for (uint64_t i = 0; i < 32; i += 2) ASSERT_TRUE(*tier->Erase(KeyOf(i)));
  ASSERT_TRUE(Put(*tier, 100, 3 * kBlock).ok());
  const auto lookup = tier->GetOnDevice(KeyOf(100));
  EXPECT_GT(lookup->pin->extents().size(), 1u);
  EXPECT_TRUE(BytesOf(*lookup->pin) == BlockOf(100, 3 * kBlock));
  EXPECT_TRUE(BytesOf(*tier->Get(KeyOf(100))->block) == BlockOf(100, 3 * kBlock));
}

// --- A device that is slow, stuck, failed ---

TEST_F(DeviceTierTest, AReadThatTheDeviceDoesNotServeInTimeIsGivenUpAndItsMemoryComesBackLate) {
  DeviceTierOptions options = Options();
  options.copy_deadline = absl::Milliseconds(20);
  auto tier = Open(options);
  ASSERT_TRUE(Put(*tier, 1).ok());
  device_->Hold();
  EXPECT_EQ(tier->Get(KeyOf(1)).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(tier->late_copies(), 1u);
  EXPECT_EQ(tier->staging_free_bytes(), tier->staging_bytes() - kBlock) << "the device may still write there";
  EXPECT_EQ(tier->Stats()->pinned_bytes, kBlock) << "and still reads here";
  ASSERT_TRUE(*tier->Erase(KeyOf(1))) << "nothing waits for it";
  device_->Resume();
  ASSERT_TRUE(Eventually([&] { return tier->late_copies() == 0; }));
  EXPECT_EQ(tier->staging_free_bytes(), tier->staging_bytes());
  EXPECT_EQ(tier->Stats()->used_bytes, 0u);
}

TEST_F(DeviceTierTest, AWriteThatTheDeviceDoesNotTakeInTimeIsNoBlock) {
  DeviceTierOptions options = Options();
  options.copy_deadline = absl::Milliseconds(20);
  auto tier = Open(options);
  device_->Hold();
  auto reservation = *tier->Reserve(KeyOf(1), kBlock);
  ASSERT_TRUE(reservation->Write(0, BlockOf(1)).ok());
  EXPECT_EQ(reservation->Commit(kBlock).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(reservation->Commit(kBlock).code(), absl::StatusCode::kFailedPrecondition) << "it is spent";
  reservation.reset();
  EXPECT_EQ(tier->Get(KeyOf(1))->miss, MissReason::kNeverStored);
  EXPECT_EQ(tier->Stats()->reserved_bytes, kBlock) << "the device may still write there";
  device_->Resume();
  ASSERT_TRUE(Eventually([&] { return tier->late_copies() == 0; }));
  EXPECT_EQ(tier->Stats()->reserved_bytes, 0u);
  EXPECT_TRUE(Put(*tier, 1).ok());
}

TEST_F(DeviceTierTest, ADeviceWithoutMemoryForAnEventRefusesTheCopyAndIsWhole) {
  auto tier = Open(Options());
  ASSERT_TRUE(Put(*tier, 1).ok());
  device_->Starve(true);
  EXPECT_EQ(tier->Get(KeyOf(1)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Put(*tier, 2).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier->late_copies(), 2u) << "nothing says that they are done";
  device_->Starve(false);
  ASSERT_TRUE(Eventually([&] { return tier->late_copies() == 0; }));
  EXPECT_EQ(tier->staging_free_bytes(), tier->staging_bytes());
  EXPECT_EQ(tier->Stats()->reserved_bytes + tier->Stats()->pinned_bytes, 0u);
  EXPECT_TRUE(BytesOf(*tier->Get(KeyOf(1))->block) == BlockOf(1));
  EXPECT_TRUE(Put(*tier, 2).ok());
}

TEST_F(DeviceTierTest, AFailedDeviceIsUnavailableForReadsAndWritesAndSaysWhy) {
  auto tier = Open(Options());
  ASSERT_TRUE(Put(*tier, 1).ok());
  auto open = *tier->Reserve(KeyOf(2), kBlock);
  ASSERT_TRUE(open->Write(0, BlockOf(2)).ok());
  device_->Fail("an illegal address");
  EXPECT_EQ(tier->Get(KeyOf(1)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(open->Commit(kBlock).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(tier->device().Health().message(), HasSubstr("an illegal address"));
  EXPECT_EQ(tier->Get(KeyOf(2))->miss, MissReason::kNeverStored) << "it was never published";
}

TEST_F(DeviceTierTest, ATierWhoseDeviceIsStuckCanBeClosed) {
  DeviceTierOptions options = Options();
  options.copy_deadline = absl::Milliseconds(20);
  auto tier = Open(options);
  ASSERT_TRUE(Put(*tier, 1).ok());
  device_->Hold();
  EXPECT_EQ(tier->Get(KeyOf(1)).status().code(), absl::StatusCode::kDeadlineExceeded);
  device_->Fail("reset by its owner");
  tier.reset();
  EXPECT_EQ(device_->allocated_bytes(), 0u);
}

TEST_F(DeviceTierTest, AReservationThatOutlivesTheTierIsNoBlock) {
  auto tier = Open(Options());
  auto reservation = *tier->Reserve(KeyOf(1), kBlock);
  tier.reset();
  EXPECT_EQ(reservation->Commit(kBlock).code(), absl::StatusCode::kFailedPrecondition);
  reservation.reset();
  EXPECT_EQ(device_->allocated_bytes(), 0u);
}

}  // namespace
}  // namespace kvist
