// Goal: a node that lies cannot fill the memory of whoever uses it as a store. Method: a RemoteStore over a node in memory
// that announces more than it may.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/worker/remote_store.h"
#include "tests/services/worker/fake_cluster.h"

namespace kvist {
namespace {

TEST(RemoteStoreBounds, ABlockThatIsLargerThanTheNodesLimitIsRefusedBeforeItIsThere) {
  FakeCluster cluster(1);
  const std::unique_ptr<Channel> channel = cluster.Connect("n0:1");
  const Key key{};
  cluster.node(0).blocks[std::string(Key::kBytes, '\0')] = std::string(1000, 'b');
  RemoteStoreOptions options;
  options.channel = channel.get();
  options.max_block_bytes = 1000;
  const std::unique_ptr<BlockStore> store = NewRemoteStore(options);
  ASSERT_TRUE(store->Get(key).ok()) << store->Get(key).status();
  EXPECT_EQ(store->Get(key)->block->size_bytes(), 1000u);
  cluster.node(0).change_header = [](v1::GetHeader* header) { header->set_sent_bytes(1001); };
  EXPECT_EQ(store->Get(key).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(store->Get(key).status().message()), testing::HasSubstr("a block of 1001 bytes"));
  options.max_block_bytes = RemoteStoreOptions().max_block_bytes;
  cluster.node(0).change_header = [](v1::GetHeader* header) { header->set_sent_bytes(uint64_t{1} << 40); };
  EXPECT_EQ(NewRemoteStore(options)->Get(key).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace kvist
