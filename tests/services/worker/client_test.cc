// Goal: whatever nodes do, a worker gets leading blocks that are right, or a reason, within its deadline. Method: a
// client over nodes in memory that are down, silent, full or lying; pages are compared bit by bit with what was put.
#include "services/worker/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/services/worker/client_fixture.h"

namespace kvist {
namespace {

using testing::HasSubstr;

TEST_F(ClientTest, WhatOneWorkerPutAnotherGetsBitForBit) {
  const PutResult put = Put();
  EXPECT_EQ(put.blocks, kBlocks);
  EXPECT_EQ(put.stored, kBlocks);
  EXPECT_EQ(put.failed, 0u) << put.failure;
  EXPECT_EQ(put.plain_bytes, options_.ns.Shape().PlainBytes() * kBlocks);
  for (size_t i = 0; i < 3; ++i)
    EXPECT_LT(FirstBlockOf(i), kBlocks) << "node " << i << " owns nothing: the test is too small";

  NewClient();
  auto match = client().Match(chain_);
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->blocks(), kBlocks);
  EXPECT_EQ(match->tokens(), capacity_);
  EXPECT_EQ(match->miss(), v1::MISS_REASON_UNSPECIFIED);
  const GetResult got = Get();
  EXPECT_EQ(got.blocks, kBlocks);
  EXPECT_EQ(got.miss, v1::MISS_REASON_UNSPECIFIED);
  EXPECT_EQ(got.fetched_bytes, put.stored_bytes);
  EXPECT_EQ(client().counters().fetched_blocks, kBlocks);
}

TEST_F(ClientTest, EveryCodecComesBack) {
  for (const Codec codec : {Codec::kI8, Codec::kLadder, Codec::kTrellis}) {
    options_.codec = codec;
    options_.ns.tenant_salt = std::string(CodecName(codec));
    NewClient();
    EXPECT_EQ(Put().stored, kBlocks);
    const auto got = TryGet({0, kBlocks});
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->blocks, kBlocks) << got->why;
  }
}

TEST_F(ClientTest, KeysAndValuesArePutWithBitsOfTheirOwn) {
  options_.codec = Codec::kLadder;
  options_.key_bits = 8;
  options_.value_bits = 3;
  EXPECT_EQ(Put().stored, kBlocks);
  const std::string& bytes = StoredBlock(1);
  const auto view = BlockView::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->code_bits(), 8);
  EXPECT_TRUE(view->mixed_bits());
  const auto got = TryGet({0, kBlocks});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->blocks, kBlocks) << got->why;
}

TEST_F(ClientTest, BitsThatACodecDoesNotHaveAreRefused) {
  options_.codec = Codec::kTrellis;
  options_.key_bits = 4;
  EXPECT_THAT(std::string(Client::Create(options_).status().message()),
              HasSubstr("key_bits 4; trellis has 0 (its own), 2, 3"));
}

TEST_F(ClientTest, ARangeOfBlocksLandsAtItsOwnTokens) {
  Put();
  EXPECT_EQ(Get({3, 9}).blocks, 6u);
  EXPECT_EQ(got_[0], 0xdead);
  EXPECT_EQ(Get({5, 5}).blocks, 0u);
}

TEST_F(ClientTest, ARangeOutsideThePromptIsRefused) {
  client();
  EXPECT_EQ(std::string(TryGet({0, kBlocks + 1}).status().message()),
            "blocks [0, 21) are not within the prompt's 20 full blocks");
  EXPECT_THAT(std::string(TryGet({3, 2}).status().message()), HasSubstr("blocks [3, 2) are not within"));
}

TEST_F(ClientTest, AnEmptyPromptAndOneShorterThanABlockHaveNoBlocks) {
  for (const size_t tokens : {0, 15}) {
    const std::vector<Key> keys = client().Keys(Tokens(tokens));
    EXPECT_TRUE(keys.empty());
    const auto match = client().Match(keys);
    ASSERT_TRUE(match.ok()) << match.status();
    EXPECT_EQ(match->blocks(), 0u);
    EXPECT_EQ(match->miss(), v1::MISS_REASON_UNSPECIFIED);
    EXPECT_FALSE(match->leased());
    EXPECT_EQ(client().Get(keys, {0, 0}, Pages())->blocks, 0u);
    EXPECT_EQ(client().Put(keys, ConstPages())->blocks, 0u);
    EXPECT_EQ(client().Erase(keys)->erased, 0u);
  }
}

TEST_F(ClientTest, APromptThatNobodyStoredIsNeverStored) {
  const auto match = client().Match(chain_);
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->blocks(), 0u);
  EXPECT_EQ(match->miss(), v1::MISS_REASON_NEVER_STORED);
  EXPECT_EQ(match->miss_node(), OwnerName(0));
  ExpectMiss(Get(), 0, v1::MISS_REASON_NEVER_STORED);
}

TEST_F(ClientTest, TheRunEndsAtTheFirstBlockThatAnyOwnerLacks) {
  Put();
  for (const size_t missing : {17, 9, 4}) {
    OwnerOf(missing).blocks.erase(KeyBytes(missing));
    OwnerOf(missing).gone[KeyBytes(missing)] = v1::MISS_REASON_EVICTED;
    const auto match = client().Match(chain_);
    ASSERT_TRUE(match.ok()) << match.status();
    EXPECT_EQ(match->blocks(), missing);
    EXPECT_EQ(match->miss(), v1::MISS_REASON_EVICTED);
    EXPECT_EQ(match->miss_node(), OwnerName(missing));
    ExpectMiss(Get(), missing, v1::MISS_REASON_EVICTED);
  }
}

TEST_F(ClientTest, AnOwnerThatIsDownCostsItsBlocksAndNothingElse) {
  Put();
  const size_t lost = BlockOfAnotherOwner();
  OwnerOf(lost).down = true;
  const auto match = client().Match(chain_);
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->blocks(), lost);
  EXPECT_EQ(match->miss(), v1::MISS_REASON_OWNER_DOWN);
  EXPECT_EQ(match->miss_node(), OwnerName(lost));
  EXPECT_EQ(match->why(), "connection refused");
  ExpectMiss(Get(), lost, v1::MISS_REASON_OWNER_DOWN);
}

TEST_F(ClientTest, ANodeWithoutAKnownAddressIsDown) {
  client();
  options_.view.nodes[owners_[0]].address.port = 0;
  NewClient();
  const auto match = client().Match(chain_);
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->miss(), v1::MISS_REASON_OWNER_DOWN);
  EXPECT_EQ(match->why(), absl::StrCat("the address of node ", OwnerName(0), " is not known: it has published none"));
}

TEST_F(ClientTest, AnOwnerThatIsSilentCostsTheDeadlineAndNoMore) {
  Put();
  const size_t late = BlockOfAnotherOwner();
  OwnerOf(late).SetSilent(true);
  options_.deadline = absl::Milliseconds(200);
  NewClient();
  const absl::Time start = absl::Now();
  {
    const auto match = client().Match(chain_);
    ASSERT_TRUE(match.ok()) << match.status();
    EXPECT_EQ(match->blocks(), late);
    EXPECT_EQ(match->miss(), v1::MISS_REASON_DEADLINE);
  }
  ExpectMiss(Get(), late, v1::MISS_REASON_DEADLINE);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST_F(ClientTest, ASilentOwnerBehindTheEndOfTheRunIsNotWaitedFor) {
  Put();
  const size_t late = BlockOfAnotherOwner();
  OwnerOf(late).SetSilent(true);
  OwnerOf(0).blocks.erase(KeyBytes(0));
  const absl::Time start = absl::Now();
  ExpectMiss(Get(), 0, v1::MISS_REASON_NEVER_STORED);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  OwnerOf(late).SetSilent(false);  // else the client's destructor would wait for the stream's deadline
}

TEST_F(ClientTest, AFlippedBitAnywhereInABlockIsAChecksumMissAndNeverData) {
  Put();
  const size_t block = 5;
  std::string& bytes = StoredBlock(block);
  std::mt19937_64 random(kSeed);
  std::vector<size_t> places = {0, 9, kHeaderBytes - 1, kHeaderBytes, bytes.size() - 1};
  for (int i = 0; i < 40; ++i) places.push_back(random() % bytes.size());
  for (const size_t place : places) {
    SCOPED_TRACE(testing::Message() << "byte " << place << " of " << bytes.size() << ", seed " << kSeed);
    bytes[place] ^= 0x10;
    const GetResult got = Get();
    if (got.blocks != kBlocks) {  // padding between planes is not read
      EXPECT_EQ(got.blocks, block);
      EXPECT_THAT(got.miss, testing::AnyOf(v1::MISS_REASON_CHECKSUM, v1::MISS_REASON_IDENTITY_MISMATCH)) << got.why;
    }
    if (place == bytes.size() - 1) ExpectMiss(got, block, v1::MISS_REASON_CHECKSUM);
    bytes[place] ^= 0x10;
  }
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(ClientTest, ABlockThatWasCutOffIsAMiss) {
  Put();
  const std::string whole = StoredBlock(2);
  for (const size_t size :
       {size_t{1}, kHeaderBytes - 1, kHeaderBytes, kHeaderBytes + 10, whole.size() / 2, whole.size() - 1}) {
    SCOPED_TRACE(size);
    StoredBlock(2) = whole.substr(0, size);
    ExpectMiss(Get(), 2, v1::MISS_REASON_CHECKSUM);
  }
  StoredBlock(2) = whole + whole;
  EXPECT_EQ(Get().blocks, 2u);
}

TEST_F(ClientTest, ABlockThatWasMadeForAnotherKeyIsAnIdentityMismatch) {
  Put();
  StoredBlock(6) = StoredBlock(3);
  const GetResult got = Get();
  ExpectMiss(got, 6, v1::MISS_REASON_IDENTITY_MISMATCH);
  EXPECT_THAT(got.why, HasSubstr("key"));
}

TEST_F(ClientTest, ABlockOfAnotherNamespaceUnderTheSameKeyIsAnIdentityMismatch) {
  Put();
  const BlockShape shape = options_.ns.Shape();
  BlockIdentity identity;
  identity.key = chain_[0].bytes;
  std::string bytes(MaxBlockBytes(shape, Codec::kRaw16), '\0');
  const auto size = Encode(identity, shape, ContiguousPages<const uint16_t>(kv_.data(), shape, capacity_),
                           {Codec::kRaw16, 0}, {reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(size.ok()) << size.status();
  StoredBlock(0) = bytes.substr(0, *size);
  ExpectMiss(Get(), 0, v1::MISS_REASON_IDENTITY_MISMATCH);
}

TEST_F(ClientTest, ABlockWithFewerBitsThanAskedForIsAPrecisionMiss) {
  options_.codec = Codec::kLadder;
  Put();
  options_.min_precision = 16;
  NewClient();
  const GetResult got = Get();
  ExpectMiss(got, 0, v1::MISS_REASON_PRECISION);
  EXPECT_THAT(got.why, HasSubstr("bits per code; 16 were asked for"));
}

TEST_F(ClientTest, ABlockThatPromisesLessThanTheFloorIsAPrecisionMiss) {
  options_.codec = Codec::kLadder;
  Put();
  options_.floor_db = 60;
  NewClient();
  ExpectMiss(Get(), 0, v1::MISS_REASON_PRECISION);
}

// A demoted block keeps its header and table, and ends behind a plane.
TEST_F(ClientTest, ABlockThatWasDemotedIsDeliveredUnlessMorePrecisionIsAskedFor) {
  options_.codec = Codec::kLadder;
  Put();
  std::string& bytes = StoredBlock(0);
  const auto view = BlockView::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(view.ok()) << view.status();
  ASSERT_EQ(view->planes(), 4);  // FORMAT.md: side, two bits, one bit, one bit
  const PlaneEntry last = view->Plane(view->planes() - 2, view->shape().layers - 1);
  bytes.resize(last.offset + last.size_bytes);
  const auto lower = TryGet({0, 1});
  ASSERT_TRUE(lower.ok()) << lower.status();
  const auto demoted = BlockView::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(demoted.ok()) << demoted.status();
  EXPECT_EQ(lower->blocks, demoted->MaxPrecision() > 0 ? 1u : 0u) << lower->why;
  options_.min_precision = 4;
  NewClient();
  const auto higher = TryGet({0, 1});
  ASSERT_TRUE(higher.ok()) << higher.status();
  EXPECT_EQ(higher->blocks, 0u);
}

TEST_F(ClientTest, ABlockThatIsEvictedBetweenMatchAndGetEndsTheRun) {
  Put();
  const auto match = client().Match(chain_);
  ASSERT_TRUE(match.ok()) << match.status();
  ASSERT_EQ(match->blocks(), kBlocks);
  OwnerOf(11).blocks.erase(KeyBytes(11));
  OwnerOf(11).gone[KeyBytes(11)] = v1::MISS_REASON_EVICTED;
  ExpectMiss(Get(), 11, v1::MISS_REASON_EVICTED);
  EXPECT_EQ(client().counters().misses[v1::MISS_REASON_EVICTED], 1u);
}

TEST_F(ClientTest, HeadersAndPartsThatDoNotFitTheRequestAreNeverData) {
  Put();
  FakeNode& node = OwnerOf(0);
  node.change_header = [](v1::GetHeader* header) { header->set_item(header->item() + 1); };
  ExpectMiss(Get(), 0, v1::MISS_REASON_CHECKSUM);
  node.change_header = [](v1::GetHeader* header) { header->set_sent_bytes(1ull << 40); };
  EXPECT_THAT(Get().why, HasSubstr("a block of 1099511627776 bytes is none of this namespace"));
  node.change_header = [](v1::GetHeader* header) { header->set_sent_bytes(header->sent_bytes() - 1); };
  ExpectMiss(Get(), 0, v1::MISS_REASON_CHECKSUM);
  node.change_header = [](v1::GetHeader* header) { header->set_sent_bytes(header->sent_bytes() + 1); };
  ExpectMiss(Get(), 0, v1::MISS_REASON_CHECKSUM);
  node.change_header = nullptr;
  node.change_part = [](uint32_t*, uint64_t* offset) { *offset += 64; };
  ExpectMiss(Get(), 0, v1::MISS_REASON_CHECKSUM);
  node.change_part = [](uint32_t* item, uint64_t*) { *item += 1; };
  EXPECT_THAT(Get().why, HasSubstr("is out of place"));
}

TEST_F(ClientTest, ANodeThatRefusesTheRequestItselfIsAFaultThatNamesIt) {
  Put();
  OwnerOf(0).get_status = absl::InvalidArgumentError("too many keys");
  const absl::Status status = TryGet({0, kBlocks}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), absl::StrCat("node ", OwnerName(0), ": too many keys"));
}

TEST_F(ClientTest, LeasesOfAllOwnersEndWithTheMatch) {
  Put();
  {
    const auto match = client().Match(chain_);
    ASSERT_TRUE(match.ok() && match->leased());
    EXPECT_GT(match->lease_expiry(), absl::Now());
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(cluster_.node(i).leases.size(), 1u);
  }
  for (size_t i = 0; i < 3; ++i) cluster_.node(i).WaitFor([&] { return cluster_.node(i).leases.empty(); });
  auto match = client().Match(chain_);
  EXPECT_TRUE(match->Release().ok());
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(cluster_.node(i).leases.empty());
  EXPECT_FALSE(match->leased());
}

TEST_F(ClientTest, NothingStaysLeasedBehindTheEndOfTheRun) {
  Put();
  const size_t gap = BlockOfAnotherOwner();
  OwnerOf(gap).blocks.erase(KeyBytes(gap));
  {
    const auto match = client().Match(chain_);
    EXPECT_EQ(match->blocks(), gap);
    EXPECT_TRUE(match->leased());
    for (size_t i = 0; i < 3; ++i) {
      FakeNode& node = cluster_.node(i);
      const bool before = FirstBlockOf(i) < gap;  // its one lease begins with its first block
      node.WaitFor([&] { return node.leases.size() == (before ? 1u : 0u); });
    }
  }
  OwnerOf(0).blocks.erase(KeyBytes(0));
  const auto match = client().Match(chain_);
  EXPECT_EQ(match->blocks(), 0u);
  EXPECT_FALSE(match->leased());
  EXPECT_EQ(match->lease_expiry(), absl::InfinitePast());
  for (size_t i = 0; i < 3; ++i) cluster_.node(i).WaitFor([&] { return cluster_.node(i).leases.empty(); });
}

TEST_F(ClientTest, ALeaseThatIsGrantedTooLateIsGivenBack) {
  Put();
  options_.deadline = absl::Milliseconds(100);
  NewClient();
  FakeNode& node = OwnerOf(0);
  std::mutex mutex;
  std::condition_variable open;
  bool answer = false;
  node.after_match = [&] {
    std::unique_lock lock(mutex);
    open.wait(lock, [&] { return answer; });
  };
  const auto match = client().Match(chain_);
  EXPECT_EQ(match->miss(), v1::MISS_REASON_DEADLINE);
  {
    std::lock_guard lock(mutex);
    answer = true;
    open.notify_all();
  }
  node.WaitFor([&] { return node.leases.empty() && node.release_calls > 0; });
}

TEST_F(ClientTest, APromptThatIsThereAlreadyIsNotSentAgain) {
  Put();
  const PutResult again = Put();
  EXPECT_EQ(again.stored, 0u);
  EXPECT_EQ(again.present, kBlocks);
  EXPECT_EQ(again.stored_bytes, 0u);
  for (size_t block = 10; block < 13; ++block) OwnerOf(block).blocks.erase(KeyBytes(block));
  const PutResult rest = Put();
  EXPECT_EQ(rest.stored, 3u);
  EXPECT_EQ(rest.present, kBlocks - 3);
}

TEST_F(ClientTest, PutToAnOwnerThatIsDownFailsForItsBlocksWithTheReason) {
  options_.retry.budget = 3;
  options_.retry.earned = 0;
  client();
  OwnerOf(0).down = true;
  const size_t lost = std::count(owners_.begin(), owners_.end(), owners_[0]);
  const PutResult put = Put();
  EXPECT_EQ(put.failed, lost);
  EXPECT_EQ(put.stored, kBlocks - lost);
  EXPECT_EQ(put.failure, absl::StrCat("node ", OwnerName(0), ": connection refused"));
  EXPECT_EQ(client().counters().retries, 3u);
}

TEST_F(ClientTest, PutToASilentOwnerEndsWithTheDeadline) {
  options_.deadline = absl::Milliseconds(300);
  client();
  OwnerOf(0).SetSilent(true);
  const absl::Time start = absl::Now();
  const PutResult put = Put();
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_GE(put.failed, 1u);
  EXPECT_FALSE(put.failure.empty());
}

TEST_F(ClientTest, ANodeThatIsFullForAWhileIsTriedAgain) {
  client();
  OwnerOf(0).refuse_puts = 4;
  const PutResult put = Put();
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  EXPECT_EQ(client().counters().retries, 4u);
}

TEST_F(ClientTest, ANodeThatStaysFullIsGivenUpWhenTheBudgetIsSpent) {
  options_.retry.budget = 5;
  options_.retry.earned = 0;
  client();
  OwnerOf(0).refuse_puts = 1000;
  const PutResult put = Put();
  EXPECT_EQ(put.failed, std::count(owners_.begin(), owners_.end(), owners_[0]));
  EXPECT_EQ(put.failure, absl::StrCat("node ", OwnerName(0), ": the node is full"));
  EXPECT_EQ(client().counters().retries, 5u);
}

TEST_F(ClientTest, ACommitThatBreaksIsSentAgain) {
  client();
  OwnerOf(0).drop_commits = 2;
  EXPECT_EQ(Put().stored, kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
}

// No 4-bit tile reaches a floor of 100 dB: every tile is raised, and the block grows past the nominal size.
TEST_F(ClientTest, ABlockThatOutgrowsItsReservationIsReservedAgainAtItsExactSize) {
  options_.codec = Codec::kLadder;
  options_.floor_db = 100;
  client();
  // The nodes are slow to see that the first reservations were given up.
  for (size_t i = 0; i < 3; ++i) cluster_.node(i).keep_reserved = 2;
  const PutResult put = Put();
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  EXPECT_GT(put.raised_tiles, 0u);
  const size_t nominal = NominalBlockBytes(BlockIdentity(), options_.ns.Shape(), Codec::kLadder);
  uint64_t least = UINT64_MAX;
  for (size_t i = 0; i < 3; ++i) {
    for (const uint64_t size_bytes : cluster_.node(i).reservations) least = std::min(least, size_bytes);
  }
  EXPECT_EQ(least, nominal);
  for (size_t block = 0; block < kBlocks; ++block) EXPECT_GT(StoredBlock(block).size(), nominal);
  EXPECT_EQ(Get().blocks, kBlocks);  // raised to raw16: bit-identical
}

TEST_F(ClientTest, EraseCountsWhatWasThereAndNamesWhoDidNotAnswer) {
  Put();
  OwnerOf(0).down = true;
  const auto erased = client().Erase(chain_);
  ASSERT_TRUE(erased.ok()) << erased.status();
  const size_t lost = std::count(owners_.begin(), owners_.end(), owners_[0]);
  EXPECT_EQ(erased->failed, lost);
  EXPECT_EQ(erased->erased, kBlocks - lost);
  EXPECT_EQ(erased->failure, absl::StrCat("node ", OwnerName(0), ": connection refused"));
  OwnerOf(0).down = false;
  EXPECT_EQ(client().Erase(chain_)->erased, lost);
}

TEST_F(ClientTest, StatsNameEveryNodeAlsoThoseThatAreDown) {
  Put();
  OwnerOf(0).down = true;
  const std::vector<NodeAnswer> states = client().Stats();
  ASSERT_EQ(states.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(states[i].node.id.value, absl::StrCat("n", i));
    EXPECT_EQ(states[i].reachable.ok(), i != owners_[0]);
    if (states[i].reachable.ok()) {
      EXPECT_EQ(states[i].info.store().blocks(), cluster_.node(i).blocks.size());
    }
  }
}

TEST_F(ClientTest, NodesWithAnotherViewAreCounted) {
  Put();
  OwnerOf(0).view = 2;
  EXPECT_TRUE(client().Match(chain_).ok());
  EXPECT_EQ(client().counters().stale_views, 1u);
}

TEST_F(ClientTest, ManyThreadsMayUseOneClient) {
  Put();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (int round = 0; round < 10; ++round) {
        std::vector<uint16_t> pages(kv_.size());
        const auto match = client_->Match(chain_);
        EXPECT_EQ(match->blocks(), kBlocks);
        const auto got =
            client_->Get(chain_, {0, kBlocks}, ContiguousPages(pages.data(), options_.ns.Shape(), capacity_));
        EXPECT_EQ(got->blocks, kBlocks);
        EXPECT_EQ(pages, kv_);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ClientOptions, AllThatIsWrongIsNamedAtOnce) {
  ClientOptions options;
  options.ns.head_dim = 65;
  options.ns.tp_rank = 2;
  options.floor_db = -1;
  options.min_precision = 99;
  options.deadline = absl::ZeroDuration();
  options.lease = absl::Hours(1);
  options.threads = 0;
  options.runtime = nullptr;
  options.codec = static_cast<Codec>(9);
  const absl::Status status = Client::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* part :
       {"model is empty", "tp_rank 2 is not below tp_size 1", "view is 0", "no nodes", "transport is missing",
        "runtime is missing", "codec is unknown", "floor_db -1 is not 0 to 200", "min_precision 99 is not 0 to 16",
        "deadline 0 is not 1ms to 10m", "lease 1h is not 0 to 10m", "threads 0 is not 1 to 256"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

}  // namespace
}  // namespace kvist
