// Goal: a node that drains refuses new blocks and nothing else: whoever reads what it still holds is not kept away by
// the refusals. Method: a worker's client over the handlers of three real nodes without sockets, one of which drains
// before any view says so, and then by a view.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "cachestore/host_tier.h"
#include "services/node/cache_handlers.h"
#include "services/node/local_channel.h"
#include "tests/services/worker/client_fixture.h"

namespace kvist {
namespace {

using testing::HasSubstr;

class NodeThatDrains {
 public:
  explicit NodeThatDrains(const std::string& id) {
    HostTierOptions tier;
    tier.capacity_bytes = 16 << 20;
    tier.clock = RealRuntime()->clock();
    tier_ = *HostTier::Create(tier);
    metrics_ = std::make_unique<Metrics>(id, "0");
    CacheHandlersOptions options;
    options.store = tier_.get();
    options.metrics = metrics_.get();
    options.runtime = RealRuntime();
    options.identity = {"0", id};
    options.capacity_bytes = tier.capacity_bytes;
    options.view = [this] {
      std::lock_guard lock(mutex_);
      return view_;
    };
    options.hooks.taking_blocks = [this] { return !draining; };
    handlers_ = std::make_unique<CacheHandlers>(std::move(options));
  }
  std::unique_ptr<Channel> Connect() { return NewLocalChannel(handlers_.get(), RealRuntime()); }
  void Learn(const View& view) {
    std::lock_guard lock(mutex_);
    view_ = std::make_shared<const View>(view);
  }

  std::atomic<bool> draining = false;

 private:
  std::mutex mutex_;
  std::shared_ptr<const View> view_;
  std::unique_ptr<HostTier> tier_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<CacheHandlers> handlers_;
};

class Nodes final : public Transport {
 public:
  explicit Nodes(const View& view) {
    for (const Node& node : view.nodes) {
      nodes_.push_back(std::make_unique<NodeThatDrains>(node.id.value));
      nodes_.back()->Learn(view);
    }
  }
  std::unique_ptr<Channel> Connect(const std::string& address) override {
    return nodes_.at(address[1] - '0')->Connect();
  }
  NodeThatDrains& node(size_t i) { return *nodes_.at(i); }

 private:
  std::vector<std::unique_ptr<NodeThatDrains>> nodes_;
};

class DrainingNodeTest : public ClientTest {
 protected:
  DrainingNodeTest() { options_.transport = &nodes_; }
  // A prompt that differs from the first token on.
  PutResult PutOtherPrompt(uint32_t first) {
    std::vector<uint32_t> tokens = Tokens(capacity_);
    tokens[0] = first;
    auto put = client().Put(client().Keys(tokens),
                            ContiguousPages<const uint16_t>(kv_.data(), options_.ns.Shape(), capacity_));
    EXPECT_TRUE(put.ok()) << put.status();
    return put.value_or(PutResult());
  }

  Nodes nodes_{cluster_.view()};
};

TEST_F(DrainingNodeTest, ManyRefusedPutsLeaveItReadable) {
  client();
  EXPECT_EQ(Put().stored, kBlocks);
  nodes_.node(owners_[0]).draining = true;
  size_t refused = 0;
  for (uint32_t prompt = 0; prompt < 10; ++prompt) {
    const PutResult put = PutOtherPrompt(prompt);
    EXPECT_EQ(put.stored + put.failed, kBlocks);
    EXPECT_THAT(put.failure, put.failed > 0 ? HasSubstr("this node is draining") : HasSubstr(""));
    refused += put.failed;
  }
  EXPECT_GT(refused, 10u);
  EXPECT_EQ(client().counters().openings, 0u);
  EXPECT_EQ(client().Match(chain_)->blocks(), kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
}

TEST_F(DrainingNodeTest, ItsSuccessorsTakeWhatItRefusesAndItIsReadAsThePreviousOwner) {
  client();
  EXPECT_EQ(Put().stored, kBlocks);
  const size_t left = owners_[0];
  nodes_.node(left).draining = true;
  View next = options_.view;
  next.number.value = 2;
  next.nodes[left].state = NodeState::kDraining;
  nodes_.node(left).Learn(next);
  // The others have not heard of it yet: what the client places by the view that it began with meets the refusal.
  for (uint32_t prompt = 0; prompt < 10; ++prompt) EXPECT_EQ(PutOtherPrompt(prompt).failed, 0u);
  EXPECT_EQ(client().view().number.value, 2u);
  EXPECT_EQ(client().Match(chain_)->blocks(), kBlocks);
  EXPECT_EQ(Get().blocks, kBlocks);
  EXPECT_EQ(client().counters().openings, 0u);
}

}  // namespace
}  // namespace kvist
