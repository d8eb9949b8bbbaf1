// A worker over nodes in memory: one prompt of random values, put and read back, and compared bit by bit.
#ifndef KVIST_TESTS_SERVICES_WORKER_CLIENT_FIXTURE_H_
#define KVIST_TESTS_SERVICES_WORKER_CLIENT_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"
#include "services/transport/miss_reason.h"
#include "services/worker/client.h"
#include "tests/services/worker/fake_cluster.h"

namespace kvist {

inline constexpr size_t kBlocks = 20;
inline constexpr uint64_t kSeed = 20261102;

inline Namespace TestNamespace() {
  Namespace ns;
  ns.model = "test";
  ns.layers = 2;
  ns.heads = 2;
  ns.head_dim = 64;
  ns.tokens_per_block = 16;
  return ns;
}

inline std::vector<uint32_t> Tokens(size_t count) {
  std::vector<uint32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 1000);
  return tokens;
}

inline uint16_t Bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);
}

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    options_.ns = TestNamespace();
    options_.view = cluster_.view();
    options_.transport = &cluster_;
    options_.codec = Codec::kRaw16;
    options_.deadline = absl::Seconds(20);
    const BlockShape shape = options_.ns.Shape();
    kv_.resize(shape.Elements() * kBlocks);
    std::mt19937_64 random(kSeed);
    std::normal_distribution<float> values;
    for (uint16_t& value : kv_) value = Bf16(values(random));
    capacity_ = kBlocks * shape.tokens;
  }

  Client& client() {
    if (client_ == nullptr) {
      auto created = Client::Create(options_);
      EXPECT_TRUE(created.ok()) << created.status();
      client_ = *std::move(created);
      chain_ = client_->Keys(Tokens(capacity_ + 5));
      owners_ = ChainOwners(chain_, client_->view());
    }
    return *client_;
  }
  // The next call to client() makes one with the options as they are now.
  void NewClient() { client_ = nullptr; }

  PutResult Put() {
    auto result = client().Put(chain_, ContiguousPages<const uint16_t>(kv_.data(), options_.ns.Shape(), capacity_));
    EXPECT_TRUE(result.ok()) << result.status();
    return result.value_or(PutResult());
  }
  absl::StatusOr<GetResult> TryGet(BlockRange range) {
    got_.assign(kv_.size(), 0xdead);
    return client().Get(chain_, range, ContiguousPages(got_.data(), options_.ns.Shape(), capacity_));
  }
  // Gets the whole prompt and checks that all that it claims to deliver is what was put.
  GetResult Get(BlockRange range = {0, kBlocks}) {
    auto result = TryGet(range);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return {};
    const BlockShape shape = options_.ns.Shape();
    const auto put = ContiguousPages<const uint16_t>(kv_.data(), shape, capacity_);
    const auto got = ContiguousPages<const uint16_t>(got_.data(), shape, capacity_);
    const size_t first = range.first * shape.tokens, last = (range.first + result->blocks) * shape.tokens;
    for (size_t row = 0; row < 2 * shape.layers * shape.heads; ++row) {
      for (size_t token = first; token < last; ++token) {
        const size_t at = row * put.head_stride + token * put.token_stride;
        EXPECT_EQ(std::memcmp(put.base + at, got.base + at, shape.head_dim * 2), 0)
            << "row " << row << " token " << token;
      }
    }
    return *result;
  }

  FakeNode& OwnerOf(size_t block) { return cluster_.node(owners_.at(block)); }
  std::string OwnerName(size_t block) { return absl::StrCat("n", owners_.at(block)); }
  std::string& StoredBlock(size_t block) { return OwnerOf(block).blocks.at(KeyBytes(block)); }
  std::string KeyBytes(size_t block) { return std::string(chain_[block].bytes.begin(), chain_[block].bytes.end()); }
  size_t FirstBlockOf(size_t owner) { return std::find(owners_.begin(), owners_.end(), owner) - owners_.begin(); }
  // A block that is not the first of all, of another owner than block 0.
  size_t BlockOfAnotherOwner() {
    return std::find_if(owners_.begin(), owners_.end(), [&](size_t owner) { return owner != owners_[0]; }) -
           owners_.begin();
  }

  // All that a node holds, as its replica would have it: the next node of each segment.
  void Replicate() {
    for (size_t block = 0; block < kBlocks; ++block) {
      const std::vector<size_t> owners = Owners(chain_[SegmentHead(block)], options_.view, 2);
      cluster_.node(owners[1]).blocks[KeyBytes(block)] = cluster_.node(owners[0]).blocks.at(KeyBytes(block));
    }
  }
  size_t Replica(size_t block) { return Owners(chain_[SegmentHead(block)], options_.view, 2)[1]; }

  void ExpectMiss(const GetResult& result, size_t block, v1::MissReason reason) {
    EXPECT_EQ(result.blocks, block);
    EXPECT_EQ(MissReasonName(result.miss), MissReasonName(reason)) << result.why;
    EXPECT_EQ(result.miss_node, OwnerName(block));
  }

  FakeCluster cluster_{3};
  ClientOptions options_;
  std::vector<uint16_t> kv_, got_;
  size_t capacity_ = 0;
  std::vector<Key> chain_;
  std::vector<size_t> owners_;
  std::unique_ptr<Client> client_;
};

}  // namespace kvist

#endif  // KVIST_TESTS_SERVICES_WORKER_CLIENT_FIXTURE_H_
