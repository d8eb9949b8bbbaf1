// Goal: a cluster file that changes under a running node makes newer views, or a sentence; never a wrong one.
// Method: files in the test's own folder, rewritten while a member reads them on the real clock. Waits are for
// conditions.
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "services/cluster/node_claim.h"
#include "services/cluster/static_file.h"
#include "tests/services/cluster/membership_fixture.h"

namespace kvist {
namespace {

using testing::Follower;
using ::testing::HasSubstr;
using testing::Ids;
using testing::In;
using testing::NodeOf;
using testing::Number;
using testing::WaitFor;

class StaticMembershipTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string folder =
        ::testing::TempDir() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    file_ = folder + "/cluster.json";
  }
  // By a rename, as an operator's tool would: a reader sees all of it or none.
  void Write(const std::string& text) {
    std::ofstream(file_ + ".new") << text;
    std::filesystem::rename(file_ + ".new", file_);
  }
  // Nodes "id address".
  void WriteView(uint64_t number, const std::vector<std::pair<std::string, std::string>>& nodes) {
    Write(absl::StrCat("{\"view\": ", number, ", \"nodes\": [",
                       absl::StrJoin(nodes, ", ",
                                     [](std::string* out, const auto& node) {
                                       absl::StrAppend(out, "{\"id\": \"", node.first, "\", \"address\": \"",
                                                       node.second, "\", \"capacity\": 1}");
                                     }),
                       "]}"));
  }
  std::unique_ptr<Membership> NewMember() {
    auto made = NewStaticMembership(file_, RealRuntime());
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  static uint16_t Port(const Membership& member, const std::string& id) {
    return member.view()->Find(NodeId{id})->address.port;
  }

  std::string file_;
};

TEST_F(StaticMembershipTest, TheFilesViewIsThereAtOnceAndANodeThatItNamesMayRegister) {
  WriteView(7, {{"a", "h:1"}, {"b", "h:2"}});
  const auto member = NewMember();
  EXPECT_EQ(Ids(*member), "a b");
  EXPECT_EQ(Number(*member), 7u);
  EXPECT_TRUE(absl::IsFailedPrecondition(member->Update(NodeOf("a", 1), In(1))));
  EXPECT_TRUE(member->Register(NodeOf("a", 1), In(1)).ok());
  EXPECT_TRUE(member->health().registered);
  EXPECT_TRUE(member->health().connected);
  EXPECT_EQ(member->health().registrations, 1u);
  EXPECT_TRUE(member->Update(NodeOf("a", 1), In(1)).ok());
  EXPECT_TRUE(member->Leave(In(1)).ok());
  EXPECT_FALSE(member->health().registered);
  const absl::Status unknown = member->Register(NodeOf("z", 1), In(1));
  EXPECT_TRUE(absl::IsFailedPrecondition(unknown));
  EXPECT_THAT(std::string(unknown.message()), HasSubstr(file_ + " has no node \"z\""));
}

TEST_F(StaticMembershipTest, AFileThatCannotBeReadIsRefusedAtStart) {
  EXPECT_TRUE(absl::IsNotFound(NewStaticMembership(file_, RealRuntime()).status()));
  Write("[]");
  EXPECT_TRUE(absl::IsInvalidArgument(NewStaticMembership(file_, RealRuntime()).status()));
}

TEST_F(StaticMembershipTest, ANewerViewIsTakenAndToldAndAnythingElseIsASentence) {
  WriteView(1, {{"a", "h:1"}});
  const auto member = NewMember();
  const Follower follower(member.get());
  WriteView(2, {{"a", "h:1"}, {"b", "h:2"}});
  EXPECT_TRUE(WaitFor([&] { return Ids(*member) == "a b"; }));
  EXPECT_EQ(Number(*member), 2u);
  EXPECT_TRUE(WaitFor([&] { return follower.views() == 1; }));
  WriteView(2, {{"a", "h:1"}});
  EXPECT_TRUE(WaitFor([&] { return member->health().problem != ""; }));
  EXPECT_THAT(member->health().problem, HasSubstr("has changed but its view is 2, not above 2: raise it"));
  EXPECT_EQ(Ids(*member), "a b");
  Write("{");
  EXPECT_TRUE(WaitFor([&] { return member->health().problem.find("the last good view stays") != std::string::npos; }));
  std::filesystem::remove(file_);
  EXPECT_TRUE(WaitFor([&] { return member->health().problem.find("cannot read") != std::string::npos; }));
  EXPECT_EQ(Ids(*member), "a b");
  WriteView(3, {{"a", "h:1"}});
  EXPECT_TRUE(WaitFor([&] { return Ids(*member) == "a" && member->health().problem == ""; }));
}

TEST_F(StaticMembershipTest, ANodeThatComesBackOnAnotherPortIsFoundUnderAGreaterNumber) {
  WriteView(5, {{"a", "127.0.0.1:0"}, {"b", "127.0.0.1:0"}});
  ASSERT_TRUE(PublishAddress(file_, NodeId{"a"}, {"127.0.0.1", 11}).ok());
  const auto member = NewMember();
  EXPECT_EQ(Port(*member, "a"), 11);
  EXPECT_EQ(Port(*member, "b"), 0);
  ASSERT_TRUE(PublishAddress(file_, NodeId{"b"}, {"127.0.0.1", 12}).ok());
  EXPECT_TRUE(WaitFor([&] { return Port(*member, "b") == 12; }));
  EXPECT_EQ(Number(*member), 7u) << "whoever has 6 does not know b";
  ASSERT_TRUE(PublishAddress(file_, NodeId{"b"}, {"127.0.0.1", 13}).ok());
  EXPECT_TRUE(WaitFor([&] { return Port(*member, "b") == 13; }));
  EXPECT_EQ(Number(*member), 8u);
  ASSERT_TRUE(PublishAddress(file_, NodeId{"b"}, {"127.0.0.1", 13}).ok());  // back on the same port: nothing changes
  const auto newcomer = NewMember();
  EXPECT_EQ(*newcomer->view(), *member->view());
}

TEST_F(StaticMembershipTest, MembersThatSawOtherRestartsCountAlikeAndANumberIsOneList) {
  WriteView(5, {{"a", "127.0.0.1:0"}, {"b", "127.0.0.1:0"}});
  const auto early = NewMember();  // reads all the time
  std::mutex mutex;
  std::map<ViewNumber, View> lists;
  const auto note = [&](const View& view) {
    std::lock_guard lock(mutex);
    const auto [known, added] = lists.emplace(view.number, view);
    EXPECT_EQ(known->second, view) << view.number.value;
  };
  early->Watch([&](std::shared_ptr<const View> view) { note(*view); });
  std::atomic<bool> done = false;
  std::thread reader([&] {
    while (!done) {
      if (const auto files = ReadClusterFiles(file_); files.ok()) note(files->view);
    }
  });
  for (uint16_t port = 1; port <= 300; ++port) {  // two nodes that restart in turn
    EXPECT_TRUE(PublishAddress(file_, NodeId{"a"}, {"127.0.0.1", port}).ok());
    EXPECT_TRUE(PublishAddress(file_, NodeId{"b"}, {"127.0.0.1", port}).ok());
  }
  done = true;
  reader.join();
  EXPECT_TRUE(WaitFor([&] { return Number(*early) == 605u; })) << Number(*early);
  const auto late = NewMember();  // saw none of it
  EXPECT_EQ(*late->view(), *early->view());
  const auto worker = LoadView(file_, absl::InfinitePast(), RealRuntime()->clock());
  ASSERT_TRUE(worker.ok()) << worker.status();
  EXPECT_EQ(*worker, *late->view());
}

TEST_F(StaticMembershipTest, AnEditAfterAMoveStillMakesAGreaterNumber) {
  WriteView(5, {{"a", "127.0.0.1:0"}, {"b", "h:2"}});
  ASSERT_TRUE(PublishAddress(file_, NodeId{"a"}, {"127.0.0.1", 11}).ok());
  const auto member = NewMember();
  const Follower follower(member.get());
  ASSERT_TRUE(PublishAddress(file_, NodeId{"a"}, {"127.0.0.1", 12}).ok());
  ASSERT_TRUE(WaitFor([&] { return Number(*member) == 7; }));
  WriteView(6, {{"b", "h:2"}});
  EXPECT_TRUE(WaitFor([&] { return Ids(*member) == "b"; }));
  EXPECT_EQ(Number(*member), 8u) << "7 is the view with a";
}

TEST_F(StaticMembershipTest, AnAddressThatIsNotPublishedAnyMoreStays) {
  WriteView(5, {{"a", "127.0.0.1:0"}});
  ASSERT_TRUE(PublishAddress(file_, NodeId{"a"}, {"127.0.0.1", 11}).ok());
  const auto member = NewMember();
  std::filesystem::remove(AddressFile(file_, NodeId{"a"}));
  WriteView(6, {{"a", "127.0.0.1:0"}, {"b", "h:2"}});
  EXPECT_TRUE(WaitFor([&] { return Ids(*member) == "a b"; }));
  EXPECT_EQ(Port(*member, "a"), 11);
  EXPECT_GT(Number(*member), 6u) << "6 was the view without b";
}

TEST_F(StaticMembershipTest, TwoProcessesAreNotOneNode) {
  ASSERT_TRUE(PublishAddress(file_, NodeId{"a"}, {"127.0.0.1", 4711}).ok());
  {
    const auto first = NodeClaim::Take(file_, NodeId{"a"});
    ASSERT_TRUE(first.ok()) << first.status();
    const absl::Status second = NodeClaim::Take(file_, NodeId{"a"}).status();
    EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
    EXPECT_THAT(std::string(second.message()),
                HasSubstr(absl::StrCat("node \"a\" of ", file_, " runs already: process ", getpid(), " on ")));
    EXPECT_THAT(std::string(second.message()), HasSubstr("serves at 127.0.0.1:4711; stop it"));
    EXPECT_TRUE(NodeClaim::Take(file_, NodeId{"b"}).ok());
  }
  EXPECT_TRUE(NodeClaim::Take(file_, NodeId{"a"}).ok()) << "the first has gone";
  std::ofstream(file_ + ".plain") << "x";
  EXPECT_THAT(std::string(NodeClaim::Take(file_ + ".plain/c", NodeId{"a"}).status().message()), HasSubstr("cannot "));
}

}  // namespace
}  // namespace kvist
