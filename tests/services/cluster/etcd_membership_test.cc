// Goal: nodes find each other through a real etcd, whatever other people and other nodes write there.
// Method: a real etcd as a child process; members in this process on the real clock, with short leases; etcdctl plays
// the others. Waits are for conditions.
#include <mutex>

#include "services/cluster/records.h"
#include "tests/services/cluster/membership_fixture.h"

namespace kvist {
namespace {

using testing::Follower;
using ::testing::HasSubstr;
using testing::Ids;
using testing::In;
using testing::Incarnation;
using testing::NodeOf;
using testing::Number;
using testing::WaitFor;

class EtcdMembershipTest : public testing::EtcdTest {};

TEST_F(EtcdMembershipTest, NodesSeeEachOtherUnderOneNumberAndLeave) {
  const auto members = NewCluster(2);
  EXPECT_EQ(Number(*members[0]), Number(*members[1]));
  EXPECT_EQ(*members[0]->view(), *members[1]->view());
  EXPECT_EQ(members[0]->health().problem, "");
  EXPECT_THAT(Stored("n0"), HasSubstr("\"address\":\"127.0.0.1:1\""));
  const uint64_t before = Number(*members[0]);
  const absl::Time left = absl::Now();
  ASSERT_TRUE(members[1]->Leave(In(10)).ok());
  EXPECT_TRUE(WaitFor([&] { return Ids(*members[0]) == "n0"; }));
  EXPECT_LT(absl::Now() - left, absl::Seconds(2)) << "at once, not when the lease ends";
  EXPECT_GT(Number(*members[0]), before);
  EXPECT_FALSE(members[1]->health().registered);
  ASSERT_TRUE(members[1]->Register(NodeOf("n1", 2), In(10)).ok()) << "and may come back";
  EXPECT_TRUE(AllSeeAll(members));
}

TEST_F(EtcdMembershipTest, ARecordChangesAndWatchersHearOfIt) {
  const auto a = NewMember(), b = NewMember();
  const Follower follower(b.get());
  Node self = NodeOf("a", 1);
  self.state = NodeState::kJoining;
  self.ramp = 0.5;
  ASSERT_TRUE(a->Register(self, In(20)).ok());
  const uint64_t incarnation = Incarnation(*a, "a");
  self.state = NodeState::kDraining;
  self.address.port = 7;
  ASSERT_TRUE(a->Update(self, In(10)).ok());
  EXPECT_EQ(a->view()->Find(NodeId{"a"})->state, NodeState::kDraining) << "what Update returns for was seen";
  EXPECT_EQ(Incarnation(*a, "a"), incarnation);
  EXPECT_TRUE(WaitFor([&] { return b->view() != nullptr && b->view()->nodes[0].address.port == 7; }));
  EXPECT_TRUE(WaitFor([&] { return follower.views() >= 1; }));
}

TEST_F(EtcdMembershipTest, AWatcherThatBlocksCostsNoLeaseAndOneThatCallsUsIsAnswered) {
  std::mutex gate;
  gate.lock();
  std::atomic<bool> updated = false;
  const auto a = NewMember();
  a->Watch([&](std::shared_ptr<const View>) {
    Node self = NodeOf("a", 1);
    self.weight = 2;
    if (!updated) updated = a->Update(self, In(10)).ok();
    std::lock_guard blocked(gate);
  });
  ASSERT_TRUE(a->Register(NodeOf("a", 1), In(20)).ok());
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(WaitFor([&] { return updated.load(); }));
  EXPECT_TRUE(WaitFor([&] { return a->health().last_answer > begin + 2 * Options().lease; }));
  EXPECT_TRUE(a->health().registered);
  EXPECT_EQ(a->health().registrations, 1u);
  EXPECT_EQ(a->view()->nodes[0].weight, 2);
  gate.unlock();
}

TEST_F(EtcdMembershipTest, ASecondLivingNodeOfOneIdIsRefusedWithTheFirstOnesAddress) {
  const auto first = NewMember(), second = NewMember();
  ASSERT_TRUE(first->Register(NodeOf("a", 1), In(20)).ok());
  const absl::Status refused = second->Register(NodeOf("a", 2), In(30));
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the id \"a\" is taken by a node at 127.0.0.1:1, which lives"));
  EXPECT_EQ(first->view()->nodes[0].address.port, 1);
  EXPECT_TRUE(second->health().connected);
}

TEST_F(EtcdMembershipTest, ANodeThatDiedComesBackElsewhereAsALaterIncarnation) {
  auto first = NewMember();
  const auto other = NewMember();
  ASSERT_TRUE(first->Register(NodeOf("a", 1), In(20)).ok());
  const uint64_t incarnation = Incarnation(*first, "a");
  first.reset();  // without leaving, as a killed process
  const auto again = NewMember();
  const absl::Status registered = again->Register(NodeOf("a", 2), In(30));
  ASSERT_TRUE(registered.ok()) << registered;
  EXPECT_TRUE(WaitFor([&] { return other->view()->Find(NodeId{"a"})->address.port == 2; }));
  EXPECT_GT(Incarnation(*other, "a"), incarnation);
}

TEST_F(EtcdMembershipTest, ANodeThatDiedComesBackAtItsAddressAtOnce) {
  auto first = NewMember();
  const auto other = NewMember();
  const Follower follower(other.get());
  ASSERT_TRUE(first->Register(NodeOf("a", 1), In(20)).ok());
  ASSERT_TRUE(WaitFor([&] { return Ids(*other) == "a"; }));
  const uint64_t incarnation = Incarnation(*first, "a");
  first.reset();
  const auto again = NewMember();
  const absl::Time begin = absl::Now();
  ASSERT_TRUE(again->Register(NodeOf("a", 1), In(30)).ok());
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1)) << "less than what is left of the lease";
  EXPECT_TRUE(WaitFor([&] { return Incarnation(*other, "a") > incarnation; }));
}

TEST_F(EtcdMembershipTest, ALeaseThatIsRevokedIsNoticedAndTheNodeIsANewIncarnation) {
  const auto members = NewCluster(2);
  const Follower follower(members[0].get());
  const uint64_t incarnation = Incarnation(*members[1], "n0");
  const std::string entry = Etcdctl({"get", "--write-out=json", "/kvist/kvist/nodes/n0"}).output;
  const size_t at = entry.find("\"lease\":");
  ASSERT_NE(at, std::string::npos) << entry;
  const std::string lease = absl::StrCat(absl::Hex(std::atoll(entry.c_str() + at + 8)));
  ASSERT_EQ(Etcdctl({"lease", "revoke", lease}).exit, 0);
  EXPECT_TRUE(WaitFor([&] { return members[0]->health().registrations == 2; }));
  EXPECT_TRUE(WaitFor([&] { return Incarnation(*members[1], "n0") > incarnation; }));
  EXPECT_TRUE(AllSeeAll(members));
  EXPECT_EQ(follower.fewest(), 2u) << "it knows that it lives";
}

TEST_F(EtcdMembershipTest, RecordsThatAreAllDeletedAtOnceComeBackAndNobodyLosesAnybody) {
  const auto members = NewCluster(3);
  const Follower follower(members[0].get());
  ASSERT_EQ(Etcdctl({"del", "--prefix", "/kvist/kvist/"}).output, "3\n");
  EXPECT_TRUE(WaitFor([&] {
    for (const auto& member : members) {
      if (member->health().registrations != 2 || !member->health().registered) return false;
    }
    return true;
  }));
  EXPECT_TRUE(AllSeeAll(members));
  EXPECT_EQ(follower.fewest(), 3u);
}

TEST_F(EtcdMembershipTest, ARecordThatAnotherWroteOverIsWrittenAnew) {
  const auto members = NewCluster(2);
  ASSERT_EQ(Etcdctl({"put", "/kvist/kvist/nodes/n0", "{\"id\": \"somebody\"}"}).exit, 0);
  EXPECT_TRUE(WaitFor([&] { return members[0]->health().registrations == 2; }));
  EXPECT_TRUE(AllSeeAll(members));
  EXPECT_TRUE(WaitFor([&] { return members[1]->health().problem == ""; }));
}

TEST_F(EtcdMembershipTest, RecordsOfALaterProtocolAndGarbageAreLeftOutAndNamed) {
  Node later = NodeOf("later", 9);
  later.protocol = kProtocolVersion + 1;
  Etcdctl({"put", "/kvist/kvist/nodes/later", RecordToJson(later)});
  Etcdctl({"put", "/kvist/kvist/nodes/garbage", "not a record"});
  Etcdctl({"put", "/kvist/kvist/nodes/other", RecordToJson(NodeOf("another", 8))});
  Etcdctl({"put", "/kvist/kvist/base", "a lot"});
  const auto a = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  EXPECT_EQ(Ids(*a), "a");
  for (const char* part : {"nodes/later\" is left out: it speaks protocol 2", "nodes/garbage\" is left out: it is no",
                           "nodes/other\" is left out: it names node \"another\"", "base holds \"a lot\""}) {
    EXPECT_THAT(a->health().problem, HasSubstr(part));
  }
  EXPECT_TRUE(a->health().connected);
}

TEST_F(EtcdMembershipTest, ClustersOfOneEtcdDoNotSeeEachOther) {
  EtcdOptions options = Options();
  options.cluster = "kvist2";
  const auto a = NewMember(), b = NewMember(options);
  ASSERT_TRUE(a->Register(NodeOf("a", 1), In(20)).ok());
  ASSERT_TRUE(b->Register(NodeOf("b", 1), In(20)).ok());
  EXPECT_EQ(Ids(*a), "a");
  EXPECT_EQ(Ids(*b), "b");
}

TEST_F(EtcdMembershipTest, CallsOutOfOrderAndRecordsThatCannotStandAreRefused) {
  const auto a = NewMember();
  EXPECT_TRUE(absl::IsFailedPrecondition(a->Update(NodeOf("a", 1), In(1))));
  EXPECT_TRUE(a->Leave(In(1)).ok());
  const absl::Status unbound = a->Register(NodeOf("a", 0), In(1));
  EXPECT_TRUE(absl::IsInvalidArgument(unbound)) << unbound;
  EXPECT_THAT(std::string(a->Register(NodeOf("a/b", 1), In(1)).message()), HasSubstr("its id may hold only"));
  ASSERT_TRUE(a->Register(NodeOf("a", 1), In(20)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(a->Register(NodeOf("b", 1), In(1))));
  EXPECT_TRUE(absl::IsFailedPrecondition(a->Update(NodeOf("b", 1), In(1))));
}

TEST_F(EtcdMembershipTest, ManyNodesJoinAtOnceAndAllEndWithOneView) {
  std::vector<std::unique_ptr<Membership>> members;
  for (int i = 0; i < 12; ++i) members.push_back(NewMember());
  std::vector<std::unique_ptr<Thread>> joining;
  std::atomic<int> joined = 0;
  for (int i = 0; i < 12; ++i) {
    joining.push_back(RealRuntime()->Start([&, i] {
      if (members[i]->Register(NodeOf(absl::StrCat("n", i), 1 + i), In(20)).ok()) ++joined;
    }));
  }
  joining.clear();
  EXPECT_EQ(joined, 12);
  EXPECT_TRUE(AllSeeAll(members));
  EXPECT_TRUE(WaitFor([&] {
    for (const auto& member : members) {
      if (*member->view() != *members[0]->view()) return false;
    }
    return true;
  })) << "their numbers included";
}

TEST(EtcdOptionsTest, AllThatIsWrongIsNamedAtOnce) {
  EtcdOptions options;
  options.endpoints = {"nowhere", "host:0"};
  options.cluster = "a/b";
  options.lease = absl::Milliseconds(1);
  options.hold = absl::Seconds(-1);
  options.user = "u";
  options.ca_file = "/no/such/file";
  options.key_file = "/dev/null";
  const std::string message(NewEtcdMembership(options, RealRuntime()).status().message());
  for (const char* part :
       {"\"nowhere\" is not an address", "\"host:0\" has port 0", "\"a/b\" is empty or holds a slash",
        "lease is less than 1s", "hold is negative", "give both user and password",
        "CA file /no/such/file cannot be read", "key file /dev/null holds no PEM", "both certificate and key file"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  EXPECT_THAT(std::string(NewEtcdMembership({}, RealRuntime()).status().message()), HasSubstr("no endpoints"));
}

}  // namespace
}  // namespace kvist
