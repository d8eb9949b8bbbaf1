// Goal: whatever order etcd's listings and changes come in, views are right and their numbers only go up.
// Method: the state machine by itself, fed with listings and changes on a clock of the test's.
#include "services/cluster/etcd_members.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "services/cluster/records.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kHold = absl::Seconds(10);

Node NodeOf(const std::string& id, uint64_t incarnation = 1) {
  Node node;
  node.id.value = id;
  node.address = {id, 7070};
  node.incarnation = incarnation;
  return node;
}

class EtcdMembersTest : public ::testing::Test {
 protected:
  EtcdKeyValue Entry(const std::string& id, int64_t revision, uint64_t incarnation = 1) {
    return {members_.NodeKey(NodeId{id}), RecordToJson(NodeOf(id, incarnation)), revision, 7};
  }
  EtcdChange Put(const std::string& id, int64_t revision, uint64_t incarnation = 1) {
    return {revision, false, {{false, Entry(id, revision, incarnation)}}};
  }
  EtcdChange Delete(std::vector<std::string> ids, int64_t revision) {
    EtcdChange change{revision, false, {}};
    for (const std::string& id : ids) change.events.push_back({true, {members_.NodeKey(NodeId{id}), "", revision, 0}});
    return change;
  }
  void List(std::vector<std::string> ids, int64_t revision, uint64_t cluster_id = 1) {
    EtcdListing listing{revision, cluster_id, {}};
    for (const std::string& id : ids) listing.entries.push_back(Entry(id, revision));
    members_.Apply(listing, now_);
  }
  std::string Ids() {
    if (std::optional<View> view = members_.TakeView()) last_ = *view;
    std::string ids;
    for (const Node& node : last_.nodes) absl::StrAppend(&ids, ids.empty() ? "" : " ", node.id.value);
    return ids;
  }
  uint64_t Number() {
    Ids();
    return last_.number.value;
  }

  EtcdMembers members_{"c", kHold};
  absl::Time now_ = absl::FromUnixSeconds(1000);
  View last_;
};

TEST_F(EtcdMembersTest, AListingMakesAViewOfItsRevision) {
  EXPECT_FALSE(members_.TakeView().has_value());
  List({"a", "b"}, 42);
  EXPECT_EQ(Ids(), "a b");
  EXPECT_EQ(Number(), 42u);
  EXPECT_FALSE(members_.TakeView().has_value()) << "nothing has changed since";
  EXPECT_EQ(members_.revision(), 42);
}

TEST_F(EtcdMembersTest, ChangesJoinAndLeaveAtOnce) {
  List({"a", "b", "c"}, 10);
  members_.Apply(Put("d", 11), now_);
  EXPECT_EQ(Ids(), "a b c d");
  EXPECT_EQ(Number(), 11u);
  members_.Apply(Delete({"b"}, 12), now_);
  EXPECT_EQ(Ids(), "a c d");
  EXPECT_EQ(Number(), 12u);
}

TEST_F(EtcdMembersTest, AProgressReportMovesTheRevisionAndMakesNoView) {
  List({"a"}, 10);
  Ids();
  members_.Apply(EtcdChange{50, false, {}}, now_);
  EXPECT_EQ(members_.revision(), 50);
  EXPECT_FALSE(members_.TakeView().has_value());
}

TEST_F(EtcdMembersTest, WhoIsMissingFromAListingIsHeldAndThenGone) {
  List({"a", "b"}, 10);
  List({"a"}, 20);
  EXPECT_EQ(Ids(), "a b");
  EXPECT_EQ(members_.NextTick(), now_ + kHold);
  now_ += kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "a");
  EXPECT_EQ(members_.NextTick(), absl::InfiniteFuture());
}

TEST_F(EtcdMembersTest, WhoRegistersWhileHeldStays) {
  List({"a", "b"}, 10);
  List({"a"}, 20);
  members_.Apply(Put("b", 21, 5), now_);
  now_ += 2 * kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "a b");
}

TEST_F(EtcdMembersTest, WhenMostOfThemVanishTogetherTheyAreHeld) {
  List({"a", "b", "c", "d"}, 10);
  members_.Apply(Delete({"a", "b", "c"}, 11), now_);
  EXPECT_EQ(Ids(), "a b c d");
  now_ += kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "d");
}

TEST_F(EtcdMembersTest, OurOwnRecordIsMissedAndWeStayInTheView) {
  List({"a", "b"}, 10);
  members_.SetSelf(NodeOf("a"));
  EXPECT_FALSE(members_.own_record_is_gone());
  members_.Apply(Delete({"a"}, 11), now_);
  EXPECT_TRUE(members_.own_record_is_gone());
  now_ += 3 * kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "a b");
  members_.Apply(Put("a", 12, 2), now_);
  EXPECT_FALSE(members_.own_record_is_gone());
  EXPECT_EQ(members_.GreatestIncarnation(NodeId{"a"}), 2u);
}

TEST_F(EtcdMembersTest, AWipedEtcdKeepsMembersAndNumbersGoOnUpwards) {
  List({"a", "b", "c"}, 900);
  EXPECT_EQ(Number(), 900u);
  List({}, 1);
  EXPECT_EQ(Ids(), "a b c");
  EXPECT_EQ(members_.WantedBase(), 900u);
  members_.Apply(EtcdChange{2, false, {{false, {members_.BaseKey(), "900", 2, 0}}}}, now_);
  EXPECT_EQ(members_.WantedBase(), 0u);
  members_.Apply(Put("a", 3, 2), now_);
  EXPECT_EQ(Ids(), "a b c");
  EXPECT_EQ(Number(), 903u);
  now_ += kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "a");
  EXPECT_GT(Number(), 903u);
}

TEST_F(EtcdMembersTest, TheGreatestBaseWins) {
  List({"a"}, 900);
  Ids();
  List({}, 1, 2);
  members_.Apply(EtcdChange{2, false, {{false, {members_.BaseKey(), "500", 2, 0}}}}, now_);
  EXPECT_EQ(members_.WantedBase(), 900u) << "another member remembers less";
  EXPECT_EQ(members_.base_mod_revision(), 2);
  members_.Apply(EtcdChange{3, false, {{false, {members_.BaseKey(), "1200", 3, 0}}}}, now_);
  EXPECT_EQ(members_.WantedBase(), 0u);
  members_.Apply(Put("b", 4), now_);
  EXPECT_EQ(Number(), 1204u);
}

TEST_F(EtcdMembersTest, RecordsThatCannotBeUsedAreLeftOutAndNamed) {
  List({"a"}, 10);
  Node later = NodeOf("later");
  later.protocol = kProtocolVersion + 1;
  EtcdChange change{11, false, {}};
  for (const auto& [id, value] : std::vector<std::pair<std::string, std::string>>{{"garbage", "\x01\x02{"},
                                                                                  {"other", RecordToJson(NodeOf("a"))},
                                                                                  {"later", RecordToJson(later)},
                                                                                  {"..", "{}"}}) {
    change.events.push_back({false, {members_.NodeKey(NodeId{id}), value, 11, 7}});
  }
  members_.Apply(change, now_);
  EXPECT_EQ(Ids(), "a");
  for (const char* part : {"/kvist/c/nodes/garbage is left out: it is no node record", "it names node \"a\"",
                           "speaks protocol 2", "/kvist/c/nodes/.. is left out"}) {
    EXPECT_THAT(members_.Problems(), HasSubstr(part));
  }
  members_.Apply(Delete({"garbage", "other", "later", ".."}, 12), now_);
  EXPECT_EQ(members_.Problems(), "");
}

TEST_F(EtcdMembersTest, OfTwoRecordsWithOneAddressTheLaterCounts) {
  List({"a"}, 10);
  Node renamed = NodeOf("z");
  renamed.address = NodeOf("a").address;
  members_.Apply(EtcdChange{11, false, {{false, {members_.NodeKey(renamed.id), RecordToJson(renamed), 11, 8}}}}, now_);
  EXPECT_EQ(Ids(), "z");
}

TEST(Records, GoToJsonAndBack) {
  Node node = NodeOf("n1", 77);
  node.http = {"n1", 8080};
  node.weight = 2.5;
  node.capacity_bytes = 1ull << 40;
  node.state = NodeState::kJoining;
  node.ramp = 0.25;
  const auto read = RecordFromJson(RecordToJson(node));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, node);
}

TEST(Records, AViewGoesOverTheWireAndBack) {
  View view;
  view.number.value = 5;
  view.nodes = {NodeOf("a"), NodeOf("b", 3)};
  const auto read = ViewFromWire(ViewToWire(view));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, view);
}

}  // namespace
}  // namespace kvist
