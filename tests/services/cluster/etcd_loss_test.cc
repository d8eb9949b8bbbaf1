// Goal: neither the loss of etcd nor its wiping takes anything from anybody, and all is as before when it is back.
// Method: a real etcd as a child process, killed, stopped, wiped and compacted, or cut off by a relay that freezes;
// members in this process on the real clock, with short leases. Waits are for conditions.
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "services/cluster/etcd_client.h"
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

class EtcdLossTest : public testing::EtcdTest {
 protected:
  static int64_t Revision(const testing::Ended& status) {
    const size_t at = status.output.find("\"revision\":");
    EXPECT_NE(at, std::string::npos) << status.output << status.errors;
    return std::atoll(status.output.c_str() + at + 11);
  }
};

TEST_F(EtcdLossTest, ADeadEtcdLeavesTheViewAndALivingOneFindsEverybodyAgain) {
  const auto members = NewCluster(3);
  const Follower follower(members[0].get());
  etcd_.Kill();
  for (const auto& member : members) {
    EXPECT_TRUE(WaitFor([&] { return !member->health().registered && !member->health().connected; }));
    EXPECT_THAT(member->health().problem, HasSubstr(etcd_.client_address().ToString() + ": "));
    EXPECT_THAT(member->health().problem, HasSubstr("Connection refused"));
    EXPECT_EQ(Ids(*member), "n0 n1 n2");
  }
  etcd_.Restart();
  EXPECT_TRUE(AllSeeAll(members));
  EXPECT_EQ(members[0]->health().problem, "");
  ASSERT_TRUE(members[1]->Leave(In(10)).ok());
  EXPECT_TRUE(WaitFor([&] { return Ids(*members[0]) == "n0 n2"; })) << "the watch goes on";
  EXPECT_TRUE(WaitFor([&] { return follower.fewest() <= 2; })) << "watchers are told a moment after the view stands";
  EXPECT_EQ(follower.fewest(), 2u);
}

TEST_F(EtcdLossTest, ANodeThatDiesWhileEtcdIsDeadIsGoneAfterwards) {
  auto members = NewCluster(3);
  etcd_.Kill();
  members.pop_back();
  ASSERT_TRUE(WaitFor([&] { return !members[0]->health().connected && !members[1]->health().connected; }));
  EXPECT_EQ(Ids(*members[0]), "n0 n1 n2");
  etcd_.Restart();
  EXPECT_TRUE(AllSeeAll(members));
}

TEST_F(EtcdLossTest, AWipedEtcdChangesNobodysMembersAndNumbersGoUp) {
  const auto members = NewCluster(3);
  std::vector<uint64_t> before;
  std::vector<Follower> followers;
  for (const auto& member : members) {
    followers.emplace_back(member.get());
    before.push_back(Number(*member));
  }
  for (int round = 0; round < 2; ++round) {
    etcd_.Kill();
    etcd_.Wipe();
    etcd_.Restart();
    EXPECT_TRUE(AllSeeAll(members));
    EXPECT_TRUE(WaitFor([&] { return Stored("n0") != "" && Stored("n1") != "" && Stored("n2") != ""; }));
    for (size_t i = 0; i < members.size(); ++i) {
      EXPECT_TRUE(WaitFor([&] { return Number(*members[i]) > before[i]; }));
      EXPECT_EQ(followers[i].fewest(), 3u);
      before[i] = Number(*members[i]);
    }
  }
  const auto newcomer = NewMember();  // it remembers nothing, and counts as the others do
  ASSERT_TRUE(newcomer->Register(NodeOf("x", 9), In(20)).ok());
  EXPECT_GT(Number(*newcomer), *std::max_element(before.begin(), before.end()));
  EXPECT_TRUE(WaitFor([&] { return *members[0]->view() == *newcomer->view(); }));
}

TEST_F(EtcdLossTest, AMemberThatDoesNotComeBackAfterAWipeIsHeldAndThenGoneForAllUnderOneNumber) {
  auto members = NewCluster(3);
  etcd_.Kill();
  members.pop_back();
  etcd_.Wipe();
  etcd_.Restart();
  ASSERT_TRUE(WaitFor([&] { return members[0]->health().registered && members[1]->health().registered; }));
  EXPECT_EQ(Ids(*members[0]), "n0 n1 n2") << "held";
  EXPECT_TRUE(AllSeeAll(members));
  EXPECT_TRUE(WaitFor([&] { return members[0]->view()->number == members[1]->view()->number; }));
}

TEST_F(EtcdLossTest, ABaseThatAnOperatorDeletesIsWrittenAnew) {
  const auto members = NewCluster(2);
  etcd_.Kill();
  etcd_.Wipe();
  etcd_.Restart();
  ASSERT_TRUE(AllSeeAll(members));
  const auto base = [&] { return Etcdctl({"get", "--print-value-only", "/kvist/kvist/base"}).output; };
  ASSERT_TRUE(WaitFor([&] { return base() != ""; }));
  const uint64_t before = Number(*members[0]);
  ASSERT_EQ(Etcdctl({"del", "/kvist/kvist/base"}).output, "1\n");
  EXPECT_TRUE(WaitFor([&] { return base() != ""; }));
  const auto newcomer = NewMember();
  ASSERT_TRUE(newcomer->Register(NodeOf("x", 9), In(20)).ok());
  EXPECT_GT(Number(*newcomer), before);
}

TEST_F(EtcdLossTest, WhatWasCompactedWhileNobodyWatchedIsListed) {
  const auto members = NewCluster(2);
  const auto leaver = NewMember();
  ASSERT_TRUE(leaver->Register(NodeOf("leaver", 7), In(20)).ok());
  etcd_.Kill();
  ASSERT_TRUE(WaitFor([&] { return !members[0]->health().connected && !members[1]->health().connected; }));
  etcd_.Restart();
  for (int i = 0; i < 5; ++i) Etcdctl({"put", "/other", absl::StrCat(i)});
  ASSERT_TRUE(leaver->Leave(In(10)).ok());
  const int64_t revision = Revision(Etcdctl({"endpoint", "status", "--write-out=json"}));
  ASSERT_EQ(Etcdctl({"compact", absl::StrCat(revision)}).exit, 0);
  EXPECT_TRUE(AllSeeAll(members));
  EXPECT_EQ(Ids(*members[0]), "n0 n1");
}

TEST_F(EtcdLossTest, WithoutEtcdThereIsNoViewAndASentenceThatNamesEveryEndpoint) {
  etcd_.Kill();
  EtcdOptions options = Options();
  const std::string nobody = absl::StrCat("127.0.0.1:", testing::FreePort());
  options.endpoints.push_back(nobody);
  const auto a = NewMember(options);
  const absl::Status late = a->Register(NodeOf("a", 1), In(1));
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  for (const std::string& endpoint : options.endpoints) {
    EXPECT_THAT(std::string(late.message()), HasSubstr(endpoint + ": "));
    EXPECT_THAT(a->health().problem, HasSubstr(endpoint + ": "));
  }
  EXPECT_EQ(a->view(), nullptr);
  EXPECT_FALSE(a->health().connected);
  etcd_.Restart();  // the attempt goes on in the background
  EXPECT_TRUE(WaitFor([&] { return a->health().registered && Ids(*a) == "a"; })) << a->health().problem;
  EXPECT_EQ(a->health().problem, "");
}

TEST_F(EtcdLossTest, AStoppedEtcdHoldsNobodyUp) {
  const auto a = NewMember();
  ASSERT_EQ(a->Register(NodeOf("a", 1), In(20)), absl::OkStatus()) << a->health().problem;
  etcd_.Stop();
  const absl::Time start = absl::Now();
  EXPECT_EQ(a->Update(NodeOf("a", 2), In(0.5)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  {
    const auto b = NewMember();
    EXPECT_EQ(b->Register(NodeOf("b", 3), In(0.5)).code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(b->Leave(In(0.2)).code(), absl::StatusCode::kDeadlineExceeded);
  }  // and is destroyed without waiting
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  EXPECT_TRUE(WaitFor([&] { return !a->health().connected && !a->health().registered; }));
  EXPECT_THAT(a->health().problem, HasSubstr("no answer within 1s"));
  EXPECT_EQ(Ids(*a), "a");
  etcd_.Continue();
  EXPECT_TRUE(WaitFor([&] { return a->health().registered && a->view()->nodes[0].address.port == 2; }))
      << "the change that was late stands in the end";
}

class FullEtcdTest : public testing::EtcdTest {
 protected:
  FullEtcdTest() : EtcdTest({"--quota-backend-bytes=1048576"}) {}
};

TEST_F(FullEtcdTest, AFullEtcdIsFollowedStillAndASentenceSaysWhatCouldNotBeWritten) {
  const auto members = NewCluster(3);
  const std::string ballast(100'000, 'x');
  ASSERT_TRUE(WaitFor([&] {
    return Etcdctl({"put", "/ballast", ballast}).errors.find("database space exceeded") != std::string::npos;
  }));
  const absl::Status late = members[0]->Update(NodeOf("n0", 9), In(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  EXPECT_THAT(std::string(late.message()), HasSubstr("database space exceeded"));
  EXPECT_TRUE(members[0]->health().connected);
  EXPECT_TRUE(members[0]->health().registered) << "the lease is renewed";
  ASSERT_TRUE(members[2]->Leave(In(10)).ok());
  EXPECT_TRUE(WaitFor([&] { return Ids(*members[1]) == "n0 n1"; }));
}

// Passes bytes on until it freezes; then connections stay open, new ones are accepted, and nothing moves.
class Relay {
 public:
  explicit Relay(const Address& to) : to_(to), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~Relay() {
    stop_ = true;
    thread_.join();
    for (const auto& [one, other] : pairs_) close(one);
    close(listener_);
  }
  std::string endpoint() const { return absl::StrCat("127.0.0.1:", port_); }
  void Freeze() { frozen_ = true; }

 private:
  static sockaddr_in Loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    return address;
  }
  void Run() {
    while (!stop_) {
      std::vector<pollfd> waits = {{listener_, POLLIN, 0}};
      if (!frozen_) {
        for (const auto& [one, other] : pairs_) waits.push_back({one, POLLIN, 0});
      }
      poll(waits.data(), waits.size(), 20);
      for (size_t i = 1; i < waits.size(); ++i) {
        if (waits[i].revents != 0) Pass(waits[i].fd);
      }
      if (waits[0].revents != 0) Accept();
    }
  }
  void Accept() {
    const int one = accept(listener_, nullptr, nullptr), other = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in address = Loopback(to_.port);
    EXPECT_EQ(connect(other, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    pairs_[one] = other;
    pairs_[other] = one;
  }
  void Pass(int from) {
    const auto pair = pairs_.find(from);
    if (pair == pairs_.end()) return;  // its other end closed in this round
    char bytes[65536];
    const ssize_t count = read(from, bytes, sizeof(bytes));
    if (count > 0 && send(pair->second, bytes, count, MSG_NOSIGNAL) == count) return;
    close(from);
    close(pair->second);
    pairs_.erase(pair->second);
    pairs_.erase(from);
  }

  const Address to_;
  const int listener_;
  uint16_t port_ = 0;
  std::map<int, int> pairs_;
  std::atomic<bool> frozen_ = false, stop_ = false;
  std::thread thread_;
};

TEST_F(EtcdLossTest, AnEndpointThatFreezesIsLeftForTheNextOneBeforeTheLeaseEnds) {
  Relay relay(etcd_.client_address());
  EtcdOptions options = Options();
  options.endpoints.insert(options.endpoints.begin(), relay.endpoint());
  options.lease = absl::Seconds(6);
  const auto a = NewMember(options), watching = NewMember(options), b = NewMember();
  ASSERT_TRUE(a->Register(NodeOf("a", 1), In(20)).ok());
  ASSERT_TRUE(WaitFor([&] { return Ids(*watching) == "a"; }));
  relay.Freeze();
  ASSERT_TRUE(b->Register(NodeOf("b", 2), In(20)).ok());
  EXPECT_TRUE(WaitFor([&] { return Ids(*a) == "a b" && Ids(*watching) == "a b"; }));
  EXPECT_TRUE(a->health().registered);
  EXPECT_EQ(a->health().registrations, 1u);
  EXPECT_EQ(a->health().problem, "");
}

TEST_F(EtcdLossTest, TheClientTellsACompactedWatchFromABrokenOne) {
  EtcdOptions options = Options();
  auto made = NewEtcdClient(options);
  ASSERT_TRUE(made.ok());
  EtcdClient& client = **made;
  for (int i = 0; i < 5; ++i) Etcdctl({"put", "/p/x", absl::StrCat(i)});
  const absl::StatusOr<EtcdListing> listing = client.List("/p/");
  ASSERT_TRUE(listing.ok()) << listing.status();
  ASSERT_EQ(listing->entries.size(), 1u);
  ASSERT_EQ(Etcdctl({"compact", absl::StrCat(listing->revision)}).exit, 0);
  bool compacted = false;
  EXPECT_FALSE(client.Watch("/p/", 2)
                   ->Run([&](const EtcdChange& change) {
                     compacted = change.compacted;
                     return true;
                   })
                   .ok());
  EXPECT_TRUE(compacted);
  const std::unique_ptr<EtcdWatch> watch = client.Watch("/p/", listing->revision + 1);
  std::vector<EtcdEvent> events;
  bool begun = false;
  const absl::Status broken = watch->Run([&](const EtcdChange& change) {
    events.insert(events.end(), change.events.begin(), change.events.end());
    if (!std::exchange(begun, true)) {
      Etcdctl({"put", "/p/y", "1"});
      Etcdctl({"del", "/p/x"});
    }
    if (events.size() == 2) etcd_.Kill();
    return true;
  });
  EXPECT_TRUE(absl::IsUnavailable(broken)) << broken;
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].entry.key, "/p/y");
  EXPECT_TRUE(events[1].deleted);
  EXPECT_EQ(events[1].entry.mod_revision, listing->revision + 2);
}

}  // namespace
}  // namespace kvist
