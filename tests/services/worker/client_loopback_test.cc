// Goal: the client, the C ABI and the remote store do over real servers and sockets what their tests say over memory.
// Method: three nodes in this process on ports chosen by the system; one is stopped, restarted empty, or replaced by a
// socket that accepts and never answers. Pages are compared bit by bit with what was put.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"
#include "services/transport/miss_reason.h"
#include "services/worker/client.h"
#include "services/worker/kvist.h"
#include "services/worker/remote_store.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;

constexpr size_t kBlocks = 24, kNodes = 3;
constexpr uint64_t kSeed = 20261103, kCapacity = 16 << 20;

class LoopbackTest : public ::testing::Test {
 protected:
  LoopbackTest() {
    options_.ns.model = "test";
    options_.ns.layers = 3;
    options_.ns.heads = 2;
    options_.ns.head_dim = 64;
    options_.ns.tokens_per_block = 32;
    shape_ = options_.ns.Shape();
    capacity_ = kBlocks * shape_.tokens;
    for (size_t i = 0; i < capacity_; ++i) tokens_.push_back(static_cast<uint32_t>(i * 31 + 7));
    kv_.resize(shape_.Elements() * kBlocks);
    std::mt19937_64 random(kSeed);
    std::normal_distribution<float> values;
    for (uint16_t& value : kv_) {
      const float sample = values(random);
      uint32_t bits;
      std::memcpy(&bits, &sample, sizeof(bits));
      value = static_cast<uint16_t>(bits >> 16);
    }
    options_.view.number.value = 1;
    for (size_t i = 0; i < kNodes; ++i) {
      nodes_.push_back(testing::StartNode(kCapacity));
      options_.view.nodes.push_back(Node{NodeId{absl::StrCat("n", i)}, nodes_[i]->data_address(), 1, kCapacity});
    }
    options_.transport = transport_.get();
    options_.codec = Codec::kRaw16;
    options_.deadline = absl::Seconds(20);
    options_.threads = 2;
    chain_ = ChainKeys(NamespaceDigest(options_.ns), options_.ns.tokens_per_block, tokens_);
    owners_ = ChainOwners(chain_, options_.view);
  }

  std::unique_ptr<Client> NewClient() {
    auto client = Client::Create(options_);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  PutResult Put(Client& client) {
    auto put = client.Put(client.Keys(tokens_), ContiguousPages<const uint16_t>(kv_.data(), shape_, capacity_));
    EXPECT_TRUE(put.ok()) << put.status();
    return put.value_or(PutResult());
  }
  GetResult Get(Client& client) {
    got_.assign(kv_.size(), 0);
    auto got = client.Get(client.Keys(tokens_), {0, kBlocks}, ContiguousPages(got_.data(), shape_, capacity_));
    EXPECT_TRUE(got.ok()) << got.status();
    return got.value_or(GetResult());
  }
  // The first block of an owner that does not own block 0.
  size_t LostBlock() const {
    return std::find_if(owners_.begin(), owners_.end(), [&](size_t owner) { return owner != owners_[0]; }) -
           owners_.begin();
  }

  ClientOptions options_;
  BlockShape shape_;
  size_t capacity_ = 0;
  std::vector<uint32_t> tokens_;
  std::vector<uint16_t> kv_, got_;
  std::vector<std::unique_ptr<NodeServer>> nodes_;
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::vector<Key> chain_;
  std::vector<size_t> owners_;
};

TEST_F(LoopbackTest, WhatOneWorkerPutAnotherGetsBitForBit) {
  const PutResult put = Put(*NewClient());
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  const std::unique_ptr<Client> reader = NewClient();
  auto match = reader->Match(chain_);
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->blocks(), kBlocks);
  EXPECT_TRUE(match->leased());
  const GetResult got = Get(*reader);
  EXPECT_EQ(got.blocks, kBlocks) << got.why;
  EXPECT_EQ(got.fetched_bytes, put.stored_bytes);
  EXPECT_EQ(got_, kv_);
  uint64_t leases = 0;
  for (const NodeAnswer& state : reader->Stats()) leases += state.info.store().leases();
  EXPECT_EQ(leases, kNodes);
  EXPECT_TRUE(match->Release().ok());
  for (const NodeAnswer& state : reader->Stats()) EXPECT_EQ(state.info.store().leases(), 0u);
}

TEST_F(LoopbackTest, EveryCodecComesBackSmaller) {
  for (const Codec codec : {Codec::kI8, Codec::kLadder}) {
    options_.codec = codec;
    options_.ns.tenant_salt = std::string(CodecName(codec));
    const std::unique_ptr<Client> client = NewClient();
    const PutResult put = Put(*client);
    EXPECT_EQ(put.stored, kBlocks) << put.failure;
    EXPECT_LT(put.stored_bytes, put.plain_bytes * 0.6);
    EXPECT_EQ(Get(*client).blocks, kBlocks);
  }
}

TEST_F(LoopbackTest, X16ComesBackBitForBitInLessThanTheBytes) {
  options_.codec = Codec::kX16;
  const std::unique_ptr<Client> client = NewClient();
  const PutResult put = Put(*client);
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  EXPECT_LT(put.stored_bytes, put.plain_bytes * 0.78);
  EXPECT_EQ(Get(*client).blocks, kBlocks);
  EXPECT_EQ(got_, kv_);
}

TEST_F(LoopbackTest, ADtypeThatTheCodecDoesNotTakeIsRefusedBeforeAnyNodeIsAsked) {
  options_.ns.dtype = Dtype::kF8E4M3;
  nodes_.clear();
  const auto put =
      NewClient()->Put(chain_, ContiguousPages<const uint16_t>(kv_.data(), options_.ns.Shape(), capacity_));
  EXPECT_EQ(put.status().ToString(), "INVALID_ARGUMENT: raw16 takes bf16 and f16, not f8e4m3");
}

TEST_F(LoopbackTest, BlocksThatOutgrowTheirReservationAreStoredAllTheSame) {
  options_.codec = Codec::kLadder;
  options_.floor_db = 100;
  const std::unique_ptr<Client> client = NewClient();
  const PutResult put = Put(*client);
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  EXPECT_GT(put.raised_tiles, 0u);
  EXPECT_EQ(Get(*client).blocks, kBlocks);
  EXPECT_EQ(got_, kv_);
}

TEST_F(LoopbackTest, ANodeThatDiesCostsItsBlocksAndOneThatComesBackEmptySaysSo) {
  const std::unique_ptr<Client> client = NewClient();
  Put(*client);
  const size_t lost = LostBlock();
  std::unique_ptr<NodeServer>& node = nodes_[owners_[lost]];
  const Address address = node->data_address();
  node = nullptr;
  const absl::Time start = absl::Now();
  GetResult got = Get(*client);
  EXPECT_EQ(got.blocks, lost);
  EXPECT_EQ(MissReasonName(got.miss), "owner_down") << got.why;
  EXPECT_LT(absl::Now() - start, absl::Seconds(15));

  NodeConfig config;
  config.id = options_.view.nodes[owners_[lost]].id;
  config.listen = address;
  config.http = Address{"127.0.0.1", 0};
  config.capacity_bytes = kCapacity;
  config.prefault = false;
  auto restarted = NodeServer::Start(config);
  ASSERT_TRUE(restarted.ok()) << restarted.status();
  ASSERT_TRUE(testing::WaitFor([&] {
    got = Get(*client);
    return MissReasonName(got.miss) == "never_stored";
  })) << MissReasonName(got.miss);
  EXPECT_EQ(got.blocks, lost);
  EXPECT_EQ(Put(*client).failed, 0u);
  EXPECT_EQ(Get(*client).blocks, kBlocks);
}

TEST_F(LoopbackTest, ANodeThatNeverAnswersCostsTheDeadline) {
  Put(*NewClient());
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in bound{};
  bound.sin_family = AF_INET;
  bound.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(bound);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&bound), sizeof(bound)), 0);
  ASSERT_EQ(listen(listener, 16), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&bound), &length), 0);

  const size_t lost = LostBlock();
  options_.view.nodes[owners_[lost]].address = Address{"127.0.0.1", ntohs(bound.sin_port)};
  options_.deadline = absl::Milliseconds(500);
  const std::unique_ptr<Client> client = NewClient();
  const absl::Time start = absl::Now();
  const auto match = client->Match(chain_);
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->blocks(), lost);
  EXPECT_THAT(MissReasonName(match->miss()), ::testing::AnyOf("deadline", "owner_down")) << match->why();
  EXPECT_EQ(Get(*client).blocks, lost);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  close(listener);
}

TEST_F(LoopbackTest, ANodeWhoseAddressResolvesToNothingCostsItsBlocksAndIsNamed) {
  Put(*NewClient());
  const size_t lost = LostBlock();
  options_.view.nodes[owners_[lost]].address = Address{"no-such-host.invalid", 7070};
  options_.deadline = absl::Seconds(5);
  const std::unique_ptr<Client> client = NewClient();
  const absl::Time start = absl::Now();
  const GetResult got = Get(*client);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_EQ(got.blocks, lost);
  EXPECT_EQ(MissReasonName(got.miss), "owner_down") << got.why;
  EXPECT_THAT(got.why, HasSubstr("no-such-host.invalid:7070"));
  const auto explained = client->Explain(chain_);
  ASSERT_TRUE(explained.ok()) << explained.status();
  for (size_t block = 0; block < kBlocks; ++block) {
    const BlockExplanation& fate = explained->blocks[block];
    const bool down = owners_[block] == owners_[lost];
    EXPECT_EQ(fate.miss, down ? v1::MISS_REASON_OWNER_DOWN : v1::MISS_REASON_UNSPECIFIED) << block << fate.detail;
    if (down) {
      EXPECT_THAT(fate.detail, HasSubstr("no-such-host.invalid:7070"));
    }
  }
}

TEST_F(LoopbackTest, ABlockLargerThanANodeIsAFaultThatSaysSo) {
  nodes_.clear();
  options_.view.nodes.clear();
  nodes_.push_back(testing::StartNode(64 << 10));
  options_.view.nodes.push_back(Node{NodeId{"small"}, nodes_[0]->data_address(), 1, 64 << 10});
  const std::unique_ptr<Client> client = NewClient();
  options_.ns.layers = 60;
  shape_ = options_.ns.Shape();
  kv_.resize(shape_.Elements() * kBlocks);
  const std::unique_ptr<Client> large = NewClient();
  const auto put = large->Put(large->Keys(tokens_), ContiguousPages<const uint16_t>(kv_.data(), shape_, capacity_));
  EXPECT_EQ(put.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(put.status().message()), HasSubstr("node small: a block of "));
}

TEST_F(LoopbackTest, ARemoteStoreKeepsABlockLikeAnyOther) {
  const std::unique_ptr<Channel> channel = transport_->Connect(nodes_[0]->data_address().ToString());
  RemoteStoreOptions options;
  options.channel = channel.get();
  std::memcpy(options.namespace_digest.data(), testing::kTestNamespace, options.namespace_digest.size());
  const std::unique_ptr<BlockStore> store = NewRemoteStore(options);
  const Key key = testing::TestKey(7);
  const std::string block = testing::TestBlock(key, 2, kSeed);
  const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(block.data()), block.size());

  EXPECT_EQ(store->Get(key)->miss, MissReason::kNeverStored);
  auto reservation = store->Reserve(key, block.size() + 64);
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  EXPECT_EQ(store->Reserve(key, block.size()).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ((*reservation)->Write(block.size() + 60, bytes.first(5)).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*reservation)->Commit(0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*reservation)->Commit(block.size() + 65).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*reservation)->Write(100, bytes.subspan(100)).ok());
  EXPECT_TRUE((*reservation)->Write(0, bytes.first(100)).ok());
  ASSERT_TRUE((*reservation)->Commit(block.size()).ok());
  EXPECT_EQ((*reservation)->Commit(block.size()).code(), absl::StatusCode::kFailedPrecondition);

  const auto match = store->Match({key, testing::TestKey(8)}, absl::Seconds(5));
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->hits, 1u);
  EXPECT_EQ(match->miss, MissReason::kNeverStored);
  EXPECT_EQ(match->hit_bytes, block.size());
  EXPECT_NE(match->lease.value, 0u);
  EXPECT_EQ(store->Stats()->leases, 1u);
  EXPECT_TRUE(store->Release(match->lease).ok());
  EXPECT_TRUE(store->Release(match->lease).ok());
  EXPECT_EQ(store->Stats()->leases, 0u);

  const auto lookup = store->Get(key);
  ASSERT_TRUE(lookup.ok() && lookup->block != nullptr);
  EXPECT_EQ(lookup->block->size_bytes(), block.size());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(lookup->block->pieces()[0].data()), block.size()), block);
  EXPECT_TRUE(*store->Erase(key));
  EXPECT_FALSE(*store->Erase(key));
  EXPECT_EQ(store->Get(key)->miss, MissReason::kErased);
}

TEST_F(LoopbackTest, TheCAbiPutsMatchesGetsAndErases) {
  const std::string path = ::testing::TempDir() + "/loopback_cluster.json";
  std::ofstream file(path);
  file << R"({"view": 1, "nodes": [)";
  for (size_t i = 0; i < kNodes; ++i) {
    file << (i > 0 ? "," : "") << R"({"id": "n)" << i << R"(", "address": ")" << nodes_[i]->data_address().ToString()
         << R"(", "capacity": "16MiB"})";
  }
  file << "]}";
  file.close();
  const kvist_namespace ns = {"test", "", "bf16", "", "", 3, 2, 64, 0, 1, 0, 1, 32, nullptr};
  kvist_options options{};
  options.cluster_file = path.c_str();
  options.codec = "raw16";
  options.deadline_ms = 20000;
  kvist_client* client = nullptr;
  kvist_error error{};
  ASSERT_EQ(kvist_client_create(&ns, &options, &client, &error), KVIST_OK) << error.message;

  kvist_put_result put;
  ASSERT_EQ(kvist_put(client, tokens_.data(), tokens_.size(), kv_.data(), capacity_, &put, &error), KVIST_OK)
      << error.message;
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  kvist_match_result match;
  ASSERT_EQ(kvist_match(client, tokens_.data(), tokens_.size(), &match, &error), KVIST_OK) << error.message;
  EXPECT_EQ(match.tokens, capacity_);
  EXPECT_NE(match.match_id, 0u);
  EXPECT_STREQ(match.miss_reason, "");
  std::vector<uint16_t> pages(kv_.size());
  kvist_get_result got;
  ASSERT_EQ(kvist_get(client, tokens_.data(), tokens_.size(), 0, match.blocks, pages.data(), capacity_, &got, &error),
            KVIST_OK);
  EXPECT_EQ(got.blocks, kBlocks);
  EXPECT_EQ(pages, kv_);
  EXPECT_EQ(kvist_release(client, match.match_id, &error), KVIST_OK);
  size_t needed = 0;
  std::vector<char> json(1 << 16);
  ASSERT_EQ(kvist_stats_json(client, json.data(), json.size(), &needed, &error), KVIST_OK);
  EXPECT_THAT(json.data(), HasSubstr("\"leases\":0"));
  uint32_t erased = 0;
  EXPECT_EQ(kvist_erase(client, tokens_.data(), tokens_.size(), &erased, &error), KVIST_OK);
  EXPECT_EQ(erased, kBlocks);
  ASSERT_EQ(kvist_match(client, tokens_.data(), tokens_.size(), &match, &error), KVIST_OK);
  EXPECT_STREQ(match.miss_reason, "erased");
  kvist_client_destroy(client);
}

}  // namespace
}  // namespace kvist
