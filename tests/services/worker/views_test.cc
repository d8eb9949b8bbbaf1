// Goal: a client follows a cluster that changes, believes no view that is wrong, and pays once for a node that is
// silent. Method: a client over nodes in memory that tell of views, move, lie, and fall silent; what it asked whom is
// counted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/services/testing/manual_runtime.h"
#include "tests/services/worker/client_fixture.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;

class ViewsTest : public ClientTest {
 protected:
  absl::StatusOr<PrefixMatch> Match() { return client().Match(chain_); }
  // Calls Match until the client holds this view.
  bool Learns(uint64_t number) {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (client().view().number.value != number && absl::Now() < end) {
      EXPECT_TRUE(Match().ok());
      absl::SleepFor(absl::Milliseconds(1));
    }
    return client().view().number.value == number;
  }
  bool Holds(const std::function<bool()>& condition) {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (!condition() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    return condition();
  }
  View Next() {
    View view = client().view();
    ++view.number.value;
    return view;
  }
};

TEST_F(ViewsTest, AReplyThatCarriesANewerViewIsEnough) {
  Put();
  View next = Next();
  next.nodes.erase(next.nodes.begin() + owners_[0]);
  cluster_.Publish(next);
  EXPECT_EQ(Match()->blocks(), kBlocks);  // by the view it began with
  EXPECT_EQ(client().view(), next);
  EXPECT_EQ(client().counters().refreshes, 1u);
  EXPECT_EQ(Match()->blocks(), 0u);  // the new owner of block 0 has nothing
  EXPECT_EQ(Put().failed, 0u);
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(ViewsTest, ANumberInAnotherReplyLeadsToAQuestion) {
  Put();
  cluster_.Publish(Next());
  EXPECT_EQ(Get().blocks, kBlocks);  // trailers carry the number only
  EXPECT_TRUE(Holds([&] { return client().view().number.value == 2; }));
  EXPECT_EQ(client().counters().refreshes, 1u);
}

TEST_F(ViewsTest, AnEraseSaysByWhichViewItIsPlacedAndLearnsOfANewerOne) {
  Put();
  cluster_.Publish(Next());
  EXPECT_EQ(client().Erase(chain_)->erased, kBlocks);
  for (size_t i = 0; i < 3; ++i) {
    for (const v1::EraseRequest& request : cluster_.node(i).erases) EXPECT_EQ(request.view(), 1u);
  }
  EXPECT_TRUE(Holds([&] { return client().view().number.value == 2; }));
}

TEST_F(ViewsTest, LinksOfNodesThatDidNotChangeAreKept) {
  client();
  EXPECT_EQ(cluster_.connections, 3);
  View next = Next();
  next.nodes[1].incarnation = 7;
  next.nodes[2].state = NodeState::kDraining;
  cluster_.Publish(next);
  EXPECT_TRUE(Learns(2));
  EXPECT_EQ(cluster_.connections, 4);
}

TEST_F(ViewsTest, ANodeThatCameBackAtAnotherPortIsFound) {
  Put();
  const size_t moved = owners_[0];
  cluster_.node(moved).port = 2;
  EXPECT_EQ(Match()->blocks(), 0u);
  View next = Next();
  next.nodes[moved].address.port = 2;
  next.nodes[moved].incarnation = 1;
  cluster_.Publish(next);
  EXPECT_TRUE(Learns(2));
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(ViewsTest, AViewThatIsWrongIsRefused) {
  client();
  const View good = client().view();
  std::vector<View> lies(4, Next());
  lies[0].nodes.clear();
  lies[1].nodes[1].id = lies[1].nodes[0].id;
  lies[2].nodes[0].weight = -1;
  for (int i = 0; i < 1100; ++i) {
    Node node = good.nodes[0];
    node.id.value = absl::StrCat("m", i);
    node.address.host = node.id.value;
    lies[3].nodes.push_back(node);
  }
  for (const View& lie : lies) {
    const uint64_t refused = client().counters().refused_views;
    cluster_.Publish(lie);
    EXPECT_TRUE(Match().ok());
    EXPECT_EQ(client().view(), good);
    EXPECT_GT(client().counters().refused_views, refused);
  }
  View older = good;
  older.number.value = 0;
  cluster_.Publish(older);
  EXPECT_TRUE(Match().ok());
  EXPECT_EQ(client().view(), good);
}

TEST_F(ViewsTest, ANodeThatNamesViewsItDoesNotHaveIsNotAskedForEver) {
  Put();
  OwnerOf(0).view = 1000;
  for (int i = 0; i < 200; ++i) EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_LE(OwnerOf(0).Calls("GetView"), 5);
  EXPECT_EQ(client().view().number.value, 1u);
}

TEST_F(ViewsTest, AClientStartsFromAnySeedThatAnswers) {
  cluster_.Publish(cluster_.view());
  cluster_.node(0).down = true;
  cluster_.node(1).SetSilent(true);
  options_.view = View();
  options_.seeds = {"n0:1", "n1:1", "n2:1"};
  const absl::Time start = absl::Now();
  EXPECT_EQ(client().view(), cluster_.view());
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  cluster_.node(1).SetSilent(false);
}

TEST_F(ViewsTest, SeedsThatHaveNoViewYetAreAskedAgain) {
  options_.view = View();
  options_.seeds = {"n0:1"};
  const std::unique_ptr<Thread> later = RealRuntime()->Start([&] {
    FakeNode& seed = cluster_.node(0);
    std::unique_lock lock(seed.mutex);
    seed.changed.wait(lock, [&] { return seed.calls["GetView"] >= 2; });
    seed.cluster = ViewToWire(cluster_.view());
  });
  EXPECT_EQ(client().view(), cluster_.view());
}

TEST_F(ViewsTest, SeedsThatGiveNoViewAreAllNamed) {
  options_.view = View();
  options_.seeds = {"n0:1", "n1:1", "n2:1"};
  options_.deadline = absl::Milliseconds(300);
  cluster_.node(0).down = true;
  cluster_.node(1).SetSilent(true);
  const absl::Status status = Client::Create(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  for (const char* said : {"n0:1: connection refused", "n1:1: ", "n2:1: it has no view yet"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(said));
  }
}

TEST_F(ViewsTest, AClusterWhoseNodesHaveAllMovedIsFoundByItsSeed) {
  options_.seeds = {"n0:2"};
  Put();
  View moved = Next();
  for (size_t i = 0; i < 3; ++i) {
    cluster_.node(i).port = 2;
    moved.nodes[i].address.port = 2;
  }
  cluster_.Publish(moved);
  EXPECT_TRUE(Learns(2));
  EXPECT_EQ(Get().blocks, kBlocks);
}

// All nodes come back at other ports, and their source of views has forgotten how far it had counted.
class NewClusterTest : public ViewsTest {
 protected:
  NewClusterTest() {
    options_.runtime = &runtime_;
    options_.seeds = {"n0:2"};
    options_.view.number.value = 5;
    for (size_t i = 0; i < 3; ++i) cluster_.node(i).view = 5;
  }
  void MoveAll() {
    began_ = options_.view;
    began_.number.value = 2;
    for (size_t i = 0; i < 3; ++i) {
      cluster_.node(i).port = 2;
      began_.nodes[i].address.port = 2;
    }
    cluster_.Publish(began_);
  }
  // Time passes, and a prompt of one block is looked for, whose owner alone is asked. When the new view was taken.
  absl::Duration TakenAfter(absl::Duration most) {
    const absl::Time start = runtime_.Now();
    while (client().view().number.value != 2 && runtime_.Now() - start < most) {
      EXPECT_TRUE(client().Match(absl::MakeConstSpan(chain_).first(1)).ok());
      runtime_.Advance(absl::Milliseconds(100));
      absl::SleepFor(absl::Milliseconds(1));  // the keeper's turn
    }
    return runtime_.Now() - start;
  }

  testing::ManualRuntime runtime_;
  View began_;
};

TEST_F(NewClusterTest, IsFoundByItsSeedWhenAllOfTheOldHaveBeenGoneForHalfAMinute) {
  Put();
  MoveAll();
  EXPECT_GE(TakenAfter(absl::Minutes(30)), absl::Seconds(30));
  EXPECT_EQ(client().view(), began_);
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(NewClusterTest, IsNotTakenWhileANodeOfTheOldLives) {
  Put();
  MoveAll();
  const size_t lives = owners_[BlockOfAnotherOwner()];
  cluster_.node(lives).port = 1;
  EXPECT_GE(TakenAfter(absl::Minutes(3)), absl::Minutes(3));
  EXPECT_EQ(client().view().number.value, 5u);
}

TEST_F(ViewsTest, ASilentNodeCostsOneDeadlineAndNotEachCall) {
  Put();
  options_.deadline = absl::Milliseconds(400);
  NewClient();
  const size_t late = BlockOfAnotherOwner();
  OwnerOf(late).SetSilent(true);
  EXPECT_EQ(Match()->miss(), v1::MISS_REASON_DEADLINE);
  EXPECT_TRUE(Holds([&] { return client().counters().openings == 1; }));
  const int asked = OwnerOf(late).Calls("Match");
  for (int i = 0; i < 100; ++i) {
    const auto match = Match();
    EXPECT_EQ(match->blocks(), late);
    EXPECT_EQ(match->miss(), v1::MISS_REASON_OWNER_DOWN);
    ExpectMiss(Get(), late, v1::MISS_REASON_OWNER_DOWN);
    EXPECT_THAT(match->why(), HasSubstr("deadline exceeded (not asked again for "));
  }
  EXPECT_EQ(OwnerOf(late).Calls("Match"), asked);
  EXPECT_EQ(OwnerOf(late).Calls("Get"), 0);
  OwnerOf(late).SetSilent(false);
  EXPECT_TRUE(Holds([&] { return Get().blocks == kBlocks; }));  // a probe found it alive
}

TEST_F(ViewsTest, CallsBesideOneThatIsNotAnsweredDoNotJoinIt) {
  Put();
  options_.deadline = absl::Seconds(20);
  NewClient();
  client();
  FakeNode& late = OwnerOf(BlockOfAnotherOwner());
  late.SetSilent(true);
  const int before = late.Calls("Match");
  const absl::Time start = absl::Now();
  const std::unique_ptr<Thread> first = RealRuntime()->Start([&] { EXPECT_TRUE(client().Match(chain_).ok()); });
  late.WaitFor([&] { return late.calls["Match"] > before; });
  // At first the node might just be slow. After a second without a sign of life nobody waits beside the first.
  EXPECT_TRUE(Holds([&] { return absl::Now() - start > absl::Milliseconds(1200); }));
  const auto match = Match();
  EXPECT_EQ(match->miss(), v1::MISS_REASON_OWNER_DOWN);
  EXPECT_THAT(match->why(), HasSubstr("no sign of life for 1"));
  EXPECT_EQ(late.Calls("Match"), before + 1);
  late.SetSilent(false);
}

TEST_F(ViewsTest, ANodeThatIsDownIsGivenUpAfterAFewCallsAndFoundAgain) {
  Put();
  const size_t lost = BlockOfAnotherOwner();
  OwnerOf(lost).down = true;
  for (int i = 0; i < 100; ++i) ExpectMiss(Get(), lost, v1::MISS_REASON_OWNER_DOWN);
  EXPECT_EQ(OwnerOf(lost).Calls("Get"), 5);
  EXPECT_EQ(client().counters().openings, 1u);
  OwnerOf(lost).down = false;
  EXPECT_TRUE(Holds([&] { return Get().blocks == kBlocks; }));
}

}  // namespace
}  // namespace kvist
