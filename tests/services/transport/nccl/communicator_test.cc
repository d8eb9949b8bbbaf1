// The life of one communicator between two ends, and each way in which NCCL can fail it: what was submitted ends by its
// deadline with a reason, memory is let go once nothing touches it, and others are not kept waiting.
#include "services/transport/nccl/communicator.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/services/transport/nccl/pair.h"

namespace kvist::testing {
namespace {

using Stage = Communicator::Stage;

size_t CountEntries(const char* folder) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}
size_t Threads() { return CountEntries("/proc/self/task"); }
size_t Descriptors() { return CountEntries("/proc/self/fd"); }

void ExpectMoves(End* node, End* worker, const Pair& pair, size_t size) {
  const std::vector<uint8_t> bytes = Bytes(size, 7);
  Outcome sent, received;
  const auto into = worker->Memory(size);
  pair.node->Submit(Sending(node->Holding(bytes), &sent));
  pair.worker->Submit(Receiving(into, &received));
  EXPECT_TRUE(sent.Wait().ok());
  EXPECT_TRUE(received.Wait().ok());
  EXPECT_EQ(worker->device->Read(into->base(), size), bytes);
}

TEST(CommunicatorTest, BytesArriveAsTheyWere) {
  End node, worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ExpectMoves(&node, &worker, pair, 3 << 20);
}

TEST(CommunicatorTest, ManyExtentsOfManyOperationsArriveInOrder) {
  End node, worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  const std::vector<uint8_t> bytes = Bytes(1 << 20, 3);
  const auto from = node.Holding(bytes);
  const auto into = worker.Memory(bytes.size());
  constexpr uint64_t kPiece = 4096;
  std::vector<Outcome> outcomes(32);
  uint64_t at = 0;
  for (int i = 0; i < 16; ++i) {
    Operation send = Sending(from, &outcomes[2 * i]), receive = Receiving(into, &outcomes[2 * i + 1]);
    send.extents.clear();
    receive.extents.clear();
    for (int j = 0; j < 16; ++j, at += kPiece) {
      send.extents.push_back({from->base() + at, kPiece});
      receive.extents.push_back({into->base() + at, kPiece});
    }
    pair.worker->Submit(std::move(receive));
    pair.node->Submit(std::move(send));
  }
  for (Outcome& outcome : outcomes) EXPECT_TRUE(outcome.Wait().ok());
  EXPECT_EQ(worker.device->Read(into->base(), bytes.size()), bytes);
}

TEST(CommunicatorTest, AnOperationWaitsForTheEventThatItNames) {
  End node, worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  const std::vector<uint8_t> bytes = Bytes(65536, 9);
  const auto pinned = *node.device->AllocatePinned(bytes.size());
  std::copy(bytes.begin(), bytes.end(), pinned->bytes().begin());
  const auto from = node.Memory(bytes.size()), into = worker.Memory(bytes.size());
  const auto staging = *node.device->NewStream();
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.node) && IsReady(pair.worker); }));
  node.device->Hold();
  ASSERT_TRUE(staging->CopyToDevice(from->base(), pinned->bytes()).ok());
  Outcome sent, received;
  Operation send = Sending(from, &sent);
  send.after = *staging->Record();
  pair.node->Submit(std::move(send));
  pair.worker->Submit(Receiving(into, &received));
  node.device->Resume();
  EXPECT_TRUE(received.Wait().ok());
  EXPECT_EQ(worker.device->Read(into->base(), bytes.size()), bytes);
}

TEST(CommunicatorTest, CloseCarriesOutWhatWasSubmittedAndRefusesMore) {
  End node, worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.node) && IsReady(pair.worker); }));
  Outcome sent, received, late;
  pair.node->Submit(Sending(node.Holding(Bytes(65536, 1)), &sent));
  pair.worker->Submit(Receiving(worker.Memory(65536), &received));
  pair.node->Close();
  pair.worker->Close();
  pair.node->Submit(Sending(node.Memory(64), &late));
  EXPECT_TRUE(sent.Wait().ok());
  EXPECT_TRUE(received.Wait().ok());
  EXPECT_EQ(late.Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Eventually([&] { return pair.node->gone() && pair.worker->gone(); }));
  EXPECT_EQ(pair.node->stage(), Stage::kClosed);
}

TEST(CommunicatorTest, InitThatNeverCompletesEndsByTheDeadline) {
  NcclLimits limits = TestLimits();
  limits.open_limit = absl::Milliseconds(100);
  End node(limits), worker;
  node.shim.Set("hang_init", 1);
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  Outcome sent;
  pair.node->Submit(Sending(node.Memory(64), &sent));
  EXPECT_EQ(sent.Wait().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(Eventually([&] { return pair.node->gone(); }));
  EXPECT_TRUE(Eventually([&] { return node.shim.communicators() == 0; }));
}

TEST(CommunicatorTest, AnInitCallThatDoesNotReturnIsLeftBehindAndComesBackAborted) {
  NcclLimits limits = TestLimits();
  limits.call_limit = absl::Milliseconds(100);
  End node(limits), worker;
  node.shim.Set("hang_init", 2);
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  Outcome sent;
  pair.node->Submit(Sending(node.Memory(64), &sent));
  EXPECT_EQ(sent.Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(pair.node->left_behind(), 1);
  node.shim.Set("hang_init", 0);
  EXPECT_TRUE(Eventually([&] { return pair.node->gone(); }));
  EXPECT_TRUE(Eventually([&] { return node.shim.communicators() == 0; }));
}

TEST(CommunicatorTest, AnIdThatNeverComesIsReported) {
  NcclLimits limits = TestLimits();
  limits.call_limit = absl::Milliseconds(100);
  End node(limits), worker;
  node.shim.Set("hang_id", 1);
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  EXPECT_EQ(pair.worker, nullptr);
  EXPECT_EQ(pair.node->stage(), Stage::kBroken);
  node.shim.Set("hang_id", 0);
  EXPECT_TRUE(Eventually([&] { return pair.node->gone(); }));
}

TEST(CommunicatorTest, AHangInsideACallIsEndedByAnAbortFromOutside) {
  NcclLimits limits = TestLimits();
  limits.call_limit = absl::Milliseconds(100);
  End node(limits), worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.node); }));
  node.shim.Set("hang_group_end", 1);
  Outcome sent;
  pair.node->Submit(Sending(node.Memory(64), &sent));
  EXPECT_EQ(sent.Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Eventually([&] { return pair.node->gone(); }));
  EXPECT_EQ(pair.node->left_behind(), 0);
  EXPECT_TRUE(Eventually([&] { return node.device->allocated_bytes() == 0; }));
}

TEST(CommunicatorTest, MemoryStaysHeldWhileAThreadIsStuckWithIt) {
  NcclLimits limits = TestLimits();
  limits.call_limit = absl::Milliseconds(100);
  End node(limits), worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.node); }));
  node.shim.Set("hang_group_end", 2);
  Outcome sent;
  pair.node->Submit(Sending(node.Memory(64), &sent));
  EXPECT_EQ(sent.Wait().code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(Eventually([&] { return pair.node->left_behind() == 1; }));  // the abort itself has returned
  EXPECT_EQ(node.device->allocated_bytes(), 64);
  node.shim.Set("hang_group_end", 0);
  EXPECT_TRUE(Eventually([&] { return node.device->allocated_bytes() == 0 && pair.node->gone(); }));
}

TEST(CommunicatorTest, AnAbortThatDoesNotReturnKeepsNobody) {
  NcclLimits limits = TestLimits();
  limits.call_limit = absl::Milliseconds(100);
  limits.close_limit = absl::Milliseconds(100);
  End worker;
  End node(limits);
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.node); }));
  node.shim.Set("hang_abort", 1);
  pair.node->Abort(absl::AbortedError("for the test"));
  EXPECT_TRUE(Eventually([&] { return pair.node->left_behind() == 1; }));
  node.communicators.reset();  // returns, though the thread does not
  EXPECT_EQ(pair.node->left_behind(), 1);
}

TEST(CommunicatorTest, AnAsyncErrorEndsWhatMovesWithItsText) {
  End node, worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  Outcome received;
  pair.worker->Submit(Receiving(worker.Memory(1 << 20), &received));  // nobody sends
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.worker); }));
  worker.shim.Set("async_error", nccl::kRemoteError);
  const absl::Status status = received.Wait();
  EXPECT_NE(status.message().find("remote process exited"), std::string::npos) << status;
  EXPECT_TRUE(Eventually([&] { return pair.worker->gone() && worker.device->allocated_bytes() == 0; }));
}

TEST(CommunicatorTest, TwoRanksOnOneGpuAreRefusedWithTheLibrarysOwnWords) {
  End node, worker;
  worker.shim.Set("duplicate_gpu", 1);
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return pair.worker->gone(); }));
  EXPECT_NE(pair.worker->error().message().find("Duplicate GPU detected"), std::string::npos) << pair.worker->error();
}

TEST(CommunicatorTest, ATransferThatIsTooSlowEndsByItsDeadlineAndGivesItsMemoryBack) {
  End node, worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.node) && IsReady(pair.worker); }));
  node.shim.Set("bytes_per_ms", 16);
  Outcome sent, received;
  pair.node->Submit(Sending(node.Memory(8 << 20), &sent, absl::Milliseconds(100)));
  // With a deadline of its own it might be first, and what the sender then sees is the end of its peer.
  pair.worker->Submit(Receiving(worker.Memory(8 << 20), &received));
  EXPECT_EQ(sent.Wait().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(received.Wait().ok());
  EXPECT_TRUE(Eventually([&] { return node.device->allocated_bytes() + worker.device->allocated_bytes() == 0; }));
}

TEST(CommunicatorTest, AnAbortOfOneEndIsSeenByTheOther) {
  End node, worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.node) && IsReady(pair.worker); }));
  Outcome received;
  pair.worker->Submit(Receiving(worker.Memory(64), &received));
  pair.node->Abort(absl::AbortedError("for the test"));
  EXPECT_FALSE(received.Wait().ok());
  EXPECT_TRUE(Eventually([&] { return pair.node->gone() && pair.worker->gone(); }));
}

TEST(CommunicatorTest, AFailedDeviceEndsWhatMoves) {
  End node, worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  Outcome received;
  pair.worker->Submit(Receiving(worker.Memory(64), &received));
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.worker); }));
  worker.device->Fail("for the test");
  EXPECT_EQ(received.Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Eventually([&] { return pair.worker->gone(); }));
}

TEST(CommunicatorsTest, AStuckPeerKeepsNoOtherTransferWaiting) {
  End node, stuck, worker;
  const Pair held = OpenPair(node.communicators.get(), stuck.communicators.get());
  Outcome never;
  held.node->Submit(Sending(node.Memory(8 << 20), &never));  // nobody receives
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ExpectMoves(&node, &worker, pair, 1 << 20);
  EXPECT_FALSE(never.ready());
}

TEST(CommunicatorsTest, BeyondTheCapTheIdlestIsClosedAndTheNextTryFits) {
  NcclLimits limits = TestLimits();
  limits.max_communicators = 2;
  End node(limits), worker;
  const Pair oldest = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(oldest.node); }));
  const Pair newer = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(newer.node); }));
  EXPECT_EQ(node.communicators->Open({0, 2, std::nullopt, nullptr}).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Eventually([&] { return node.communicators->Open({0, 2, std::nullopt, nullptr}).ok(); }));
  EXPECT_EQ(oldest.node->stage(), Stage::kClosed);
  EXPECT_EQ(node.communicators->counts().closed_idle, 1) << "however often it was tried meanwhile";
  EXPECT_TRUE(IsReady(newer.node));
}

TEST(CommunicatorsTest, ABusyCommunicatorIsNotClosedForAnother) {
  NcclLimits limits = TestLimits();
  limits.max_communicators = 1;
  End node(limits), worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  ASSERT_TRUE(Eventually([&] { return IsReady(pair.node); }));
  Outcome sent;
  pair.node->Submit(Sending(node.Memory(8 << 20), &sent));
  EXPECT_EQ(node.communicators->Open({0, 2, std::nullopt, nullptr}).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(IsReady(pair.node));
}

TEST(CommunicatorsTest, AnIdleCommunicatorIsClosed) {
  NcclLimits limits = TestLimits();
  limits.idle_limit = absl::Milliseconds(50);
  End node(limits), worker;
  const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
  EXPECT_TRUE(Eventually([&] { return pair.node->gone(); }));
  EXPECT_EQ(pair.node->stage(), Stage::kClosed);
  EXPECT_TRUE(Eventually([&] { return node.communicators->counts().live == 0; }));
}

TEST(CommunicatorsTest, TooManyStuckThreadsEndTheUseOfNcclUntilTheyReturn) {
  NcclLimits limits = TestLimits();
  limits.call_limit = absl::Milliseconds(50);
  limits.max_left_behind = 2;
  End node(limits), worker;
  node.shim.Set("hang_id", 1);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(node.communicators->Open({0, 2, std::nullopt, nullptr}).ok());
  ASSERT_TRUE(Eventually([&] { return node.communicators->counts().left_behind == 2; }));
  const absl::Status refused = node.communicators->Open({0, 2, std::nullopt, nullptr}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(refused.message().find("2 threads are stuck inside NCCL"), std::string::npos) << refused;
  node.shim.Set("hang_id", 0);
  EXPECT_TRUE(Eventually([&] { return node.communicators->Open({0, 2, std::nullopt, nullptr}).ok(); }));
}

TEST(CommunicatorsTest, ASliceOfAGpuIsRefused) {
  Shim shim;
  const auto device = EmulatedDevice::Create({.mig = true});
  Communicators communicators(shim.library(), device.get(), TestLimits());
  EXPECT_EQ(communicators.Open({0, 2, std::nullopt, nullptr}).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(CommunicatorsTest, AThousandLivesLeaveNothingBehind) {
  End node, worker;
  const auto live_once = [&] {
    const Pair pair = OpenPair(node.communicators.get(), worker.communicators.get());
    ExpectMoves(&node, &worker, pair, 4096);
    pair.node->Close();
    pair.worker->Close();
    ASSERT_TRUE(Eventually([&] { return pair.node->gone() && pair.worker->gone(); }));
  };
  const auto at_rest = [&] {
    return Eventually([&] { return node.communicators->counts().live + worker.communicators->counts().live == 0; });
  };
  live_once();
  ASSERT_TRUE(at_rest());
  const size_t threads = Threads(), descriptors = Descriptors();
  for (int i = 0; i < 1000; ++i) live_once();
  ASSERT_TRUE(at_rest());
  EXPECT_TRUE(Eventually([&] { return Threads() <= threads && Descriptors() <= descriptors; }))
      << Threads() << " threads, were " << threads << "; " << Descriptors() << " descriptors, were " << descriptors;
  EXPECT_EQ(node.device->allocated_bytes() + worker.device->allocated_bytes(), 0);
  EXPECT_EQ(node.shim.communicators() + worker.shim.communicators(), 0);
  EXPECT_EQ(node.communicators->counts().closed, 1001);
}

}  // namespace
}  // namespace kvist::testing
