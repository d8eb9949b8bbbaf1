// Goal: blocks are counted by the namespace they are of, and no caller makes the node export without bound. Method: Gets
// and Puts on a node without sockets, and the counters it exposes.
#include "services/node/namespace_figures.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/services/node/local_node.h"

namespace kvist {
namespace {

using testing::GetBlocks;
using testing::GetRequestFor;
using testing::LocalNode;
using testing::TestKey;

std::string Digest(int number) {
  char digest[17];
  std::snprintf(digest, sizeof(digest), "%03d namespace...", number);
  return digest;
}
std::string Label(int number) { return absl::BytesToHexString(Digest(number)).substr(0, 12); }

double Count(const LocalNode& node, const char* what, const std::string& label) {
  return node.Figure(absl::StrCat("kvist_namespace_", what, "_blocks_total{kv_namespace=\"", label, "\"}"));
}

TEST(NamespaceFiguresTest, GetsAndPutsAreCountedByTheNamespaceOfTheBlock) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 2, Digest(1)).ok());
  ASSERT_TRUE(node.Put(TestKey(2), 2, Digest(2)).ok());
  v1::GetRequest get = GetRequestFor({TestKey(1), TestKey(9), TestKey(2)});
  get.set_namespace_digest(Digest(1));
  ASSERT_TRUE(GetBlocks(node.channel.get(), get, node.In(60)).ok());
  EXPECT_EQ(Count(node, "stored", Label(1)), 1);
  EXPECT_EQ(Count(node, "hit", Label(1)), 1);
  EXPECT_EQ(Count(node, "missed", Label(1)), 2);  // one is nowhere, one is another's
  EXPECT_EQ(Count(node, "hit", Label(2)), 0);
}

TEST(NamespaceFiguresTest, AHitOfAGetThatNamesNoNamespaceIsItsBlocks) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(2), 2, Digest(2)).ok());
  ASSERT_TRUE(GetBlocks(node.channel.get(), GetRequestFor({TestKey(2), TestKey(9)}), node.In(60)).ok());
  EXPECT_EQ(Count(node, "hit", Label(2)), 1);
  EXPECT_EQ(Count(node, "missed", Label(2)), 0);
  EXPECT_EQ(Count(node, "missed", "other"), 1);
}

TEST(NamespaceFiguresTest, WhoOnlyAsksEarnsNoName) {
  LocalNode node;
  for (int i = 0; i < 100; ++i) {
    v1::GetRequest get = GetRequestFor({TestKey(1)});
    get.set_namespace_digest(Digest(i));
    ASSERT_TRUE(GetBlocks(node.channel.get(), get, node.In(60)).ok());
  }
  EXPECT_EQ(Count(node, "missed", "other"), 100);
  EXPECT_EQ(Count(node, "missed", Label(0)), -1);
}

TEST(NamespaceFiguresTest, TheFirstNamespacesHaveNamesAndTheRestIsOther) {
  LocalNode node;
  const int named = NamespaceFigures::kNamed;
  for (int i = 0; i < named + 10; ++i) ASSERT_TRUE(node.Put(TestKey(static_cast<uint8_t>(i + 1)), 2, Digest(i)).ok());
  EXPECT_EQ(Count(node, "stored", Label(0)), 1);
  EXPECT_EQ(Count(node, "stored", Label(named - 1)), 1);
  EXPECT_EQ(Count(node, "stored", Label(named)), -1);
  EXPECT_EQ(Count(node, "stored", "other"), 10);
  ASSERT_TRUE(GetBlocks(node.channel.get(), GetRequestFor({TestKey(1), TestKey(named + 5)}), node.In(60)).ok());
  EXPECT_EQ(Count(node, "hit", Label(0)), 1);
  EXPECT_EQ(Count(node, "hit", "other"), 1);
}

}  // namespace
}  // namespace kvist
