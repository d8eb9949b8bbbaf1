// Goal: of a tensor-parallel group one rank fetches, and each decodes its own heads of the same bytes; all agree where the
// run ends and stay in step for the next one, and a rank that is not there costs the others nothing but the group.
// Method: as device_reader_test, with a device, a shim and a reader for each rank.
#include <future>
#include <thread>

#include "services/transport/nccl/fan_out.h"
#include "services/worker/device_reader.h"
#include "tests/services/worker/device_fixture.h"

namespace kvist::testing {
namespace {

constexpr int kRanks = 2;  // one head each

class DeviceGroupTest : public DeviceReaderTest {
 protected:
  struct Rank {
    End* end;
    std::unique_ptr<DeviceTensors> tensors;
    std::unique_ptr<DeviceReader> reader;
    std::unique_ptr<FanOut> group;
  };

  void StartGroup(const std::vector<Reach>& nodes) {
    Start(nodes);
    Promote();
    other_ = std::make_unique<End>(TestLimits(), /*ordinal=*/7);
    for (int rank = 0; rank < kRanks; ++rank) {
      End* const end = rank == 0 ? worker_.get() : other_.get();
      ranks_.push_back({end, std::make_unique<DeviceTensors>(end->device.get(), shape(), 1, rank), NewReader(end), {}});
    }
    FormGroup();
  }
  void FormGroup() {
    std::promise<absl::StatusOr<std::string>> made;
    ranks_[0].group = *FanOut::Lead(ranks_[0].end->communicators.get(), kRanks,
                                    [&](auto result) { made.set_value(std::move(result)); });
    const std::string ticket = *made.get_future().get();
    ranks_[1].group = *FanOut::Join(ranks_[1].end->communicators.get(), ticket, 1, kRanks);
  }
  // Of every rank; what each says that it has is right.
  std::vector<DeviceGetResult> GetAll(BlockRange range = {0, kPromptBlocks}) {
    std::vector<DeviceGetResult> results(kRanks);
    std::thread other([&] { results[1] = *ranks_[1].reader->Take(chain_, range, Pages(1), ranks_[1].group.get()); });
    results[0] = *ranks_[0].reader->Get(chain_, range, Pages(0), ranks_[0].group.get());
    other.join();
    for (int rank = 0; rank < kRanks; ++rank) {
      const BlockRange has = {range.first, range.first + results[rank].blocks};
      EXPECT_EQ(ranks_[rank].tensors->Different(has, range.last, stored_), 0u) << "rank " << rank;
      EXPECT_TRUE(results[rank].group.ok()) << "rank " << rank << ": " << results[rank].group;
    }
    return results;
  }
  DevicePages Pages(int rank) { return ranks_[rank].tensors->pages(); }

  std::unique_ptr<End> other_;
  std::vector<Rank> ranks_;
};

TEST_F(DeviceGroupTest, EachRankDecodesItsHeadsOfWhatOneHasFetched) {
  StartGroup({Reach::kIpc, Reach::kHostOnly});
  const std::vector<DeviceGetResult> results = GetAll();
  EXPECT_EQ(results[0].blocks, kPromptBlocks) << results[0].why;
  EXPECT_EQ(results[1].blocks, kPromptBlocks) << results[1].why;
  EXPECT_EQ(results[0].plain_bytes, shape().PlainBytes() * kPromptBlocks / kRanks);
  EXPECT_EQ(ranks_[1].reader->counters().group_blocks, kPromptBlocks);
  EXPECT_GT(results[0].ipc_blocks, 0u);
  EXPECT_GT(results[0].grpc_blocks, 0u);
}

TEST_F(DeviceGroupTest, APromptThatFillsTheLandingsSeveralTimesIsGivenInTurns) {
  options_.codec = Codec::kRaw16;
  reader_options_.landing_bytes = 48 << 10;
  StartGroup({Reach::kIpc});
  for (int i = 0; i < 2; ++i) {
    const std::vector<DeviceGetResult> results = GetAll();
    EXPECT_EQ(results[0].blocks, kPromptBlocks) << results[0].why;
    EXPECT_EQ(results[1].blocks, kPromptBlocks) << results[1].why;
  }
}

TEST_F(DeviceGroupTest, AMissEndsTheRunOfAllRanksAndTheGroupGoesOn) {
  StartGroup({Reach::kIpc});
  ASSERT_TRUE(*cluster_->node(0).store->Erase(chain_[9]));
  const std::vector<DeviceGetResult> results = GetAll();
  ExpectMiss(results[0], 9, v1::MISS_REASON_ERASED);
  ExpectMiss(results[1], 9, v1::MISS_REASON_ERASED);
  const std::vector<DeviceGetResult> nothing = GetAll({9, kPromptBlocks});
  ExpectMiss(nothing[0], 0, v1::MISS_REASON_ERASED);
  ExpectMiss(nothing[1], 0, v1::MISS_REASON_ERASED);
  EXPECT_EQ(GetAll({10, kPromptBlocks})[1].blocks, kPromptBlocks - 10);
}

TEST_F(DeviceGroupTest, ADamagedBlockIsSeenByAllRanksAndTheGroupGoesOn) {
  options_.codec = Codec::kRaw16;
  reader_options_.landing_bytes = 48 << 10;  // the ranks go on taking behind the damage
  StartGroup({Reach::kIpc});
  DeviceNode& node = cluster_->node(0);
  node.end.device->Write(node.OnDevice(chain_[6]).address + (stored_[6].size() - 100), {1, 2, 3, 4});
  const std::vector<DeviceGetResult> results = GetAll();
  ExpectMiss(results[0], 6, v1::MISS_REASON_CHECKSUM);
  ExpectMiss(results[1], 6, v1::MISS_REASON_CHECKSUM);
  EXPECT_EQ(GetAll({7, kPromptBlocks})[1].blocks, kPromptBlocks - 7);
}

TEST_F(DeviceGroupTest, ARankThatDoesNotComeCostsTheGroupAndNotTheBlocks) {
  options_.deadline = absl::Seconds(2);
  StartGroup({Reach::kIpc});
  const auto got = ranks_[0].reader->Get(chain_, {0, kPromptBlocks}, Pages(0), ranks_[0].group.get());
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_FALSE(got->group.ok());
  const auto alone = ranks_[0].reader->Get(chain_, {0, kPromptBlocks}, Pages(0));
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ(alone->blocks, kPromptBlocks) << alone->why;
}

}  // namespace
}  // namespace kvist::testing
