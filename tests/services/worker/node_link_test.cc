// Goal: what waits for one node is bounded. Method: a link whose turns are all taken by tasks that wait for the test.
#include "services/worker/node_link.h"

#include <gtest/gtest.h>

#include <condition_variable>

#include "tests/services/worker/fake_cluster.h"

namespace kvist {
namespace {

TEST(NodeLink, SoManyTasksWaitAndNoMore) {
  FakeCluster cluster(1);
  ThreadPool callers(RealRuntime(), kLinkCalls);
  const auto link = std::make_shared<NodeLink>(cluster.view().nodes[0], cluster.Connect("n0:1"),
                                               NodeLink::Uses{RealRuntime(), &callers, BreakerOptions(), 1, nullptr});
  std::mutex mutex;
  std::condition_variable changed;
  size_t begun = 0, ended = 0;
  bool open = false;
  const auto task = [&] {
    std::unique_lock lock(mutex);
    ++begun;
    changed.notify_all();
    changed.wait(lock, [&] { return open; });
    ++ended;
    changed.notify_all();
  };
  for (size_t i = 0; i < kLinkCalls; ++i) ASSERT_TRUE(link->Submit(task).ok());
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return begun == kLinkCalls; });
  }
  for (size_t i = 0; i < kLinkQueued; ++i) ASSERT_TRUE(link->Submit(task).ok()) << i;
  EXPECT_EQ(link->Submit(task).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(link->Refusal().code(), absl::StatusCode::kResourceExhausted);
  std::unique_lock lock(mutex);
  EXPECT_EQ(begun, kLinkCalls);
  open = true;
  changed.notify_all();
  changed.wait(lock, [&] { return ended == kLinkCalls + kLinkQueued; });
  EXPECT_TRUE(link->Refusal().ok());
  EXPECT_TRUE(link->Submit([] {}).ok());
}

}  // namespace
}  // namespace kvist
