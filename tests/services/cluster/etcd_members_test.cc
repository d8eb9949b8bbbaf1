// Goal: whatever order etcd's listings and changes come in, views are right and their numbers only go up.
// Method: the state machine by itself, fed with listings and changes on a clock of the test's.
#include "services/cluster/etcd_members.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

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
  using Events = std::vector<EtcdEvent>;
  Events Put(const std::string& id, int64_t revision, uint64_t incarnation = 1) {
    return {{false, Entry(id, revision, incarnation)}};
  }
  Events PutBase(const std::string& base, int64_t revision) {
    return {{false, {members_.BaseKey(), base, revision, 0}}};
  }
  Events Delete(std::vector<std::string> ids, int64_t revision) {
    Events events;
    for (const std::string& id : ids) events.push_back({true, {members_.NodeKey(NodeId{id}), "", revision, 0}});
    return events;
  }
  // Their records were written at `written`; 0: last of all.
  void List(std::vector<std::string> ids, int64_t revision, uint64_t cluster_id = 1, int64_t written = 0) {
    EtcdListing listing{revision, cluster_id, {}};
    for (const std::string& id : ids) listing.entries.push_back(Entry(id, written == 0 ? revision : written));
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

TEST_F(EtcdMembersTest, WhatIsKnownAlreadyIsPassedOver) {
  List({"a"}, 10);
  members_.Apply(Delete({"a"}, 9), now_);
  EXPECT_EQ(Ids(), "a");
  EXPECT_EQ(members_.revision(), 10);
}

TEST_F(EtcdMembersTest, ARecordThatGoesAndComesInOneBatchStays) {
  List({"a", "b"}, 10);
  Events events = Delete({"b"}, 11);
  events.push_back(Put("b", 12, 2).front());
  members_.Apply(events, now_);
  EXPECT_EQ(Ids(), "a b");
  EXPECT_EQ(Number(), 12u);
  events = Put("c", 13);
  events.push_back(Delete({"c"}, 14).front());
  members_.Apply(events, now_);
  EXPECT_EQ(Ids(), "a b");
}

TEST_F(EtcdMembersTest, SeveralEventsOfOneRevisionAllCount) {
  List({"a"}, 10);
  Events events = Put("b", 11);
  events.push_back(Put("c", 11).front());
  members_.Apply(events, now_);
  EXPECT_EQ(Ids(), "a b c");
}

TEST_F(EtcdMembersTest, WhoIsMissingFromAListingIsHeldAndGoesUnderANumberOfItsOwn) {
  List({"a", "b"}, 10);
  EXPECT_EQ(Number(), 10u);
  List({"a"}, 20, 1, /*written=*/10);
  EXPECT_EQ(Ids(), "a b");
  EXPECT_EQ(members_.NextTick(), now_ + kHold);
  EXPECT_EQ(members_.WantedBase(), std::nullopt);
  now_ += kHold;
  members_.Tick(now_);
  EXPECT_EQ(members_.NextTick(), absl::InfiniteFuture());
  EXPECT_EQ(Ids(), "a");
  EXPECT_EQ(Number(), 20u);
}

TEST_F(EtcdMembersTest, AViewThatHasNoNumberLeftWaitsUntilEtcdCountsOn) {
  List({"a", "b"}, 10);
  members_.Apply(Put("c", 20), now_);
  EXPECT_EQ(Number(), 20u);
  List({"a", "c"}, 20);
  now_ += kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "a b c") << "20 is the view with b: who has it would never learn of another 20";
  EXPECT_EQ(members_.WantedBase(), 0u) << "any write will do";
  members_.Apply(PutBase("0", 21), now_);
  EXPECT_EQ(Ids(), "a c");
  EXPECT_EQ(Number(), 21u);
  EXPECT_EQ(members_.WantedBase(), std::nullopt);
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
  members_.Apply(PutBase("0", 12), now_);
  EXPECT_EQ(Ids(), "d");
}

TEST_F(EtcdMembersTest, WhenMostOfThemVanishOneByOneInAShortTimeTheyComeBackUntilTheHoldIsOver) {
  List({"a", "b", "c", "d"}, 10);
  members_.Apply(Delete({"a"}, 11), now_);
  EXPECT_EQ(Ids(), "b c d");
  members_.Apply(Delete({"b"}, 12), now_ += absl::Seconds(1));
  EXPECT_EQ(Ids(), "c d");
  members_.Apply(Delete({"c"}, 13), now_ += absl::Seconds(1));
  EXPECT_EQ(Ids(), "a b c d");
  members_.Apply(Put("a", 14, 2), now_);
  now_ += kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "a d");
}

TEST_F(EtcdMembersTest, OurOwnRecordCountsAmongThoseThatVanish) {
  List({"a", "b", "c"}, 10);
  members_.SetSelf(NodeOf("a"), 10);
  members_.Apply(Delete({"a", "b"}, 11), now_);
  EXPECT_EQ(Ids(), "a b c");
}

TEST_F(EtcdMembersTest, ThoseThatVanishFarApartAreNotHeld) {
  List({"a", "b", "c", "d"}, 10);
  members_.Apply(Delete({"a"}, 11), now_);
  members_.Apply(Delete({"b"}, 12), now_ += kHold / 2);
  members_.Apply(Delete({"c"}, 13), now_ += kHold / 2);
  EXPECT_EQ(Ids(), "d");
}

TEST_F(EtcdMembersTest, ThoseThatDrainedAreNotHeld) {
  List({"a", "b", "c"}, 10);
  int64_t revision = 10;
  for (const char* id : {"a", "b"}) {
    Node draining = NodeOf(id);
    draining.state = NodeState::kDraining;
    members_.Apply(Events{{false, {members_.NodeKey(NodeId{id}), RecordToJson(draining), ++revision, 7}}}, now_);
  }
  members_.Apply(Delete({"a"}, 13), now_);
  EXPECT_EQ(Ids(), "b c");
  List({"c"}, 20);
  EXPECT_EQ(Ids(), "c");
}

// Simulation, seed 3006: one node listed after a record was written twice, the others had watched; their numbers differed
// until the next change.
TEST_F(EtcdMembersTest, WhoWatchedARecordWrittenTwiceHasTheNumberOfWhoListsIt) {
  List({"a", "b"}, 10);
  EXPECT_EQ(Number(), 10u);
  members_.Apply(Put("b", 12), now_);
  EXPECT_EQ(Number(), 12u);
  members_.Apply(Put("b", 13), now_);
  EXPECT_EQ(Number(), 13u) << "the same record again";
  EXPECT_EQ(Ids(), "a b");
}

TEST_F(EtcdMembersTest, AListingOfWhatIsKnownMakesNoViewOfWhatOthersWrote) {
  List({"a", "b"}, 10);
  EXPECT_EQ(Number(), 10u);
  List({"a", "b"}, 500, 1, /*written=*/10);
  EXPECT_FALSE(members_.TakeView().has_value()) << "other keys of a shared etcd changed";
}

TEST_F(EtcdMembersTest, TheLastMemberStaysInTheViewThatThereWas) {
  List({"a"}, 10);
  EXPECT_EQ(Ids(), "a");
  members_.Apply(Delete({"a"}, 11), now_);
  EXPECT_FALSE(members_.TakeView().has_value());
  EXPECT_EQ(members_.WantedBase(), std::nullopt);
  members_.Apply(Put("b", 12), now_);
  EXPECT_EQ(Ids(), "b");
}

TEST_F(EtcdMembersTest, OurOwnRecordIsMissedAndWeStayInTheView) {
  List({"a", "b"}, 10);
  members_.SetSelf(NodeOf("a"), 10);
  EXPECT_FALSE(members_.own_record_is_gone());
  members_.Apply(Delete({"a"}, 11), now_);
  EXPECT_TRUE(members_.own_record_is_gone());
  EXPECT_EQ(members_.Entry(NodeId{"a"}), nullptr);
  now_ += 3 * kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "a b");
  EXPECT_EQ(members_.GreatestIncarnation(NodeId{"a"}), 1u);
  members_.SetSelf(NodeOf("a", 2), 12);
  EXPECT_FALSE(members_.own_record_is_gone()) << "what came up to 11 says nothing about 12";
  members_.Apply(Put("a", 12, 2), now_);
  EXPECT_FALSE(members_.own_record_is_gone());
  members_.Apply(Put("a", 13, 3), now_);
  EXPECT_TRUE(members_.own_record_is_gone()) << "another wrote over it";
  members_.Apply(Delete({"a"}, 14), now_);
  EXPECT_EQ(Ids(), "a b");
  members_.ForgetSelf();
  members_.Apply(Put("c", 15), now_);
  EXPECT_EQ(Ids(), "b c");
}

TEST_F(EtcdMembersTest, AWipedEtcdKeepsMembersAndNumbersGoOnUpwards) {
  List({"a", "b", "c"}, 900);
  EXPECT_EQ(Number(), 900u);
  List({}, 1);
  EXPECT_EQ(Ids(), "a b c");
  EXPECT_EQ(members_.WantedBase(), 900u);
  EXPECT_EQ(members_.base_mod_revision(), 0);
  members_.Apply(PutBase("900", 2), now_);
  EXPECT_EQ(members_.WantedBase(), std::nullopt);
  EXPECT_EQ(Number(), 902u);
  members_.Apply(Put("a", 3, 2), now_);
  EXPECT_EQ(Ids(), "a b c");
  EXPECT_EQ(Number(), 903u);
  now_ += kHold;
  members_.Tick(now_);
  EXPECT_EQ(Ids(), "a b c");
  EXPECT_EQ(members_.WantedBase(), 900u);
  members_.Apply(PutBase("900", 4), now_);
  EXPECT_EQ(Ids(), "a");
  EXPECT_EQ(Number(), 904u);
}

TEST_F(EtcdMembersTest, AWipedEtcdThatHasCountedPastUsIsNoTroubleEither) {
  List({"a", "b"}, 10);
  members_.Apply(PutBase("500", 11), now_);
  EXPECT_EQ(Number(), 511u);
  List({"b"}, 40);  // and no base: 40 would be less than 511
  EXPECT_EQ(Ids(), "a b");
  EXPECT_EQ(members_.WantedBase(), 511u);
  members_.Apply(PutBase("511", 41), now_);
  EXPECT_EQ(Number(), 552u);
}

TEST_F(EtcdMembersTest, TheGreatestBaseWins) {
  List({"a"}, 900);
  Ids();
  List({}, 1, 2);
  members_.Apply(PutBase("500", 2), now_);
  EXPECT_EQ(members_.WantedBase(), 900u) << "another member remembers less";
  EXPECT_EQ(members_.base_mod_revision(), 2);
  members_.Apply(PutBase("1200", 3), now_);
  EXPECT_EQ(members_.WantedBase(), std::nullopt);
  members_.Apply(Put("b", 4), now_);
  EXPECT_EQ(Number(), 1204u);
}

TEST_F(EtcdMembersTest, ABaseThatIsDeletedOrGarbageIsWrittenAnew) {
  List({"a"}, 10);
  members_.Apply(PutBase("100", 11), now_);
  EXPECT_EQ(Number(), 111u);
  members_.Apply(Events{{true, {members_.BaseKey(), "", 12, 0}}}, now_);
  EXPECT_EQ(members_.WantedBase(), 111u);
  EXPECT_EQ(members_.base_mod_revision(), 0);
  for (const char* garbage : {"a\nlot", "18446744073709551615", "-5"}) {
    members_.Apply(PutBase(garbage, members_.revision() + 1), now_);
    EXPECT_EQ(members_.WantedBase(), 111u) << garbage;
    EXPECT_THAT(members_.Problems(), HasSubstr("/kvist/c/base holds"));
  }
  members_.Apply(PutBase("111", 20), now_);
  EXPECT_EQ(Number(), 131u);
  EXPECT_EQ(members_.Problems(), "");
}

TEST_F(EtcdMembersTest, AnyOrderOfEventsLeavesNumbersThatOnlyGoUp) {
  std::mt19937_64 random(std::random_device{}());
  const uint64_t seed = random();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  random.seed(seed);
  // Two members see one etcd, each with gaps of its own; whoever wants a base writes it.
  struct Watcher {
    EtcdMembers members{"c", kHold};
    View last;
    bool listed = false;  // since the last wipe: a watch does not outlive one
  };
  Watcher watchers[2];
  std::map<std::string, EtcdKeyValue> store;
  int64_t revision = 1;
  const auto write = [&](EtcdEvent event) {
    event.entry.mod_revision = ++revision;
    if (event.deleted) {
      store.erase(event.entry.key);
    } else {
      store[event.entry.key] = event.entry;
    }
    for (Watcher& watcher : watchers) {
      if (watcher.listed && watcher.members.revision() == revision - 1) watcher.members.Apply(Events{event}, now_);
    }
  };
  for (int step = 0; step < 20'000; ++step) {
    const std::string id(1, static_cast<char>('a' + random() % 6));
    Watcher& watcher = watchers[random() % 2];
    switch (random() % 8) {
      case 0:
      case 1:
        write({false, Entry(id, 0, random() % 5)});
        break;
      case 2:
        write({true, {members_.NodeKey(NodeId{id}), "", 0, 0}});
        break;
      case 3: {
        EtcdListing listing{revision, 1, {}};
        for (const auto& [key, entry] : store) listing.entries.push_back(entry);
        watcher.members.Apply(listing, now_);
        watcher.listed = true;
        break;
      }
      case 4:
        now_ += kHold / 4;
        watcher.members.Tick(now_);
        break;
      case 5:
        if (random() % 50 == 0) {
          store.clear();
          revision = 1;
          for (Watcher& each : watchers) each.listed = false;
        }
        break;
      default:
        if (!watcher.listed || watcher.members.revision() != revision) break;
        if (const auto base = watcher.members.WantedBase()) {
          const auto stands = store.find(members_.BaseKey());
          const int64_t mod = stands == store.end() ? 0 : stands->second.mod_revision;
          ASSERT_EQ(mod, watcher.members.base_mod_revision());
          write({false, {members_.BaseKey(), absl::StrCat(*base), 0, 0}});
          ASSERT_EQ(watcher.members.WantedBase(), std::nullopt) << "step " << step;
        }
    }
    for (Watcher& each : watchers) {
      if (const std::optional<View> view = each.members.TakeView()) {
        ASSERT_GT(view->number, each.last.number) << "step " << step;
        ASSERT_TRUE(ValidateView(*view).ok()) << ValidateView(*view);
        each.last = *view;
      }
    }
  }
}

TEST_F(EtcdMembersTest, RecordsThatCannotBeUsedAreLeftOutAndNamed) {
  List({"a"}, 10);
  Node later = NodeOf("later");
  later.protocol = kProtocolVersion + 1;
  Node unbound = NodeOf("unbound");
  unbound.address.port = 0;
  Events events;
  for (const auto& [id, value] : std::vector<std::pair<std::string, std::string>>{{"garbage", "\x01\x02{"},
                                                                                  {"other", RecordToJson(NodeOf("a"))},
                                                                                  {"later", RecordToJson(later)},
                                                                                  {"unbound", RecordToJson(unbound)},
                                                                                  {"..", "{}"}}) {
    events.push_back({false, {members_.NodeKey(NodeId{id}), value, 11, 7}});
  }
  members_.Apply(events, now_);
  EXPECT_EQ(Ids(), "a");
  for (const char* part : {"/kvist/c/nodes/garbage\" is left out: it is no node record", "it names node \"a\"",
                           "speaks protocol 2", "/kvist/c/nodes/..\" is left out", "1 more"}) {
    EXPECT_THAT(members_.Problems(), HasSubstr(part));
  }
  members_.Apply(Delete({"garbage", "other", "later", ".."}, 12), now_);
  EXPECT_THAT(members_.Problems(), HasSubstr("its address has port 0"));
  members_.Apply(Delete({"unbound"}, 13), now_);
  EXPECT_EQ(members_.Problems(), "");
}

TEST_F(EtcdMembersTest, OfTwoRecordsWithOneAddressTheLaterCounts) {
  List({"a"}, 10);
  Node renamed = NodeOf("z");
  renamed.address = NodeOf("a").address;
  members_.Apply(Events{{false, {members_.NodeKey(renamed.id), RecordToJson(renamed), 11, 8}}}, now_);
  EXPECT_EQ(Ids(), "z");
}

TEST_F(EtcdMembersTest, ARecordThatIsHeldGivesWayToOneThatStandsAtItsAddress) {
  List({"a"}, 900);
  List({}, 1);
  members_.Apply(PutBase("900", 2), now_);
  EXPECT_EQ(Ids(), "a");
  Node renamed = NodeOf("z");
  renamed.address = NodeOf("a").address;
  members_.Apply(Events{{false, {members_.NodeKey(renamed.id), RecordToJson(renamed), 3, 8}}}, now_);
  EXPECT_EQ(Ids(), "z");
}

TEST_F(EtcdMembersTest, WhatOthersPutUnderOurPrefixIsBounded) {
  List({"a"}, 10);
  for (int64_t i = 0; i < 6'000; ++i) {
    Node node = NodeOf(absl::StrCat("n", i));
    members_.Apply(Events{{false, {members_.NodeKey(node.id), RecordToJson(node), 11 + i, 7}}}, now_);
  }
  const std::optional<View> view = members_.TakeView();
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->nodes.size(), static_cast<size_t>(kMaxViewNodes));
  EXPECT_THAT(members_.Problems(), HasSubstr("a view holds 1024"));
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
