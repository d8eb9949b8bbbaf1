// A group of ranks of which one has fetched: all get the same bytes and the same misses; a rank that is late, dies, has no
// room or is out of step ends the group for all, by the deadline.
#include "services/transport/nccl/fan_out.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/services/transport/nccl/pair.h"
#include "tests/services/transport/nccl/placed_blocks.h"

namespace kvist::testing {
namespace {

constexpr int kRanks = 4;

struct Group {
  Group() {
    for (int rank = 0; rank < kRanks; ++rank) ends.push_back(std::make_unique<End>(TestLimits(), rank));
    std::promise<absl::StatusOr<std::string>> made;
    fan_outs.push_back(
        *FanOut::Lead(ends[0]->communicators.get(), kRanks, [&](auto result) { made.set_value(result); }));
    ticket = *made.get_future().get();
    for (int rank = 1; rank < kRanks; ++rank) {
      fan_outs.push_back(*FanOut::Join(ends[rank]->communicators.get(), ticket, rank, kRanks));
    }
  }
  // What rank 0 has fetched: blocks of these sizes; 0 is a miss.
  Fetched Fetch(const std::vector<size_t>& sizes) {
    Fetched fetched;
    std::vector<std::shared_ptr<void>> holds;
    for (size_t i = 0; i < sizes.size(); ++i) {
      FetchedBlock& block = fetched.blocks.emplace_back();
      block.miss = sizes[i] == 0 ? v1::MISS_REASON_EVICTED : v1::MISS_REASON_UNSPECIFIED;
      if (sizes[i] == 0) continue;
      const auto memory = ends[0]->Holding(Bytes(sizes[i], uint32_t(i)));
      block.extent = {memory->base(), sizes[i]};
      holds.push_back(memory);
    }
    fetched.hold = std::make_shared<std::vector<std::shared_ptr<void>>>(std::move(holds));
    return fetched;
  }
  absl::StatusOr<Fetched> Take(int rank, absl::Duration limit = kTestDeadline) {
    return fan_outs[rank]->Take(Allocating(ends[rank]->device.get()), absl::Now() + limit);
  }

  std::vector<std::unique_ptr<End>> ends;
  std::vector<std::unique_ptr<FanOut>> fan_outs;
  std::string ticket;
};

TEST(FanOutTest, EveryRankGetsTheBytesAndTheMissesFetchAfterFetch) {
  Group group;
  for (const std::vector<size_t>& sizes : std::vector<std::vector<size_t>>{{70'001, 0, 5, 300'000}, {0, 0}, {64}}) {
    std::vector<std::thread> ranks;
    std::vector<absl::StatusOr<Fetched>> taken(kRanks, Fetched());
    for (int rank = 1; rank < kRanks; ++rank) ranks.emplace_back([&, rank] { taken[rank] = group.Take(rank); });
    EXPECT_TRUE(group.fan_outs[0]->Give(group.Fetch(sizes), absl::Now() + kTestDeadline).ok());
    for (std::thread& rank : ranks) rank.join();
    for (int rank = 1; rank < kRanks; ++rank) {
      ASSERT_TRUE(taken[rank].ok()) << taken[rank].status();
      ASSERT_EQ(taken[rank]->blocks.size(), sizes.size());
      for (size_t i = 0; i < sizes.size(); ++i) {
        const FetchedBlock& block = taken[rank]->blocks[i];
        EXPECT_EQ(block.miss, sizes[i] == 0 ? v1::MISS_REASON_EVICTED : v1::MISS_REASON_UNSPECIFIED);
        if (sizes[i] == 0) continue;
        EXPECT_EQ(group.ends[rank]->device->Read(block.extent.address, block.extent.size_bytes),
                  Bytes(sizes[i], uint32_t(i)));
      }
    }
  }
}

TEST(FanOutTest, ARankThatDoesNotComeEndsTheGroupByTheDeadline) {
  Group group;
  std::vector<std::thread> ranks;
  std::vector<absl::Status> statuses(kRanks);
  const absl::Duration limit = absl::Milliseconds(300);
  for (int rank = 1; rank < kRanks - 1; ++rank) {
    ranks.emplace_back([&, rank] { statuses[rank] = group.Take(rank, limit).status(); });
  }
  statuses[0] = group.fan_outs[0]->Give(group.Fetch({8 << 20}), absl::Now() + limit);
  for (std::thread& rank : ranks) rank.join();
  // Ranks that have their bytes may keep them; the next fetch fails for all.
  EXPECT_FALSE(statuses[0].ok());
  for (int rank = 1; rank < kRanks - 1; ++rank) EXPECT_FALSE(group.Take(rank).ok()) << rank;
  EXPECT_FALSE(group.fan_outs[0]->Give(group.Fetch({64}), absl::Now() + kTestDeadline).ok());
}

TEST(FanOutTest, ARankWithoutRoomFreesTheOthers) {
  Group group;
  std::vector<std::thread> ranks;
  std::vector<absl::Status> statuses(kRanks);
  for (int rank = 1; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      const TakeLanding none = [](uint64_t) { return absl::ResourceExhaustedError("for the test"); };
      const TakeLanding room = Allocating(group.ends[rank]->device.get());
      statuses[rank] = group.fan_outs[rank]->Take(rank == 1 ? none : room, absl::Now() + kTestDeadline).status();
    });
  }
  const absl::Status given = group.fan_outs[0]->Give(group.Fetch({8 << 20}), absl::Now() + kTestDeadline);
  EXPECT_FALSE(given.ok());
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kResourceExhausted);
}

TEST(FanOutTest, ATicketOfAnotherNcclIsRefusedWithBothNames) {
  Group group;
  Shim other;
  other.Set("version", 22907);
  const auto device = EmulatedDevice::Create({});
  Communicators communicators(*NcclLibrary::Load(other.path()), device.get(), TestLimits());
  const absl::Status status = FanOut::Join(&communicators, group.ticket, 1, kRanks).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("NCCL 2.29.7 here, 2.28.9 at rank 0"), std::string::npos) << status;
}

TEST(FanOutTest, WhatIsNoTicketOrNoRankIsRefused) {
  Group group;
  Communicators* const communicators = group.ends[1]->communicators.get();
  EXPECT_EQ(FanOut::Join(communicators, "ticket", 1, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FanOut::Join(communicators, group.ticket, 0, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FanOut::Join(communicators, group.ticket, 2, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(group.fan_outs[0]->Give(group.Fetch(std::vector<size_t>(257, 0)), absl::Now()).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvist::testing
