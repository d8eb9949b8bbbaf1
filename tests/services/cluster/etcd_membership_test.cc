// Goal: nodes find each other through a real etcd, and neither its loss nor its wiping takes anything from them.
// Method: a real etcd as a child process, killed, stopped, wiped and compacted; members in this process on the real
// clock, with short leases. Waits are for conditions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "services/cluster/membership.h"
#include "services/cluster/records.h"
#include "tests/services/testing/etcd_process.h"

namespace kvist {
namespace {

using testing::EtcdProcess;
using ::testing::HasSubstr;

absl::Time In(double seconds) { return absl::Now() + absl::Seconds(seconds); }

bool WaitFor(const std::function<bool()>& condition, double seconds = 20) {
  for (const absl::Time deadline = In(seconds); !condition();) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return true;
}

Node NodeOf(const std::string& id, uint16_t port) {
  Node node;
  node.id.value = id;
  node.address = {"127.0.0.1", port};
  node.capacity_bytes = 1 << 20;
  return node;
}

class EtcdMembershipTest : public ::testing::Test {
 protected:
  EtcdOptions Options() {
    EtcdOptions options;
    options.endpoints = {etcd_.client_address().ToString()};
    options.lease = absl::Seconds(2);
    options.call_deadline = absl::Seconds(1);
    options.hold = absl::Seconds(4);
    return options;
  }
  std::unique_ptr<Membership> NewMember() {
    auto made = NewEtcdMembership(Options(), RealRuntime());
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  static std::string Ids(const Membership& member) {
    const auto view = member.view();
    if (view == nullptr) return "none";
    std::vector<std::string> ids;
    for (const Node& node : view->nodes) ids.push_back(node.id.value);
    return absl::StrJoin(ids, " ");
  }
  static uint64_t Number(const Membership& member) {
    return member.view() == nullptr ? 0 : member.view()->number.value;
  }
  std::string Stored(const std::string& id) {
    return etcd_.Etcdctl({"get", "--print-value-only", "/kvist/kvist/nodes/" + id}).output;
  }

  EtcdProcess etcd_;
};

TEST_F(EtcdMembershipTest, NodesSeeEachOtherUnderOneNumberAndLeave) {
  const auto a = NewMember(), b = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  ASSERT_TRUE(b->Register(NodeOf("b", 2), In(20)).ok());
  EXPECT_TRUE(WaitFor([&] { return Ids(*a) == "a b" && Ids(*b) == "a b"; }));
  EXPECT_EQ(Number(*a), Number(*b));
  EXPECT_TRUE(a->health().registered);
  EXPECT_THAT(Stored("a"), HasSubstr("\"address\":\"127.0.0.1:1\""));
  const uint64_t before = Number(*a);
  ASSERT_TRUE(b->Leave(In(10)).ok());
  EXPECT_TRUE(WaitFor([&] { return Ids(*a) == "a"; }, 1.5)) << "at once, not when the lease ends";
  EXPECT_GT(Number(*a), before);
}

TEST_F(EtcdMembershipTest, ARecordChangesAndWatchersHearOfIt) {
  const auto a = NewMember(), b = NewMember();
  std::mutex mutex;
  std::vector<std::shared_ptr<const View>> heard;
  b->Watch([&](std::shared_ptr<const View> view) {
    std::lock_guard lock(mutex);
    heard.push_back(view);
  });
  Node self = NodeOf("a", 1);
  self.state = NodeState::kJoining;
  self.ramp = 0.5;
  ASSERT_TRUE(a->Register(self, In(20)).ok());
  self.state = NodeState::kDraining;
  ASSERT_TRUE(a->Update(self, In(10)).ok());
  EXPECT_TRUE(WaitFor([&] { return b->view() != nullptr && b->view()->nodes[0].state == NodeState::kDraining; }));
  std::lock_guard lock(mutex);
  for (size_t i = 1; i < heard.size(); ++i) EXPECT_GT(heard[i]->number, heard[i - 1]->number);
}

TEST_F(EtcdMembershipTest, ASecondLivingNodeOfOneIdIsRefusedWithTheFirstOnesAddress) {
  const auto first = NewMember(), second = NewMember();
  ASSERT_TRUE(first->Register(NodeOf("a", 1), In(20)).ok());
  const absl::Status refused = second->Register(NodeOf("a", 2), In(30));
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the id \"a\" is taken by a node at 127.0.0.1:1, which lives"));
  EXPECT_EQ(first->view()->nodes[0].address.port, 1);
}

TEST_F(EtcdMembershipTest, ANodeThatDiedComesBackElsewhereAsALaterIncarnation) {
  auto first = NewMember();
  const auto other = NewMember();
  ASSERT_TRUE(first->Register(NodeOf("a", 1), In(20)).ok());
  const uint64_t incarnation = first->view()->Find(NodeId{"a"})->incarnation;
  first.reset();  // without leaving, as a killed process
  const auto again = NewMember();
  ASSERT_TRUE(again->Register(NodeOf("a", 2), In(30)).ok());
  EXPECT_TRUE(WaitFor([&] { return other->view()->Find(NodeId{"a"})->address.port == 2; }));
  EXPECT_GT(other->view()->Find(NodeId{"a"})->incarnation, incarnation);
}

TEST_F(EtcdMembershipTest, ALeaseThatIsRevokedIsNoticedAndTheNodeRegistersAnew) {
  const auto a = NewMember(), b = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  ASSERT_TRUE(b->Register(NodeOf("b", 2), In(20)).ok());
  ASSERT_EQ(etcd_.Etcdctl({"del", "/kvist/kvist/nodes/a"}).output, "1\n");
  EXPECT_TRUE(WaitFor([&] { return a->health().registrations == 2 && a->health().registered; }));
  EXPECT_TRUE(WaitFor([&] { return Ids(*a) == "a b" && Ids(*b) == "a b"; }));
}

TEST_F(EtcdMembershipTest, ADeadEtcdLeavesTheViewAndALivingOneFindsEverybodyAgain) {
  const auto a = NewMember(), b = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  ASSERT_TRUE(b->Register(NodeOf("b", 2), In(20)).ok());
  ASSERT_TRUE(WaitFor([&] { return Ids(*a) == "a b" && Ids(*b) == "a b"; }));
  etcd_.Kill();
  EXPECT_TRUE(WaitFor([&] { return !a->health().registered && !a->health().connected; }));
  EXPECT_THAT(a->health().problem, HasSubstr(etcd_.client_address().ToString()));
  EXPECT_EQ(Ids(*a), "a b");
  etcd_.Restart();
  EXPECT_TRUE(WaitFor([&] { return a->health().registered && b->health().registered; }));
  EXPECT_TRUE(WaitFor([&] { return Ids(*a) == "a b" && Ids(*b) == "a b"; }));
}

TEST_F(EtcdMembershipTest, AWipedEtcdChangesNobodysViewAndNumbersGoUp) {
  const auto a = NewMember(), b = NewMember(), c = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  ASSERT_TRUE(b->Register(NodeOf("b", 2), In(20)).ok());
  ASSERT_TRUE(c->Register(NodeOf("c", 3), In(20)).ok());
  ASSERT_TRUE(WaitFor([&] { return Ids(*a) == "a b c" && Ids(*b) == "a b c" && Ids(*c) == "a b c"; }));
  const uint64_t before = Number(*a);
  std::atomic<size_t> fewest = 3;
  std::atomic<uint64_t> greatest = before;
  std::atomic<bool> went_down = false;
  a->Watch([&](std::shared_ptr<const View> view) {
    fewest = std::min(fewest.load(), view->nodes.size());
    if (view->number.value <= greatest) went_down = true;
    greatest = view->number.value;
  });
  etcd_.Kill();
  etcd_.Wipe();
  etcd_.Restart();
  EXPECT_TRUE(WaitFor([&] {
    return a->health().registered && b->health().registered && c->health().registered && Stored("a") != "" &&
           Stored("b") != "" && Stored("c") != "";
  }));
  EXPECT_TRUE(WaitFor([&] { return Number(*a) > before && Number(*b) > before && Number(*c) > before; }));
  EXPECT_EQ(fewest, 3u);
  EXPECT_FALSE(went_down);
  // A newcomer that remembers nothing counts as the others do.
  const auto d = NewMember();
  ASSERT_TRUE(d->Register(NodeOf("d", 4), In(20)).ok());
  EXPECT_GT(Number(*d), before);
}

TEST_F(EtcdMembershipTest, AGapThatWasCompactedIsListedAgain) {
  const auto a = NewMember(), b = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  etcd_.Kill();
  ASSERT_TRUE(WaitFor([&] { return !a->health().connected; }));
  etcd_.Restart();
  for (int i = 0; i < 5; ++i) etcd_.Etcdctl({"put", "/other", absl::StrCat(i)});
  const std::string status = etcd_.Etcdctl({"endpoint", "status", "--write-out=json"}).output;
  const size_t at = status.find("\"revision\":");
  ASSERT_NE(at, std::string::npos);
  etcd_.Etcdctl({"compact", absl::StrCat(std::atoll(status.c_str() + at + 11))});
  ASSERT_TRUE(b->Register(NodeOf("b", 2), In(20)).ok());
  EXPECT_TRUE(WaitFor([&] { return Ids(*a) == "a b" && Ids(*b) == "a b"; }));
}

TEST_F(EtcdMembershipTest, WithoutEtcdThereIsNoViewAndASentenceWhy) {
  etcd_.Kill();
  const auto a = NewMember();
  const absl::Status late = a->Register(NodeOf("a", 1), In(1));
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr(etcd_.client_address().ToString()));
  EXPECT_EQ(a->view(), nullptr);
  etcd_.Restart();  // the attempt goes on in the background
  EXPECT_TRUE(WaitFor([&] { return a->health().registered && Ids(*a) == "a"; })) << a->health().problem;
}

TEST_F(EtcdMembershipTest, AStoppedEtcdHoldsNobodyUp) {
  const auto a = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  etcd_.Stop();
  const absl::Time start = absl::Now();
  EXPECT_EQ(a->Update(NodeOf("a", 1), In(1)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  {
    const auto b = NewMember();
    EXPECT_EQ(b->Register(NodeOf("b", 2), In(0.5)).code(), absl::StatusCode::kDeadlineExceeded);
  }  // and is destroyed without waiting
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
  etcd_.Continue();
  EXPECT_TRUE(WaitFor([&] { return a->health().registered; }));
}

TEST_F(EtcdMembershipTest, AnotherEndpointIsTriedWhenOneIsDead) {
  EtcdOptions options = Options();
  options.endpoints.insert(options.endpoints.begin(), absl::StrCat("127.0.0.1:", testing::FreePort()));
  const auto a = *NewEtcdMembership(options, RealRuntime());
  EXPECT_TRUE(a->Register(NodeOf("a", 1), In(20)).ok()) << a->health().problem;
}

TEST_F(EtcdMembershipTest, RecordsOfALaterProtocolAndGarbageAreLeftOutAndNamed) {
  Node later = NodeOf("later", 9);
  later.protocol = kProtocolVersion + 1;
  etcd_.Etcdctl({"put", "/kvist/kvist/nodes/later", RecordToJson(later)});
  etcd_.Etcdctl({"put", "/kvist/kvist/nodes/garbage", "not a record"});
  const auto a = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  EXPECT_EQ(Ids(*a), "a");
  EXPECT_THAT(a->health().problem, HasSubstr("/kvist/kvist/nodes/later\" is left out"));
  EXPECT_THAT(a->health().problem, HasSubstr("/kvist/kvist/nodes/garbage\" is left out"));
}

TEST_F(EtcdMembershipTest, AUserWithAPasswordIsLetInAndAWrongOneIsToldSo) {
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"user", "add", "root:secret"}, {"user", "grant-role", "root", "root"}, {"auth", "enable"}}) {
    const testing::Ended ended = etcd_.Etcdctl(words);
    ASSERT_EQ(ended.exit, 0) << absl::StrJoin(words, " ") << ended.errors;
  }
  EtcdOptions options = Options();
  options.user = "root";
  options.password = "secret";
  const auto in = *NewEtcdMembership(options, RealRuntime());
  EXPECT_TRUE(in->Register(NodeOf("a", 1), In(20)).ok()) << in->health().problem;
  options.password = "wrong";
  const auto out = *NewEtcdMembership(options, RealRuntime());
  const absl::Status refused = out->Register(NodeOf("b", 2), In(20));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("authentication failed"));
}

TEST(EtcdTls, ACertificateOfTheGivenAuthorityIsBelievedAndAnotherIsNot) {
  const std::string folder = ::testing::TempDir() + "/tls";
  std::filesystem::create_directories(folder);
  const auto make = [&](const std::string& name) {
    const testing::Ended made = testing::Run(
        {"/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout",
         folder + "/" + name + ".key", "-out", folder + "/" + name + ".pem"});
    ASSERT_EQ(made.exit, 0) << made.errors;
  };
  make("right");
  make("wrong");
  EtcdProcess etcd({"--cert-file=" + folder + "/right.pem", "--key-file=" + folder + "/right.key"}, "https");
  EtcdOptions options;
  options.endpoints = {etcd.client_address().ToString()};
  options.ca_file = folder + "/right.pem";
  const auto in = *NewEtcdMembership(options, RealRuntime());
  EXPECT_TRUE(in->Register(NodeOf("a", 1), In(20)).ok()) << in->health().problem;
  options.ca_file = folder + "/wrong.pem";
  const auto out = *NewEtcdMembership(options, RealRuntime());
  EXPECT_EQ(out->Register(NodeOf("b", 2), In(2)).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(EtcdOptionsTest, AllThatIsWrongIsNamedAtOnce) {
  EtcdOptions options;
  options.endpoints = {"nowhere"};
  options.cluster = "a/b";
  options.lease = absl::Milliseconds(1);
  options.user = "u";
  options.ca_file = "/no/such/file";
  const std::string message(NewEtcdMembership(options, RealRuntime()).status().message());
  for (const char* part :
       {"\"nowhere\" is not an address", "\"a/b\" is empty or holds a slash", "lease is less than 1s",
        "give both user and password", "CA file /no/such/file cannot be read"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

}  // namespace
}  // namespace kvist
