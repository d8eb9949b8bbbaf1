// Goal: a node joins step by step, says why it is not ready, drains and leaves; resting blocks are scrubbed.
// Method: NodeCore on a manual clock with a membership made up by the test, which notes every record it is given.
#include "services/node/node_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/services/node/local_node.h"

namespace kvist {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::LocalNode;
using testing::ManualRuntime;
using testing::TestKey;
using testing::WaitFor;

class FakeMembership final : public Membership {
 public:
  explicit FakeMembership(std::vector<Node> others) { view_.nodes = std::move(others); }

  std::shared_ptr<const View> view() const override {
    std::lock_guard lock(mutex_);
    return has_view_ ? std::make_shared<const View>(view_) : nullptr;
  }
  void Watch(std::function<void(std::shared_ptr<const View>)> watcher) override {}
  absl::Status Register(const Node& self, absl::Time deadline) override {
    std::lock_guard lock(mutex_);
    ++attempts_;
    if (!register_error_.empty()) return absl::DeadlineExceededError(register_error_);
    registered_ = true;
    return Set(self);
  }
  absl::Status Update(const Node& self, absl::Time deadline) override {
    std::lock_guard lock(mutex_);
    if (update_fails_) return absl::DeadlineExceededError("no answer");
    return Set(self);
  }
  absl::Status Leave(absl::Time deadline) override {
    std::lock_guard lock(mutex_);
    std::erase_if(view_.nodes, [](const Node& node) { return node.id.value == "n0"; });
    ++view_.number.value;
    records_.push_back("left");
    registered_ = false;
    return absl::OkStatus();
  }
  MembershipHealth health() const override {
    std::lock_guard lock(mutex_);
    MembershipHealth health;
    health.registered = registered_;
    return health;
  }

  std::vector<std::string> records() const {
    std::lock_guard lock(mutex_);
    return records_;
  }
  int attempts() const {
    std::lock_guard lock(mutex_);
    return attempts_;
  }
  Node record() const {
    std::lock_guard lock(mutex_);
    const Node* self = view_.Find({"n0"});
    if (self != nullptr) return *self;
    Node none;
    none.state = NodeState::kJoining;
    none.ramp = 0;
    return none;
  }
  void FailRegister(std::string error) {
    std::lock_guard lock(mutex_);
    register_error_ = std::move(error);
  }
  void FailUpdates(bool fails) {
    std::lock_guard lock(mutex_);
    update_fails_ = fails;
  }
  void KeepNoStates() { keeps_states_ = false; }  // as a cluster file
  void HideView() { has_view_ = false; }          // until the first registration

 private:
  absl::Status Set(const Node& self) {
    records_.push_back(absl::StrCat(std::string(NodeStateName(self.state)), " ", self.ramp));
    std::erase_if(view_.nodes, [&](const Node& node) { return node.id == self.id; });
    view_.nodes.push_back(self);
    if (!keeps_states_) view_.nodes.back().state = NodeState::kServing;
    ++view_.number.value;
    has_view_ = true;
    return absl::OkStatus();
  }

  mutable std::mutex mutex_;
  View view_;
  bool has_view_ = true, keeps_states_ = true, registered_ = false, update_fails_ = false;
  int attempts_ = 0;
  std::string register_error_;
  std::vector<std::string> records_;
};

Node Other(NodeState state = NodeState::kServing) {
  Node node;
  node.id.value = "n1";
  node.address = {"127.0.0.1", 7001};
  node.state = state;
  return node;
}

class NodeCoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<NodeCore> Create(Membership* membership) {
    options_.id.value = "n0";
    options_.capacity_bytes = LocalNode::kCapacity;
    options_.prefault = false;
    auto core = NodeCore::Create(options_, &runtime_, nullptr, membership);
    EXPECT_TRUE(core.ok()) << core.status();
    return *std::move(core);
  }
  void Start(NodeCore* core) { core->Start({"127.0.0.1", 7000}, {"127.0.0.1", 9000}); }
  // Lets time pass until `holds`.
  bool Pass(const std::function<bool()>& holds, absl::Duration step = absl::Milliseconds(500)) {
    return WaitFor([&] {
      if (holds()) return true;
      runtime_.Advance(step);
      return false;
    });
  }
  absl::Status Put(NodeCore* core, const Key& key) {
    const auto channel = NewLocalChannel(core->handlers(), &runtime_);
    const std::string block = testing::TestBlock(key, 10, 1);
    auto stream = channel->Put(testing::ReserveFor(key, block.size()), runtime_.Now() + absl::Seconds(10));
    if (!stream.ok()) return stream.status();
    if (absl::Status status =
            (*stream)->Write(0, absl::MakeSpan(reinterpret_cast<const uint8_t*>(block.data()), block.size()));
        !status.ok()) {
      return status;
    }
    return (*stream)->Commit(block.size()).status();
  }

  static double Figure(NodeCore& core, const std::string& name) {
    return testing::Figure(core.metrics()->Expose(), name);
  }

  ManualRuntime runtime_;
  NodeCoreOptions options_;
};

TEST_F(NodeCoreTest, AJoiningNodeRampsThenWaitsForTheWindowThenServes) {
  FakeMembership membership({Other()});
  const auto core = Create(&membership);
  EXPECT_EQ(core->status().why_not, "the node is starting");
  const absl::Time begin = runtime_.Now();
  Start(core.get());
  ASSERT_TRUE(Pass([&] { return membership.record().ramp == 1; }));
  EXPECT_TRUE(core->status().ready);
  EXPECT_GE(runtime_.Now() - begin, absl::Seconds(27));
  EXPECT_EQ(membership.record().state, NodeState::kJoining);
  ASSERT_TRUE(Pass([&] { return membership.record().state == NodeState::kServing; }));
  EXPECT_GE(runtime_.Now() - begin, absl::Seconds(60));
  EXPECT_THAT(membership.records(),
              ElementsAre("joining 0.1", "joining 0.2", "joining 0.3", "joining 0.4", "joining 0.5", "joining 0.6",
                          "joining 0.7", "joining 0.8", "joining 0.9", "joining 1", "serving 1"));
  EXPECT_EQ(membership.record().address.ToString(), "127.0.0.1:7000");
  EXPECT_EQ(membership.record().http.ToString(), "127.0.0.1:9000");
  EXPECT_EQ(membership.record().capacity_bytes, LocalNode::kCapacity);
  EXPECT_DOUBLE_EQ(membership.record().weight, 8.0 / 1024);
  EXPECT_EQ(Figure(*core, "kvist_view"), 11);
  EXPECT_EQ(Figure(*core, "kvist_state{state=\"serving\"}"), 1);
  EXPECT_EQ(Figure(*core, "kvist_state{state=\"joining\"}"), 0);
  EXPECT_EQ(Figure(*core, "kvist_ready"), 1);
}

TEST_F(NodeCoreTest, TheFirstNodeOfAClusterServesAtOnce) {
  FakeMembership empty({});
  const auto core = Create(&empty);
  Start(core.get());
  ASSERT_TRUE(WaitFor([&] { return core->status().ready; }));
  EXPECT_THAT(empty.records(), ElementsAre("serving 1"));
  // The same if its view comes with the registration only.
  FakeMembership unseen({});
  unseen.HideView();
  const auto second = Create(&unseen);
  Start(second.get());
  ASSERT_TRUE(WaitFor([&] { return unseen.record().state == NodeState::kServing && unseen.attempts() == 1; }));
  EXPECT_THAT(unseen.records(), ElementsAre("joining 0.1", "serving 1"));
}

TEST_F(NodeCoreTest, AmongNodesThatAllJoinNobodyWaits) {
  FakeMembership membership({Other(NodeState::kJoining)});
  const auto core = Create(&membership);
  Start(core.get());
  ASSERT_TRUE(WaitFor([&] { return membership.record().state == NodeState::kServing && core->status().ready; }));
}

TEST_F(NodeCoreTest, WithoutItsSourceTheNodeIsNotReadySaysSoAndGoesOnTrying) {
  FakeMembership membership({Other()});
  membership.FailRegister("etcd at 10.0.0.1:2379 does not answer");
  const auto core = Create(&membership);
  Start(core.get());
  ASSERT_TRUE(Pass([&] { return membership.attempts() >= 3; }));
  EXPECT_FALSE(core->status().ready);
  EXPECT_THAT(core->status().why_not, HasSubstr("no member of the cluster yet"));
  EXPECT_THAT(core->status().why_not, HasSubstr("etcd at 10.0.0.1:2379 does not answer"));
  membership.FailRegister("");
  EXPECT_TRUE(Pass([&] { return core->status().ready; }));
}

TEST_F(NodeCoreTest, AStateThatTheSourceDidNotTakeIsToldAgain) {
  FakeMembership membership({Other()});
  const auto core = Create(&membership);
  membership.FailUpdates(true);
  Start(core.get());
  ASSERT_TRUE(Pass([&] { return core->status().state == NodeState::kServing; }));
  EXPECT_THAT(membership.records(), ElementsAre("joining 0.1"));
  EXPECT_TRUE(core->status().ready);
  membership.FailUpdates(false);
  EXPECT_TRUE(Pass([&] { return membership.record().state == NodeState::kServing; }));
}

TEST_F(NodeCoreTest, WithAClusterFileTheNodeServesAtOnceAndCannotBeDrainedByRpc) {
  FakeMembership membership({Other()});
  membership.KeepNoStates();
  const auto core = Create(&membership);
  EXPECT_EQ(core->status().state, NodeState::kJoining);
  Start(core.get());
  ASSERT_TRUE(WaitFor([&] { return core->status().state == NodeState::kServing && core->status().ready; }));
  v1::DrainRequest drain;
  drain.set_start(true);
  const auto answer = core->handlers()->Drain(Caller::Anyone(), drain);
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("the members stand in a file"));
  core->DrainAndLeave(runtime_.Now() + absl::Seconds(10));
  EXPECT_TRUE(core->status().left);
}

class DrainTest : public NodeCoreTest {
 protected:
  DrainTest() {
    options_.drain_deadline = absl::Seconds(20);
    options_.make_hooks = [this](const NodeParts& parts) {
      EXPECT_EQ(parts.self.value, "n0");
      Hooks hooks;
      hooks.drain = [this](const v1::DrainRequest& request) {
        std::lock_guard lock(mutex_);
        if (request.start()) started_.push_back(request);
        v1::DrainResponse progress;
        if (sent_ < 3) progress.set_phase(v1::DrainResponse::PHASE_HANDING_OVER);
        progress.set_blocks(3);
        progress.set_sent_blocks(sent_);
        return progress;
      };
      return hooks;
    };
    core_ = Create(&membership_);
    Start(core_.get());
    EXPECT_TRUE(Pass([&] { return membership_.record().state == NodeState::kServing; }));
  }
  void Sent(uint64_t blocks) {
    std::lock_guard lock(mutex_);
    sent_ = blocks;
  }
  v1::DrainResponse Progress(bool start = false, uint64_t deadline_ms = 0, uint64_t budget_bytes = 0) {
    v1::DrainRequest request;
    request.set_start(start);
    request.set_deadline_ms(deadline_ms);
    request.set_budget_bytes(budget_bytes);
    const auto response = core_->handlers()->Drain(Caller::Anyone(), request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *response : v1::DrainResponse();
  }
  std::vector<v1::DrainRequest> started() {
    std::lock_guard lock(mutex_);
    return started_;
  }

  FakeMembership membership_{{Other()}};
  std::mutex mutex_;
  uint64_t sent_ = 0;
  std::vector<v1::DrainRequest> started_;
  std::unique_ptr<NodeCore> core_;
};

TEST_F(DrainTest, AnOperatorsDrainHandsOverLeavesAndThenSaysThatItIsTimeToStop) {
  std::atomic<bool> left = false;
  core_->OnLeft([&] { left = true; });
  EXPECT_EQ(Progress().phase(), v1::DrainResponse::PHASE_UNSPECIFIED);
  EXPECT_TRUE(started().empty());
  const absl::Time begun = runtime_.Now();
  EXPECT_EQ(Progress(true, 5'000, 1 << 20).phase(), v1::DrainResponse::PHASE_HANDING_OVER);
  ASSERT_TRUE(WaitFor([&] { return Progress().blocks() == 3; }));
  ASSERT_EQ(started().size(), 1);
  EXPECT_EQ(started()[0].deadline_ms(), 5'000);
  EXPECT_EQ(started()[0].budget_bytes(), 1 << 20);
  EXPECT_EQ(membership_.record().state, NodeState::kDraining);
  EXPECT_EQ(core_->status().why_not, "the node is draining");
  EXPECT_EQ(Put(core_.get(), TestKey(1)).code(), absl::StatusCode::kFailedPrecondition);
  Sent(2);
  // A second start changes nothing. By small steps: the node may look at the clock before or after each.
  ASSERT_TRUE(Pass([&] { return Progress(true).sent_blocks() == 2; }, absl::Milliseconds(10)));
  EXPECT_GT(runtime_.Now(), begun);
  EXPECT_EQ(Progress().left_ms(), 5'000 - absl::ToInt64Milliseconds(runtime_.Now() - begun));
  EXPECT_FALSE(core_->status().left);
  Sent(3);
  ASSERT_TRUE(Pass([&] { return Progress().phase() == v1::DrainResponse::PHASE_LEFT; }, absl::Milliseconds(100)));
  EXPECT_EQ(Progress().sent_blocks(), 3);
  EXPECT_EQ(membership_.records().back(), "left");
  EXPECT_TRUE(Pass([&] { return left.load(); }));
  EXPECT_EQ(started().size(), 1);
}

TEST_F(DrainTest, ItsProgressIsLoggedAndStandsInTheMetrics) {
  const auto figure = [&](const std::string& state) {
    return testing::Figure(core_->metrics()->Expose(), "kvist_drain_blocks{state=\"" + state + "\"}");
  };
  EXPECT_EQ(figure("planned"), 0);
  ::testing::internal::CaptureStderr();
  std::thread stopping([&] { core_->DrainAndLeave(runtime_.Now() + absl::Minutes(10)); });  // as SIGTERM does
  EXPECT_TRUE(WaitFor([&] { return figure("planned") == 3; }));
  EXPECT_EQ(figure("sent"), 0);
  Sent(1);
  runtime_.Advance(absl::Seconds(5));
  EXPECT_TRUE(WaitFor([&] { return figure("sent") == 1; }));
  Sent(3);
  EXPECT_TRUE(Pass([&] { return core_->status().left; }, absl::Milliseconds(100)));
  stopping.join();
  EXPECT_EQ(figure("sent"), 3);
  EXPECT_EQ(figure("failed"), 0);
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr(R"("event":"handing over","blocks":"3","sent_blocks":"0","failed_blocks":"0")"));
  EXPECT_THAT(log, HasSubstr(R"("event":"handing over","blocks":"3","sent_blocks":"1")"));
  EXPECT_THAT(log, HasSubstr(R"("event":"handed over","blocks":"3","sent_blocks":"3")"));
}

TEST_F(DrainTest, AHandOverThatDoesNotEndIsLeftAtItsDeadline) {
  const absl::Time begin = runtime_.Now();
  ::testing::internal::CaptureStderr();
  std::thread stopping([&] { core_->DrainAndLeave(runtime_.Now() + absl::Minutes(10)); });
  EXPECT_TRUE(Pass([&] { return core_->status().left; }));
  stopping.join();
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("the hand-over did not end in time"));
  EXPECT_EQ(started()[0].deadline_ms(), 20'000);
  EXPECT_EQ(started()[0].budget_bytes(), LocalNode::kCapacity / 2);
  EXPECT_GE(runtime_.Now() - begin, absl::Seconds(20));
  EXPECT_LT(runtime_.Now() - begin, absl::Seconds(30));
}

TEST_F(DrainTest, AStopInTheMiddleOfADrainDoesNotWaitForIt) {
  Sent(2);
  Progress(true);
  ASSERT_TRUE(WaitFor([&] { return !started().empty(); }));
  ::testing::internal::CaptureStderr();
  core_->Stop();
  EXPECT_EQ(core_->status().why_not, "the node is stopping");
  core_ = nullptr;  // joins its threads while the clock stands still
  EXPECT_THAT(
      ::testing::internal::GetCapturedStderr(),
      HasSubstr(R"("event":"the hand-over was interrupted","blocks":"3","sent_blocks":"2","failed_blocks":"0")"));
  EXPECT_EQ(membership_.records().back(), "draining 1");  // its record ends with its lease
}

TEST_F(NodeCoreTest, ANodeByItselfIsReadyAndHasNobodyToHandItsBlocksTo) {
  const auto core = Create(nullptr);
  Start(core.get());
  EXPECT_TRUE(core->status().ready);
  v1::DrainRequest drain;
  drain.set_start(true);
  EXPECT_THAT(std::string(core->handlers()->Drain(Caller::Anyone(), drain).status().message()), HasSubstr("by itself"));
  core->DrainAndLeave(runtime_.Now() + absl::Seconds(10));
  EXPECT_TRUE(core->status().left);
}

TEST_F(NodeCoreTest, TheScrubFindsAFlippedBitAtItsRateAndTellsTheHook) {
  std::mutex mutex;
  std::vector<Key> damaged;
  options_.scrub_rate = 1 << 20;
  options_.make_hooks = [&](const NodeParts&) {
    Hooks hooks;
    hooks.damaged = [&](const Key& key, const BlockTraits&) {
      std::lock_guard lock(mutex);
      damaged.push_back(key);
    };
    return hooks;
  };
  const auto core = Create(nullptr);
  for (uint8_t i = 1; i <= 100; ++i) ASSERT_TRUE(Put(core.get(), TestKey(i)).ok());  // 40 KB each: 4 s at that rate
  ASSERT_TRUE(core->store()->host().FlipBitsForTest(TestKey(77), 30'000, 0x80));
  const absl::Time begin = runtime_.Now();
  Start(core.get());
  ASSERT_TRUE(Pass([&] { return Figure(*core, "kvist_scrubbed_blocks_total") == 100; }, absl::Milliseconds(20)));
  EXPECT_GE(runtime_.Now() - begin, absl::Seconds(13.5));  // the pause and 99 blocks
  EXPECT_EQ(Figure(*core, "kvist_damaged_blocks_total{found_by=\"scrub\"}"), 1);
  EXPECT_EQ(core->store()->Stats()->blocks, 99);
  EXPECT_EQ(core->store()->Get(TestKey(77), false)->miss, MissReason::kDamaged);
  std::lock_guard lock(mutex);
  EXPECT_THAT(damaged, ElementsAre(TestKey(77)));
}

TEST_F(NodeCoreTest, LeasesEndByTheTimerWithoutAnyCall) {
  const auto core = Create(nullptr);
  Start(core.get());
  ASSERT_TRUE(Put(core.get(), TestKey(1)).ok());
  v1::MatchRequest match;
  match.add_chains()->set_keys(testing::KeyBytes(TestKey(1)));
  match.set_lease_ms(2'000);
  ASSERT_NE(core->handlers()->Match(Caller::Anyone(), match)->chains(0).lease(), 0);
  EXPECT_EQ(Figure(*core, "kvist_leases{tier=\"host\"}"), 1);
  runtime_.Advance(absl::Seconds(3));
  EXPECT_TRUE(WaitFor([&] { return Figure(*core, "kvist_expired_leases_total{tier=\"host\"}") == 1; }));
}

}  // namespace
}  // namespace kvist
