// Transfers between a node's sessions and a worker's link, with the control called directly: what both agree on, and what
// becomes of blocks when NCCL, the node or the worker fails. A fetch always ends, with the bytes or with a reason.
#include <gtest/gtest.h>

#include <future>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"
#include "services/transport/nccl/device_fetch.h"
#include "services/transport/nccl/device_link.h"
#include "services/transport/nccl/transfer_sessions.h"
#include "tests/services/transport/nccl/direct_control.h"
#include "tests/services/transport/nccl/pair.h"
#include "tests/services/transport/nccl/placed_blocks.h"

namespace kvist::testing {
namespace {

using State = DeviceLink::State;

// Brings the node's blocks by a plain copy, as gRPC would.
class CopyingFallback final : public BlockFallback {
 public:
  CopyingFallback(PlacedBlocks* blocks, EmulatedDevice* to) : blocks_(blocks), to_(to) {}
  absl::StatusOr<Fetched> Fetch(absl::Span<const Key> keys, const TakeLanding& take, absl::Time) override {
    Fetched fetched;
    std::vector<std::shared_ptr<void>> holds;
    for (const Key& key : keys) {
      FetchedBlock& result = fetched.blocks.emplace_back();
      const std::vector<uint8_t> bytes = blocks_->Bytes(key);
      if (bytes.empty()) {
        result.miss = v1::MISS_REASON_NEVER_STORED;
        continue;
      }
      const Landing landing = *take(bytes.size());
      holds.push_back(landing.hold);
      result.extent = {landing.address, bytes.size()};
      to_->Write(landing.address, bytes);
    }
    fetched.hold = std::make_shared<std::vector<std::shared_ptr<void>>>(std::move(holds));
    return fetched;
  }

 private:
  PlacedBlocks* const blocks_;
  EmulatedDevice* const to_;
};

struct Node {
  explicit Node(NcclLimits limits = TestLimits(), TransferLimits transfer = {})
      : end(limits, 0),
        blocks(end.device.get()),
        sessions(std::in_place, end.communicators.get(), &blocks, "host", transfer) {}
  End end;
  PlacedBlocks blocks;
  std::optional<TransferSessions> sessions;
};

struct Worker {
  Worker(Node* node, std::string id, NcclLimits limits = TestLimits(), int ordinal = 1)
      : end(limits, ordinal), errands(std::in_place, RealRuntime(), 2), fallback(&node->blocks, end.device.get()) {
    DeviceLinkOptions options;
    options.worker_id = std::move(id);
    options.host_id = "host";
    options.first_pause = absl::Milliseconds(1);
    options.longest_pause = absl::Milliseconds(5);
    link.emplace(end.communicators.get(), std::make_unique<DirectControl>(&*node->sessions), &*errands, options);
    fetch.emplace(&*link, &fallback);
  }
  ~Worker() {
    link.reset();
    errands.reset();
  }
  Fetched Get(const std::vector<Key>& keys, absl::Duration limit = kTestDeadline) {
    return fetch->Fetch(keys, Allocating(end.device.get()), absl::Now() + limit);
  }
  // Fetches until an epoch is open.
  bool Open() {
    return Eventually([&] {
      (void)link->Fetch({KeyOf(0xffffffff)}, Allocating(end.device.get()), absl::Now() + kTestDeadline);
      return link->state() == State::kOpen;
    });
  }
  std::vector<uint8_t> Read(const FetchedBlock& block) {
    return end.device->Read(block.extent.address, block.extent.size_bytes);
  }

  End end;
  std::optional<ThreadPool> errands;
  CopyingFallback fallback;
  std::optional<DeviceLink> link;
  std::optional<DeviceFetch> fetch;
};

bool Contains(const absl::Status& status, const std::string& text) {
  return status.message().find(text) != std::string::npos;
}

TEST(TransferTest, TheFirstFetchGoesOverGrpcWhileAnEpochOpensAndLaterOnesOverNccl) {
  Node node;
  Worker worker(&node, "w");
  const std::vector<uint8_t> bytes = Bytes(100'001, 5);
  node.blocks.Add(KeyOf(1), bytes);
  const Fetched first = worker.Get({KeyOf(1)});
  EXPECT_EQ(worker.Read(first.blocks[0]), bytes);
  EXPECT_EQ(worker.fetch->counts().over_grpc, 1);
  ASSERT_TRUE(worker.Open());
  const Fetched second = worker.Get({KeyOf(1)});
  EXPECT_EQ(worker.Read(second.blocks[0]), bytes);
  EXPECT_EQ(worker.fetch->counts().over_nccl, 1);
}

TEST(TransferTest, ManyBlocksArriveEachInItsPlaceAndAMissSaysWhy) {
  Node node;
  Worker worker(&node, "w");
  ASSERT_TRUE(worker.Open());
  std::vector<Key> keys;
  for (uint32_t i = 0; i < 64; ++i) {
    keys.push_back(KeyOf(i));
    if (i != 40) node.blocks.Add(KeyOf(i), Bytes(1000 + 977 * i, i));
  }
  const Fetched fetched = worker.Get(keys);
  for (uint32_t i = 0; i < 64; ++i) {
    if (i == 40) continue;
    EXPECT_EQ(worker.Read(fetched.blocks[i]), Bytes(1000 + 977 * i, i)) << i;
    EXPECT_EQ(fetched.blocks[i].extent.address.value % kLandingAlignment, 0);
  }
  EXPECT_EQ(fetched.blocks[40].miss, v1::MISS_REASON_NEVER_STORED);
  EXPECT_EQ(worker.fetch->counts().over_nccl, 63);
  EXPECT_EQ(worker.fetch->counts().misses, 1);
  EXPECT_TRUE(Eventually([&] { return node.blocks.pins() == 0; }));
}

TEST(TransferTest, WhatDoesNotFitOneTransferComesOverGrpc) {
  TransferLimits limits;
  limits.max_bytes = 10'000;
  Node node(TestLimits(), limits);
  Worker worker(&node, "w");
  ASSERT_TRUE(worker.Open());
  for (uint32_t i = 0; i < 3; ++i) node.blocks.Add(KeyOf(i), Bytes(4'000, i));
  const Fetched fetched = worker.Get({KeyOf(0), KeyOf(1), KeyOf(2)});
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(worker.Read(fetched.blocks[i]), Bytes(4'000, i));
  EXPECT_EQ(worker.fetch->counts().over_nccl, 2);
  EXPECT_EQ(worker.fetch->counts().over_grpc, 1);
}

TEST(TransferTest, KeysBeyondWhatOneTransferMayNameComeOverGrpc) {
  Node node;
  Worker worker(&node, "w");
  ASSERT_TRUE(worker.Open());
  std::vector<Key> keys;
  for (uint32_t i = 0; i < kMostTransferKeys + 2; ++i) {
    keys.push_back(KeyOf(i));
    node.blocks.Add(KeyOf(i), Bytes(64 + i, i));
  }
  const Fetched fetched = worker.Get(keys);
  for (uint32_t i = 0; i < keys.size(); ++i) EXPECT_EQ(worker.Read(fetched.blocks[i]), Bytes(64 + i, i)) << i;
  EXPECT_EQ(worker.fetch->counts().over_nccl, kMostTransferKeys);
  EXPECT_EQ(worker.fetch->counts().over_grpc, 2);
  EXPECT_EQ(worker.link->state(), State::kOpen);
}

TEST(TransferTest, ConcurrentFetchesOfOneWorkerKeepTheirBytesApart) {
  Node node;
  Worker worker(&node, "w");
  ASSERT_TRUE(worker.Open());
  for (uint32_t i = 0; i < 8; ++i) node.blocks.Add(KeyOf(i), Bytes(50'000 + i, i));
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (uint32_t i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 20; ++n) {
        const Fetched fetched = worker.Get({KeyOf(i)});
        if (worker.Read(fetched.blocks[0]) == Bytes(50'000 + i, i)) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 160);
  EXPECT_GT(worker.fetch->counts().over_nccl, 0);
}

TEST(TransferTest, AnotherVersionOfNcclIsRefusedBeforeAnythingElseAndBlocksComeOverGrpc) {
  Node node;
  node.blocks.Add(KeyOf(1), Bytes(5000, 1));
  Shim other;
  other.Set("version", 22907);
  const auto library = NcclLibrary::Load(other.path());
  ASSERT_TRUE(library.ok()) << library.status();
  const auto device = EmulatedDevice::Create({.ordinal = 1});
  Communicators communicators(*library, device.get(), TestLimits());
  ThreadPool errands(RealRuntime(), 1);
  DeviceLink link(&communicators, std::make_unique<DirectControl>(&*node.sessions), &errands, {"w", "host"});
  CopyingFallback fallback(&node.blocks, device.get());
  DeviceFetch fetch(&link, &fallback);
  const Fetched fetched = fetch.Fetch({KeyOf(1)}, Allocating(device.get()), absl::Now() + kTestDeadline);
  EXPECT_EQ(device->Read(fetched.blocks[0].extent.address, 5000), Bytes(5000, 1));
  ASSERT_TRUE(Eventually([&] { return link.state() == State::kRefused; }));
  EXPECT_TRUE(Contains(link.why(), "NCCL 2.29.7 at the worker, 2.28.9 at the node")) << link.why();
  EXPECT_EQ(node.sessions->counts().refused_versions, 1);
  EXPECT_EQ(node.end.communicators->counts().live, 0);
}

TEST(TransferTest, WorkerAndNodeOnOneGpuAreRefusedBeforeNcclIsAsked) {
  Node node;
  Worker worker(&node, "w", TestLimits(), /*ordinal=*/0);
  (void)worker.Get({KeyOf(1)});
  ASSERT_TRUE(Eventually([&] { return worker.link->state() == State::kRefused; }));
  EXPECT_TRUE(Contains(worker.link->why(), "one GPU")) << worker.link->why();
}

TEST(TransferTest, AnInitThatNeverCompletesIsBackedOffFromAndTriedAnew) {
  NcclLimits limits = TestLimits();
  limits.open_limit = absl::Milliseconds(100);
  Node node(limits);
  Worker worker(&node, "w", limits);
  node.end.shim.Set("hang_init", 1);
  node.blocks.Add(KeyOf(1), Bytes(5000, 1));
  const Fetched fetched = worker.Get({KeyOf(1)});
  EXPECT_EQ(worker.Read(fetched.blocks[0]), Bytes(5000, 1));
  ASSERT_TRUE(Eventually([&] { return worker.link->counts().failures > 0; }));
  node.end.shim.Set("hang_init", 0);
  EXPECT_TRUE(worker.Open());
}

TEST(TransferTest, AHangInsideACallOfTheNodeEndsInBytesOverGrpcAndANewEpoch) {
  NcclLimits limits = TestLimits();
  limits.call_limit = absl::Milliseconds(100);
  Node node(limits);
  Worker worker(&node, "w");
  node.blocks.Add(KeyOf(1), Bytes(200'000, 1));
  ASSERT_TRUE(worker.Open());
  node.end.shim.Set("hang_group_end", 1);
  const Fetched fetched = worker.Get({KeyOf(1)});
  EXPECT_EQ(worker.Read(fetched.blocks[0]), Bytes(200'000, 1));
  EXPECT_EQ(worker.fetch->counts().over_grpc, 1);
  node.end.shim.Set("hang_group_end", 0);
  ASSERT_TRUE(worker.Open());
  const Fetched again = worker.Get({KeyOf(1)});
  EXPECT_EQ(worker.Read(again.blocks[0]), Bytes(200'000, 1));
  EXPECT_EQ(worker.fetch->counts().over_nccl, 1);
  EXPECT_EQ(worker.link->counts().epochs, 2);
  EXPECT_TRUE(Eventually([&] { return node.blocks.pins() == 0; }));
}

TEST(TransferTest, ATransferThatIsTooSlowIsAbandonedAtHalfTimeAndComesOverGrpc) {
  Node node;
  Worker worker(&node, "w");
  node.blocks.Add(KeyOf(1), Bytes(8 << 20, 1));
  ASSERT_TRUE(worker.Open());
  node.end.shim.Set("bytes_per_ms", 16);
  const Fetched fetched = worker.Get({KeyOf(1)}, absl::Milliseconds(400));
  EXPECT_EQ(worker.Read(fetched.blocks[0]), Bytes(8 << 20, 1));
  EXPECT_EQ(worker.fetch->counts().over_grpc, 1);
  // What the abandoned transfer held comes back: the node's pins, the worker's first landing.
  EXPECT_TRUE(Eventually([&] { return node.blocks.pins() == 0; }));
  EXPECT_TRUE(Eventually([&] { return worker.end.device->allocated_bytes() == fetched.blocks[0].extent.size_bytes; }));
}

TEST(TransferTest, AnAsyncErrorAtTheWorkerTellsTheNode) {
  Node node;
  Worker worker(&node, "w");
  node.blocks.Add(KeyOf(1), Bytes(5000, 1));
  ASSERT_TRUE(worker.Open());
  worker.end.shim.Set("async_error", nccl::kSystemError);
  ASSERT_TRUE(Eventually([&] { return worker.link->counts().failures > 0; }));
  EXPECT_TRUE(Eventually([&] { return node.sessions->counts().sessions == 0; }));
}

TEST(TransferTest, AnOfferThatIsNotStartedEndsByItsDeadline) {
  Node node;
  Worker worker(&node, "w");
  node.blocks.Add(KeyOf(1), Bytes(5000, 1));
  v1::OpenEpochRequest open;
  open.set_nccl_version(uint32_t(node.end.communicators->library().version));
  open.set_worker_id("another");
  open.set_device_uuid(std::string(16, 'x'));
  DirectControl control(&*node.sessions);
  const auto epoch = control.Open(open, absl::Now() + kTestDeadline);
  ASSERT_TRUE(epoch.ok()) << epoch.status();
  v1::TransferRequest request;
  request.set_epoch(epoch->epoch());
  request.set_operation(1);
  request.set_keys(reinterpret_cast<const char*>(KeyOf(1).bytes.data()), 32);
  request.set_deadline_ms(50);
  ASSERT_TRUE(node.sessions->Transfer(request).ok());
  EXPECT_TRUE(Eventually([&] { return node.sessions->counts().expired == 1 && node.blocks.pins() == 0; }));
  v1::StartRequest start;
  start.set_epoch(epoch->epoch());
  start.set_operation(1);
  EXPECT_EQ(node.sessions->Start(start).status().code(), absl::StatusCode::kAborted);
}

TEST(TransferTest, RequestsThatCannotBeAreRefused) {
  Node node;
  v1::TransferRequest request;
  request.set_epoch(7);
  request.set_operation(1);
  request.set_keys(std::string(32, 'k'));
  EXPECT_EQ(node.sessions->Transfer(request).status().code(), absl::StatusCode::kAborted);
  request.set_keys(std::string(33, 'k'));
  EXPECT_EQ(node.sessions->Transfer(request).status().code(), absl::StatusCode::kInvalidArgument);
  request.set_keys(std::string(32 * 257, 'k'));
  EXPECT_EQ(node.sessions->Transfer(request).status().code(), absl::StatusCode::kInvalidArgument);
  request.set_keys(std::string(32, 'k'));
  request.set_operation(0);
  EXPECT_EQ(node.sessions->Transfer(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(TransferTest, NoRoomToLandLeavesTheEpochOpenAndThePinsFree) {
  Node node;
  Worker worker(&node, "w");
  node.blocks.Add(KeyOf(1), Bytes(5000, 1));
  ASSERT_TRUE(worker.Open());
  const TakeLanding full = [](uint64_t) { return absl::ResourceExhaustedError("for the test"); };
  EXPECT_EQ(worker.link->Fetch({KeyOf(1)}, full, absl::Now() + kTestDeadline).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(worker.link->state(), State::kOpen);
  EXPECT_EQ(node.blocks.pins(), 0);
}

TEST(TransferTest, BeyondTheCapWorkersGetTheirBytesOverGrpc) {
  NcclLimits limits = TestLimits();
  limits.max_communicators = 1;
  limits.least_idle = absl::Hours(1);
  Node node(limits);
  node.blocks.Add(KeyOf(1), Bytes(5000, 1));
  Worker first(&node, "first"), second(&node, "second");
  ASSERT_TRUE(first.Open());
  const Fetched fetched = second.Get({KeyOf(1)});
  EXPECT_EQ(second.Read(fetched.blocks[0]), Bytes(5000, 1));
  ASSERT_TRUE(Eventually([&] { return second.link->counts().failures > 0; }));
  EXPECT_TRUE(Contains(second.link->why(), "all 1 communicators")) << second.link->why();
  EXPECT_EQ(first.link->state(), State::kOpen);
}

TEST(TransferTest, AnIdleEpochIsClosedAtBothEndsAndOpensAgainWhenAsked) {
  NcclLimits limits = TestLimits();
  limits.idle_limit = absl::Milliseconds(100);
  Node node;
  Worker worker(&node, "w", limits);
  ASSERT_TRUE(worker.Open());
  EXPECT_TRUE(Eventually([&] { return worker.link->state() == State::kClosed; }));
  EXPECT_TRUE(Eventually([&] { return node.sessions->counts().sessions == 0; }));
  EXPECT_EQ(worker.link->counts().failures, 0);
  EXPECT_TRUE(worker.Open());
}

TEST(TransferTest, WithoutNcclEveryBlockComesOverGrpc) {
  Node node;
  node.blocks.Add(KeyOf(1), Bytes(5000, 1));
  const auto device = EmulatedDevice::Create({.ordinal = 1});
  CopyingFallback fallback(&node.blocks, device.get());
  DeviceFetch fetch(nullptr, &fallback);
  const Fetched fetched = fetch.Fetch({KeyOf(1)}, Allocating(device.get()), absl::Now() + kTestDeadline);
  EXPECT_EQ(device->Read(fetched.blocks[0].extent.address, 5000), Bytes(5000, 1));
}

}  // namespace
}  // namespace kvist::testing
