// Goal: blocks are found wherever the change of a cluster, a replica or a hot prefix has put them, and the reason of a
// miss is the owner's. Method: a client over nodes in memory; blocks are moved between them by hand, views and lists of
// holders say where they may be; what each node was asked is counted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/services/worker/client_fixture.h"

namespace kvist {
namespace {

class HoldersTest : public ClientTest {
 protected:
  absl::StatusOr<PrefixMatch> Match() { return client().Match(chain_); }
  std::string Id(size_t node) { return absl::StrCat("n", node); }
  // Node `fresh` joins: it owns all its segments from now on and holds nothing.
  void Join(size_t fresh) {
    options_.view = cluster_.view();
    options_.view.nodes.erase(options_.view.nodes.begin() + fresh);
    Put();
    options_.view = cluster_.view();
    options_.view.nodes[fresh].state = NodeState::kJoining;
    NewClient();
    client();
  }
  void Move(size_t block, size_t from, size_t to) {
    auto& blocks = cluster_.node(from).blocks;
    cluster_.node(to).blocks[KeyBytes(block)] = blocks.at(KeyBytes(block));
    blocks.erase(KeyBytes(block));
  }
  static bool Eventually(const std::function<bool()>& condition) {
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (!condition() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    return condition();
  }
  int CallsOfAll(const std::string& method) {
    int calls = 0;
    for (size_t i = 0; i < 3; ++i) calls += cluster_.node(i).Calls(method);
    return calls;
  }
};

TEST_F(HoldersTest, WhatOnlyThePreviousOwnerHasIsFoundAndReadThere) {
  Join(2);
  ASSERT_LT(FirstBlockOf(2), kBlocks);
  const auto match = Match();
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->blocks(), kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(HoldersTest, TheOwnerIsToldOnceWhereItsBlocksAre) {
  Join(2);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Match()->blocks(), kBlocks);
  FakeNode& owner = cluster_.node(2);
  std::set<std::string> expected, told;
  for (size_t block = 0; block < kBlocks; ++block) {
    if (owners_[block] == 2) expected.insert(KeyBytes(block));
  }
  owner.WaitFor([&] {
    told.clear();
    for (const v1::AdoptRequest& request : owner.adoptions) {
      EXPECT_THAT(request.from(), testing::AnyOf("n0", "n1"));
      EXPECT_EQ(request.namespace_digest().size(), 16u);
      for (size_t at = 0; at < request.keys().size(); at += Key::kBytes) {
        const std::string key = request.keys().substr(at, Key::kBytes);
        EXPECT_TRUE(told.insert(key).second) << "asked twice";
        for (size_t block = 0; block < kBlocks; ++block) {
          if (KeyBytes(block) == key) {
            EXPECT_EQ(request.segment_heads().substr(at, Key::kBytes), KeyBytes(SegmentHead(block)));
          }
        }
      }
    }
    return told.size() >= expected.size();
  });
  EXPECT_EQ(told, expected);
  EXPECT_EQ(client().counters().adoptions, expected.size());
}

TEST_F(HoldersTest, AGapInAChangingSegmentHidesNothingBehindIt) {
  Join(2);
  // The new owner has the later part of its segments already, the previous one the earlier.
  for (size_t block = 0; block < kBlocks; ++block) {
    if (owners_[block] != 2 || block % 2 == 0) continue;
    const size_t previous = *Place(chain_[SegmentHead(block)], options_.view, 1).previous;
    cluster_.node(2).blocks[KeyBytes(block)] = cluster_.node(previous).blocks.at(KeyBytes(block));
  }
  EXPECT_EQ(Match()->blocks(), kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(HoldersTest, TheReasonOfAMissIsTheOwners) {
  Join(2);
  const size_t lost = FirstBlockOf(2);
  const size_t previous = *Place(chain_[SegmentHead(lost)], options_.view, 1).previous;
  cluster_.node(previous).blocks.erase(KeyBytes(lost));
  cluster_.node(previous).gone[KeyBytes(lost)] = v1::MISS_REASON_ERASED;
  cluster_.node(2).gone[KeyBytes(lost)] = v1::MISS_REASON_EVICTED;
  const auto match = Match();
  EXPECT_EQ(match->blocks(), lost);
  EXPECT_EQ(match->miss(), v1::MISS_REASON_EVICTED);
  EXPECT_EQ(match->miss_node(), "n2");
  ExpectMiss(Get(), lost, v1::MISS_REASON_EVICTED);
}

TEST_F(HoldersTest, ADrainingNodeIsAskedSecond) {
  Put();
  options_.view.nodes[owners_[0]].state = NodeState::kDraining;
  NewClient();
  EXPECT_EQ(Match()->blocks(), kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(HoldersTest, AReplicaStandsInForAnOwnerThatIsDown) {
  options_.replicas = 2;
  Put();
  Replicate();
  OwnerOf(0).down = true;
  for (int i = 0; i < 20; ++i) {
    const auto match = Match();
    EXPECT_EQ(match->blocks(), kBlocks) << match->why();
    EXPECT_EQ(Get().blocks, kBlocks);
  }
  EXPECT_GT(client().counters().failovers, 0u);
  EXPECT_GT(client().counters().openings, 0u);
}

TEST_F(HoldersTest, AReplicaStandsInForAnOwnerThatIsSilentWithinTheDeadline) {
  options_.replicas = 2;
  options_.deadline = absl::Seconds(2);
  Put();
  Replicate();
  OwnerOf(0).SetSilent(true);
  const absl::Time start = absl::Now();
  EXPECT_EQ(Match()->blocks(), kBlocks);
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  OwnerOf(0).SetSilent(false);
}

TEST_F(HoldersTest, AnOwnerThatCameBackEmptyIsFilledFromItsReplicas) {
  options_.replicas = 2;
  Put();
  Replicate();
  const size_t blocks = std::count(owners_.begin(), owners_.end(), owners_[0]);
  for (size_t block = 0; block < kBlocks; ++block) {
    if (owners_[block] == owners_[0]) OwnerOf(0).blocks.erase(KeyBytes(block));
  }
  EXPECT_EQ(Match()->blocks(), kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_EQ(client().counters().adoptions, blocks);
}

TEST_F(HoldersTest, WithoutReplicasNobodyElseIsAsked) {
  Put();
  OwnerOf(0).blocks.erase(KeyBytes(0));
  const int before = CallsOfAll("Match");
  EXPECT_EQ(Match()->blocks(), 0u);
  EXPECT_EQ(CallsOfAll("Match"), before + 3);
}

TEST_F(HoldersTest, HotCopiesStandInForAnOwnerThatIsDown) {
  Put();
  FakeNode& owner = OwnerOf(0);
  const size_t copy = (owners_[0] + 1) % 3;
  for (size_t block = 0; block < kBlocks; ++block) {
    if (owners_[block] != owners_[0]) continue;
    owner.hot[KeyBytes(SegmentHead(block))] = {Id(copy), "nobody"};
    cluster_.node(copy).blocks[KeyBytes(block)] = owner.blocks.at(KeyBytes(block));
  }
  EXPECT_EQ(Match()->blocks(), kBlocks);
  owner.down = true;
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(Match()->blocks(), kBlocks);
    EXPECT_EQ(Get().blocks, kBlocks);
  }
}

TEST_F(HoldersTest, EraseLeavesNoCopyBehind) {
  options_.replicas = 2;
  Put();
  Replicate();
  EXPECT_EQ(client().Erase(chain_)->erased, kBlocks);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(cluster_.node(i).blocks.empty());
}

TEST_F(HoldersTest, ADamagedBlockIsReportedAndReadFromAnotherHolder) {
  options_.replicas = 2;
  Put();
  Replicate();
  for (const size_t block : {size_t{0}, BlockOfAnotherOwner(), kBlocks - 1}) {
    StoredBlock(block)[StoredBlock(block).size() - 1] ^= 1;
    EXPECT_EQ(Get().blocks, kBlocks);
    FakeNode& node = OwnerOf(block);
    node.WaitFor([&] { return !node.reported.empty() && node.reported.back().keys() == KeyBytes(block); });
    StoredBlock(block)[StoredBlock(block).size() - 1] ^= 1;
  }
  EXPECT_EQ(client().counters().damaged, 3u);
}

TEST_F(HoldersTest, ABlockThatIsDamagedEverywhereIsAChecksumMiss) {
  options_.replicas = 2;
  Put();
  Replicate();
  for (FakeNode* node : {&OwnerOf(4), &cluster_.node(Replica(4))}) node->blocks.at(KeyBytes(4)).back() ^= 1;
  ExpectMiss(Get(), 4, v1::MISS_REASON_CHECKSUM);
}

TEST_F(HoldersTest, AStreamThatBreaksGoesOnAtAnotherHolder) {
  options_.replicas = 2;
  Put();
  Replicate();
  int parts = 0;
  OwnerOf(0).change_part = [&](uint32_t*, uint64_t* offset) { *offset += ++parts > 20 ? 64 : 0; };
  EXPECT_EQ(Get().blocks, kBlocks);
  OwnerOf(0).change_part = nullptr;
  OwnerOf(0).get_status = absl::UnavailableError("the connection broke");
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(HoldersTest, ALateStreamIsHedgedWithinABudget) {
  options_.replicas = 2;
  Put();
  Replicate();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_EQ(client().counters().hedges, 0u);
  {
    std::lock_guard lock(OwnerOf(0).mutex);
    OwnerOf(0).hold_gets = true;
  }
  const absl::Time start = absl::Now();
  EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));  // of 20
  EXPECT_GE(client().counters().hedges, 1u);
  std::lock_guard lock(OwnerOf(0).mutex);
  OwnerOf(0).hold_gets = false;
  OwnerOf(0).changed.notify_all();
}

TEST_F(HoldersTest, WhenTheHedgesAreSpentALateStreamIsLeftAloneUntilHalfOfTheTime) {
  options_.replicas = 2;
  options_.deadline = absl::Milliseconds(400);
  Put();
  Replicate();
  {
    std::lock_guard lock(OwnerOf(0).mutex);
    OwnerOf(0).hold_gets = true;
  }
  uint64_t hedges = 0;
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(Get().blocks, kBlocks);
    hedges = client().counters().hedges;
  }
  EXPECT_LE(hedges, 4u + 12u * 6u / 20u);
  std::lock_guard lock(OwnerOf(0).mutex);
  OwnerOf(0).hold_gets = false;
  OwnerOf(0).changed.notify_all();
}

TEST_F(HoldersTest, AFullNodeIsReadWhenItSaidOrFromAnotherHolder) {
  Put();
  FakeNode& node = OwnerOf(0);
  node.retry_hint = absl::Milliseconds(200);
  node.refuse_reads = 2;
  const absl::Time start = absl::Now();
  EXPECT_EQ(Match()->blocks(), kBlocks);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(400));
  node.refuse_reads = 2;
  EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_EQ(client().counters().retries, 4u);
  options_.replicas = 2;
  NewClient();
  client();
  Replicate();
  node.refuse_reads = 1;
  EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_EQ(client().counters().retries, 0u);
  node.retry_hint = std::nullopt;
  options_.replicas = 1;
  NewClient();
  client();
  node.refuse_reads = 1;
  ExpectMiss(Get(), 0, v1::MISS_REASON_OVERLOADED);
  node.refuse_reads = 1;
  EXPECT_EQ(Match()->miss(), v1::MISS_REASON_OVERLOADED);
}

// Streams that stop in the middle of a block keep their buffers until their deadline: others must have some left.
TEST_F(HoldersTest, ANodeThatStopsInTheMiddleLeavesBuffersToTheOthers) {
  options_.threads = 1;
  options_.deadline = absl::Seconds(20);
  Put();
  NewClient();
  client();
  const size_t stopped = owners_[0], other = BlockOfAnotherOwner();
  FakeNode& node = cluster_.node(stopped);
  std::atomic<int> inside = 0;
  std::mutex mutex;
  std::condition_variable open;
  bool go_on = false;
  node.change_part = [&](uint32_t*, uint64_t* offset) {
    if (*offset == 0) return;
    ++inside;
    std::unique_lock lock(mutex);
    open.wait(lock, [&] { return go_on; });
  };
  std::vector<std::unique_ptr<Thread>> readers;
  for (int i = 0; i < 8; ++i) {
    readers.push_back(RealRuntime()->Start([&] {
      std::vector<uint16_t> pages(kv_.size());
      const auto got = client().Get(chain_, {0, 1}, ContiguousPages(pages.data(), options_.ns.Shape(), capacity_));
      EXPECT_EQ(got->blocks, 1u);
    }));
  }
  EXPECT_TRUE(Eventually([&] { return inside == 3; }));
  EXPECT_EQ(Get({other, other + 1}).blocks, 1u);
  EXPECT_EQ(inside, 3);
  {
    std::lock_guard lock(mutex);
    go_on = true;
    open.notify_all();
  }
}

TEST_F(HoldersTest, AHotPrefixIsReadFromAllWhoHoldIt) {
  Put();
  for (size_t block = 0; block < kBlocks; ++block) {
    OwnerOf(block).hot[KeyBytes(SegmentHead(block))] = {Id((owners_[block] + 1) % 3), Id((owners_[block] + 2) % 3)};
    for (size_t i = 0; i < 3; ++i) cluster_.node(i).blocks[KeyBytes(block)] = StoredBlock(block);
  }
  EXPECT_EQ(Match()->blocks(), kBlocks);
  got_.resize(kv_.size());
  for (int i = 0; i < 60; ++i) {
    const auto got = client().Get(absl::MakeConstSpan(chain_).first(1), {0, 1},
                                  ContiguousPages(got_.data(), options_.ns.Shape(), capacity_));
    EXPECT_EQ(got->blocks, 1u);
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_GT(cluster_.node(i).Calls("Get"), 5) << "node " << i;
}

TEST_F(HoldersTest, OfTwoHoldersTheLessLoadedIsRead) {
  Put();
  const size_t copy = (owners_[0] + 1) % 3;
  OwnerOf(0).hot[KeyBytes(0)] = {Id(copy)};
  cluster_.node(copy).blocks[KeyBytes(0)] = StoredBlock(0);
  OwnerOf(0).load.set_queued_bytes(100 << 20);
  EXPECT_EQ(Match()->blocks(), kBlocks);
  const int before = OwnerOf(0).Calls("Get");
  got_.resize(kv_.size());
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Match()->blocks(), kBlocks);  // the node says it again
    const auto got = client().Get(absl::MakeConstSpan(chain_).first(1), {0, 1},
                                  ContiguousPages(got_.data(), options_.ns.Shape(), capacity_));
    EXPECT_EQ(got->blocks, 1u);
  }
  EXPECT_EQ(OwnerOf(0).Calls("Get"), before);
}

}  // namespace
}  // namespace kvist
