// Goal: the books of extra copies keep within their bytes whatever is listed, and what they order can serve.
// Method: HotCopies alone, on a manual clock; the test plays the senders.
#include "services/cluster/hot_copies.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/services/testing/manual_runtime.h"

namespace kvist {
namespace {

constexpr uint64_t kBlock = 1000;

Key KeyOf(uint8_t number) {
  Key key;
  key.bytes.fill(number);
  return key;
}

class HotCopiesTest : public ::testing::Test {
 protected:
  HotCopiesTest() {
    for (const char* id : {"n0", "n1", "n2", "n3"}) {
      Node node;
      node.id.value = id;
      view_.nodes.push_back(node);
      ranked_.push_back(node.id);
    }
  }
  // Blocks `first`, `first` + 1, ... of the segment.
  void List(uint8_t segment, uint8_t first, size_t count) {
    std::vector<ScannedBlock> blocks;
    for (size_t i = 0; i < count; ++i) {
      blocks.push_back({KeyOf(static_cast<uint8_t>(first + i)), {}, kBlock, /*gets=*/10, runtime_.Now()});
    }
    copies_.List(KeyOf(segment), 1, std::move(blocks));
  }
  std::vector<HotCopies::Order> PlanAndSend(uint8_t segment, size_t wanted) {
    std::vector<HotCopies::Order> orders = copies_.Plan(KeyOf(segment), ranked_, wanted);
    for (const HotCopies::Order& order : orders) copies_.Sent(order, runtime_.Now());
    return orders;
  }

  testing::ManualRuntime runtime_;
  View view_;
  std::vector<NodeId> ranked_;
  HotCopies copies_{{.limit_bytes = 10 * kBlock, .ttl = absl::Seconds(60)}, &runtime_};
};

TEST_F(HotCopiesTest, ANodeGetsAllOfASegmentOrNothing) {
  List(1, 10, 4);
  EXPECT_EQ(PlanAndSend(1, 3).size(), 8u) << "a third node would get two blocks of four";
  EXPECT_EQ(copies_.Nodes(KeyOf(1)), (std::vector<NodeId>{{"n1"}, {"n2"}}));
  List(2, 20, 11);
  EXPECT_TRUE(PlanAndSend(2, 1).empty()) << "it does not fit at all";
  List(3, 40, 2);
  EXPECT_EQ(PlanAndSend(3, 1).size(), 2u) << "and a smaller one does";
}

TEST_F(HotCopiesTest, CopiesOfBlocksThatAreListedNoMoreCountUntilTheyExpire) {
  List(1, 10, 4);
  ASSERT_EQ(PlanAndSend(1, 1).size(), 4u);
  List(1, 20, 4);
  ASSERT_EQ(PlanAndSend(1, 1).size(), 4u);
  List(1, 30, 4);
  EXPECT_TRUE(PlanAndSend(1, 1).empty()) << "eight blocks stand there";
  runtime_.Advance(absl::Seconds(61));
  copies_.Tick(view_);
  List(1, 30, 4);
  EXPECT_EQ(PlanAndSend(1, 1).size(), 4u);
}

TEST_F(HotCopiesTest, ABlockThatIsGoneHereStillCountsWhereItStands) {
  List(1, 10, 5);
  std::vector<HotCopies::Order> orders = copies_.Plan(KeyOf(1), ranked_, 2);
  ASSERT_EQ(orders.size(), 10u);
  for (const HotCopies::Order& order : orders) {
    if (order.to == NodeId{"n1"}) copies_.Sent(order, runtime_.Now());
    if (order.to == NodeId{"n2"}) copies_.Gone(order);
  }
  List(2, 20, 6);
  EXPECT_TRUE(PlanAndSend(2, 1).empty()) << "five blocks stand at n1";
  List(3, 30, 5);
  EXPECT_EQ(PlanAndSend(3, 1).size(), 5u);
}

TEST_F(HotCopiesTest, ACopyServesUntilShortlyBeforeItExpiresAndIsThenSentAgain) {
  List(1, 10, 2);
  const std::vector<HotCopies::Order> orders = PlanAndSend(1, 1);
  ASSERT_EQ(orders.size(), 2u);
  EXPECT_TRUE(copies_.Plan(KeyOf(1), ranked_, 1).empty());
  EXPECT_GE(orders[0].ttl, absl::Seconds(45));
  runtime_.Advance(orders[0].ttl - absl::Milliseconds(1100));
  EXPECT_EQ(copies_.Nodes(KeyOf(1)).size(), 1u);
  runtime_.Advance(absl::Milliseconds(200));
  EXPECT_TRUE(copies_.Nodes(KeyOf(1)).empty());
  runtime_.Advance(absl::Seconds(1));
  copies_.Tick(view_);
  List(1, 10, 2);
  EXPECT_EQ(copies_.Plan(KeyOf(1), ranked_, 1).size(), 2u);
}

}  // namespace
}  // namespace kvist
