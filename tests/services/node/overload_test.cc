// Goal: a node beyond its limits refuses early and says when to come again; what was taken goes on, and nobody holds
// pinned bytes for ever.
// Method: handlers with small limits on a manual clock; for the slow reader also a real node on loopback and a real
// gRPC client that stops reading.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <string>
#include <thread>
#include <vector>

#include "services/transport/retry_hint.h"
#include "tests/services/node/local_node.h"

namespace kvist {
namespace {

using testing::GetBlocks;
using testing::GetRequestFor;
using ::testing::HasSubstr;
using testing::LocalNode;
using testing::ReserveFor;
using testing::TestBlock;
using testing::TestKey;

void ExpectBusy(const absl::Status& status, const std::string& why) {
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  const std::optional<absl::Duration> hint = RetryHint(status);
  ASSERT_TRUE(hint.has_value()) << status;
  EXPECT_GE(*hint, absl::Milliseconds(20));
  EXPECT_LE(*hint, absl::Seconds(2));
}

TEST(OverloadTest, GetsBeyondTheLimitAreRefusedAndTheNextIsTakenWhenOneEnds) {
  AdmissionLimits limits;
  limits.gets = 2;
  LocalNode node(limits);
  std::vector<std::unique_ptr<GetSession>> open;
  for (int i = 0; i < 2; ++i)
    open.push_back(*node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node.In(60)));
  ExpectBusy(node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node.In(60)).status(),
             "2 Gets are under way");
  EXPECT_EQ(node.Figure("kvist_overload_refusals_total{limit=\"gets\"}"), 1);
  EXPECT_EQ(node.Figure("kvist_rpcs_total{code=\"resource_exhausted\",method=\"get\"}"), 1);
  open.pop_back();
  EXPECT_TRUE(node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node.In(60)).ok());
}

TEST(OverloadTest, TheHintGrowsWithTheCrowdAndShrinksWithTheRate) {
  AdmissionLimits limits;
  limits.gets = 1;
  LocalNode node(limits);
  const auto finish = [&](int count) {
    for (int i = 0; i < count; ++i)
      ASSERT_TRUE(node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({}), node.In(60)).ok());
  };
  const auto refuse = [&](int count) {
    const auto open = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({}), node.In(60));
    absl::Duration hint;
    for (int i = 0; i < count; ++i) {
      hint = *RetryHint(node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({}), node.In(60)).status());
    }
    return hint;
  };
  finish(100);  // a hundred a second: fifty wait half a second
  EXPECT_EQ(refuse(50), absl::Milliseconds(500));
  node.runtime.Advance(absl::Seconds(5));
  finish(1000);
  EXPECT_EQ(refuse(50), absl::Milliseconds(50));
  node.runtime.Advance(absl::Seconds(5));
  EXPECT_EQ(refuse(500), absl::Seconds(2));  // nothing finished lately: the longest
}

TEST(OverloadTest, QueuedBytesAreBoundedAndOneAloneAlwaysPasses) {
  AdmissionLimits limits;
  limits.queued_bytes = 3 << 20;
  LocalNode node(limits);
  const std::string block = TestBlock(TestKey(1), 600, 1);  // 2.4 MB
  ASSERT_TRUE(node.Put(ReserveFor(TestKey(1), block.size()), block).ok());
  const std::vector<Key> many(8, TestKey(1));  // 19 MB
  for (int i = 0; i < 40; ++i) {
    const auto fetched = GetBlocks(node.channel.get(), GetRequestFor(many), node.In(60));
    ASSERT_TRUE(fetched.ok()) << fetched.status();  // alone
  }
  auto first = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor(many), node.In(60));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_GT(node.handlers->load().queued_bytes(), 15u << 20);  // the mean of what was sent, times eight
  ExpectBusy(node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node.In(60)).status(),
             "bytes are still to be sent");
  first->reset();
  EXPECT_EQ(node.handlers->load().queued_bytes(), 0);
}

TEST(OverloadTest, OfGetsThatComeAtOneMomentOnlySoManyPassTheBoundOfQueuedBytes) {
  AdmissionLimits limits;
  limits.queued_bytes = 1000;
  testing::ManualRuntime runtime;
  Admission admission(limits, LocalNode::kCapacity, &runtime, nullptr);
  for (int i = 0; i < 2000; ++i) admission.CountItem(900);  // the mean: one fits, two do not
  std::atomic<int> inside = 0, crowded = 0;
  const auto call = [&] {
    for (int round = 0; round < 500'000; ++round) {
      uint64_t queued_bytes = 0;
      absl::StatusOr<Pass> pass = admission.EnterGet(0, 1, &queued_bytes);
      if (!pass.ok()) continue;
      if (++inside > 1) ++crowded;
      --inside;
      admission.SetQueued(&queued_bytes, 0);
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back(call);
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(crowded, 0);
  EXPECT_EQ(admission.queued_bytes(), 0);
}

TEST(OverloadTest, GetsPinABoundedPartAndOneBlockCountsOnce) {
  AdmissionLimits limits;
  limits.pinned_fraction = 0.25;  // 2 MiB
  LocalNode node(limits);
  for (uint8_t i = 1; i <= 3; ++i) ASSERT_TRUE(node.Put(TestKey(i), 350).ok());  // 1.4 MB each
  std::vector<std::unique_ptr<GetSession>> open;
  const auto pin = [&](uint8_t key) {
    open.push_back(*node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(key)}), node.In(60)));
    return open.back()->Next().status();
  };
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(pin(1).ok());  // the same block, ten readers
  ExpectBusy(pin(2), "other Gets pin 14");
  EXPECT_EQ(node.Figure("kvist_overload_refusals_total{limit=\"pinned_bytes\"}"), 1);
  open.clear();
  EXPECT_TRUE(pin(2).ok());
  EXPECT_LT(node.Stats().pinned_bytes, 2u << 20);
}

TEST(OverloadTest, ABlockLargerThanTheBoundIsReadWhenNothingElseIsPinned) {
  AdmissionLimits limits;
  limits.pinned_fraction = 0.1;
  limits.reserved_fraction = 0.1;
  LocalNode node(limits);
  ASSERT_TRUE(node.Put(TestKey(1), 1000).ok());  // 4 MB of 8
  EXPECT_TRUE(GetBlocks(node.channel.get(), GetRequestFor({TestKey(1)}), node.In(60)).ok());
}

TEST(OverloadTest, AGetIsNotInItsOwnWay) {
  AdmissionLimits limits;
  limits.pinned_fraction = 0.25;  // 2 MiB
  LocalNode node(limits);
  for (uint8_t i = 1; i <= 3; ++i) ASSERT_TRUE(node.Put(TestKey(i), 350).ok());  // 1.4 MB each
  auto get = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1), TestKey(2), TestKey(3)}), node.In(60));
  ASSERT_TRUE(get.ok()) << get.status();
  std::vector<GetSession::Message> on_the_wire;  // the parts, with their pins
  while (on_the_wire.empty() || !std::holds_alternative<v1::GetTrailer>(on_the_wire.back())) {
    absl::StatusOr<GetSession::Message> message = (*get)->Next();
    ASSERT_TRUE(message.ok()) << message.status();
    on_the_wire.push_back(*std::move(message));
  }
  auto other = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(2)}), node.In(60));
  EXPECT_TRUE((*other)->Next().ok()) << "a block that is pinned costs nothing more";
  ASSERT_TRUE(node.Put(TestKey(4)).ok());
  auto third = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(4)}), node.In(60));
  ExpectBusy((*third)->Next().status(), "other Gets pin 4");
  on_the_wire.clear();
  other->reset();
  EXPECT_EQ(node.Stats().pinned_bytes, 0);
  third = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(4)}), node.In(60));
  EXPECT_TRUE((*third)->Next().ok());
}

TEST(OverloadTest, PutsAreBoundedInNumberAndInReservedBytes) {
  AdmissionLimits limits;
  limits.puts = 2;
  limits.reserved_fraction = 0.25;  // 2 MiB
  LocalNode node(limits);
  auto first = node.handlers->OpenPut(Caller::Anyone(), node.In(60));
  ASSERT_TRUE(*(*first)->Reserve(ReserveFor(TestKey(1), 3 << 19)));
  auto second = node.handlers->OpenPut(Caller::Anyone(), node.In(60));
  ExpectBusy((*second)->Reserve(ReserveFor(TestKey(2), 1 << 20)).status(), "at most 2097152 are reserved at once");
  auto third = node.handlers->OpenPut(Caller::Anyone(), node.In(60));  // the second has ended with its refusal
  ASSERT_TRUE(third.ok()) << third.status();
  ExpectBusy(node.handlers->OpenPut(Caller::Anyone(), node.In(60)).status(), "2 Puts are under way");
  first->reset();
  third->reset();
  EXPECT_TRUE(node.Put(TestKey(3)).ok());
  EXPECT_EQ(node.Stats().reserved_bytes, 0);
}

TEST(OverloadTest, AStoreWithoutRoomSaysWhenToComeAgain) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 1000).ok());  // 4 MB of 8
  v1::MatchRequest match;
  match.add_chains()->set_keys(GetRequestFor({TestKey(1)}).keys());
  match.set_lease_ms(20'000);
  ASSERT_EQ(node.handlers->Match(Caller::Anyone(), match)->chains(0).hits(), 1);  // and leased: it stays
  auto put = node.handlers->OpenPut(Caller::Anyone(), node.In(60));
  ExpectBusy((*put)->Reserve(ReserveFor(TestKey(2), 6 << 20)).status(), "no room for 6291456 bytes");
  EXPECT_EQ(node.Figure("kvist_overload_refusals_total{limit=\"store_full\"}"), 1);
  EXPECT_EQ(node.Figure("kvist_rpcs_total{code=\"resource_exhausted\",method=\"put\"}"), 1);
}

TEST(OverloadTest, MatchesAreBounded) {
  AdmissionLimits limits;
  limits.matches = 1;
  Hooks hooks;
  LocalNode* inside = nullptr;
  absl::Status second;
  hooks.hot_nodes = [&](const Key&) {
    if (second.ok())
      second = inside->handlers->Match(Caller::Anyone(), v1::MatchRequest()).status();  // while the first is under way
    return std::vector<NodeId>();
  };
  LocalNode node(limits, hooks);
  inside = &node;
  ASSERT_TRUE(node.Put(TestKey(1)).ok());
  v1::MatchRequest request;
  request.add_chains()->set_keys(GetRequestFor({TestKey(1)}).keys());
  ASSERT_TRUE(node.handlers->Match(Caller::Anyone(), request).ok());
  ExpectBusy(second, "1 Matches are under way");
  EXPECT_TRUE(node.handlers->Match(Caller::Anyone(), v1::MatchRequest()).ok());
}

TEST(OverloadTest, ReportsMakeTheNodeReadABoundedAmount) {
  AdmissionLimits limits;
  limits.report_rate = 1 << 20;
  LocalNode node(limits);
  ASSERT_TRUE(node.Put(TestKey(1), 200).ok());  // 0.8 MB
  v1::ReportRequest report;
  report.set_keys(GetRequestFor({TestKey(1)}).keys());
  EXPECT_TRUE(node.channel->Report(report, node.In(1)).ok());
  ExpectBusy(node.channel->Report(report, node.In(1)).status(), "reports made it verify");
  node.runtime.Advance(absl::Seconds(2));
  EXPECT_TRUE(node.channel->Report(report, node.In(1)).ok());
}

TEST(OverloadTest, AReaderThatTakesNothingIsEnded) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 600).ok());
  auto get = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor({TestKey(1)}), node.In(60));
  bool told = false;
  (*get)->OnEnd([&] { told = true; });
  ASSERT_TRUE((*get)->Next().ok());
  node.runtime.Advance(absl::Seconds(9));
  node.handlers->Sweep();
  EXPECT_GT(node.Stats().pinned_bytes, 0);
  node.runtime.Advance(absl::Seconds(1));
  node.handlers->Sweep();
  EXPECT_EQ(node.Stats().pinned_bytes, 0);
  EXPECT_TRUE(told);
  const absl::Status status = (*get)->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the reader took nothing for 10s"));
}

TEST(OverloadTest, AReaderThatTrickleReadsIsEndedAndASteadyOneIsNot) {
  AdmissionLimits limits;
  limits.min_read_rate = 100'000;
  LocalNode node(limits);
  ASSERT_TRUE(node.Put(TestKey(1), 200).ok());  // 0.8 MB: one part an item
  const std::vector<Key> many(100, TestKey(1));
  auto trickle = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor(many), node.In(600));
  auto steady = node.handlers->OpenGet(Caller::Anyone(), GetRequestFor(many), node.In(600));
  bool trickle_ended = false;
  for (int second = 0; second < 60; ++second) {
    if (second % 9 == 0 && !trickle_ended) trickle_ended = !(*trickle)->Next().ok();
    ASSERT_TRUE((*steady)->Next().ok()) << second;
    node.runtime.Advance(absl::Seconds(1));
    node.handlers->Sweep();
  }
  EXPECT_TRUE(trickle_ended);
  EXPECT_EQ(node.Figure("kvist_ended_streams_total{cause=\"slow_reader\"}"), 1);
}

TEST(OverloadTest, AWriterThatSendsNothingIsEndedAndOneThatSendsIsNot) {
  AdmissionLimits limits;
  limits.min_write_rate = 0;
  LocalNode node(limits);
  const std::string block = TestBlock(TestKey(1), 20, 1);
  const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(block.data()), block.size());
  auto idle = node.handlers->OpenPut(Caller::Anyone(), node.In(600)),
       steady = node.handlers->OpenPut(Caller::Anyone(), node.In(600));
  auto silent = node.handlers->OpenPut(Caller::Anyone(), node.In(600));  // does not even reserve
  bool told = false;
  (*idle)->OnEnd([&] { told = true; });
  ASSERT_TRUE(*(*idle)->Reserve(ReserveFor(TestKey(2), 3 << 20)));
  ASSERT_TRUE(*(*steady)->Reserve(ReserveFor(TestKey(1), block.size())));
  for (int i = 0; i < 2; ++i) {
    node.runtime.Advance(absl::Seconds(5));
    ASSERT_TRUE((*steady)->Write(0, bytes.first(1000)).ok());
    EXPECT_GT(node.Stats().reserved_bytes, 3u << 20);
    node.handlers->Sweep();
  }
  EXPECT_TRUE(told);
  EXPECT_LT(node.Stats().reserved_bytes, 1u << 20);
  EXPECT_EQ(node.Figure("kvist_ended_streams_total{cause=\"slow_writer\"}"), 2);
  for (PutSession* ended : {idle->get(), silent->get()}) {
    const absl::Status status = ended->Commit(1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the writer sent nothing for 10s"));
  }
  ASSERT_TRUE((*steady)->Write(0, bytes).ok());
  EXPECT_TRUE((*steady)->Commit(block.size()).ok());
}

TEST(OverloadTest, AWriterThatTricklesIsEndedAndASteadyOneIsNot) {
  AdmissionLimits limits;
  limits.min_write_rate = 10'000;
  LocalNode node(limits);
  auto trickle = node.handlers->OpenPut(Caller::Anyone(), node.In(600)),
       steady = node.handlers->OpenPut(Caller::Anyone(), node.In(600));
  ASSERT_TRUE(*(*trickle)->Reserve(ReserveFor(TestKey(1), 1 << 20)));
  ASSERT_TRUE(*(*steady)->Reserve(ReserveFor(TestKey(2), 1 << 20)));
  const std::vector<uint8_t> bytes(11'000);
  bool told = false;
  (*trickle)->OnEnd([&] { told = true; });
  for (int second = 0; second < 30; ++second) {
    ASSERT_TRUE((*steady)->Write(0, bytes).ok()) << second;
    if (!told) {
      ASSERT_TRUE((*trickle)->Write(0, absl::MakeSpan(bytes).first(9'000)).ok()) << second;
    }
    node.runtime.Advance(absl::Seconds(1));
    node.handlers->Sweep();
    EXPECT_EQ(told, second >= 9) << second;  // not before --write-stall: a slow start is no trickle
  }
  EXPECT_THAT(std::string((*trickle)->Commit(1).status().message()), HasSubstr("the writer sent 90000 bytes in 10s"));
  EXPECT_EQ(node.Figure("kvist_ended_streams_total{cause=\"slow_writer\"}"), 1);
}

// Stops in the middle of a stream until it is let go.
class StuckSink : public GetSink {
 public:
  absl::Status OnHeader(const v1::GetHeader&) override { return absl::OkStatus(); }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t, uint64_t, size_t size_bytes) override {
    std::unique_lock lock(mutex_);
    stuck_ = true;
    changed_.wait(lock, [this] { return go_; });
    place_.resize(size_bytes);
    return absl::MakeSpan(place_);
  }
  bool stuck() {
    std::lock_guard lock(mutex_);
    return stuck_;
  }
  void Go() {
    std::lock_guard lock(mutex_);
    go_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stuck_ = false, go_ = false;
  std::vector<uint8_t> place_;
};

TEST(SlowReaderTest, OverGrpcAReaderThatStopsReadingLosesItsPin) {
  NodeConfig config = testing::TestConfig(16 << 20);
  config.admission.read_stall = absl::Milliseconds(500);
  const auto node = testing::StartNode(config);
  const auto transport = NewGrpcTransport();
  const auto channel = transport->Connect(node->data_address().ToString());
  const auto pinned = [&] { return channel->ServerInfo(testing::In(10))->store().pinned_bytes(); };
  ASSERT_TRUE(testing::PutBlock(channel.get(), TestKey(1), TestBlock(TestKey(1), 1000, 1)).ok());
  StuckSink sink;
  absl::Status ended;
  // More than the connection's window holds, so that the node has to wait for the reader.
  std::thread reader(
      [&] { ended = channel->Get(GetRequestFor(std::vector<Key>(64, TestKey(1))), testing::In(60), &sink).status(); });
  EXPECT_TRUE(testing::WaitFor([&] { return sink.stuck() && pinned() > 0; }));
  EXPECT_TRUE(testing::WaitFor([&] { return pinned() == 0; }));  // while the reader is stuck still
  EXPECT_THAT(testing::HttpGet(node->http_address(), "/metrics"),
              HasSubstr("kvist_ended_streams_total{cause=\"slow_reader\"} 1"));
  sink.Go();
  reader.join();
  EXPECT_FALSE(ended.ok());
  EXPECT_NE(ended.code(), absl::StatusCode::kDeadlineExceeded) << ended;
}

}  // namespace
}  // namespace kvist
