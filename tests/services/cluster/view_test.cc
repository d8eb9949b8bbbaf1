// Goal: a cluster file is read in full or refused with a sentence that names everything that is wrong; nodes on ports
// chosen by the system are found. Method: files in the test's own folder; every message is compared as the reader would
// see it.
#include "services/cluster/view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "services/cluster/byte_size.h"
#include "services/cluster/static_file.h"

namespace kvist {
namespace {

using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::string NewFolder() {
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  const std::string folder = testing::TempDir() + "/view_test." + test->name();
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

TEST(ClusterFile, IsReadWithSizesAndDefaultWeights) {
  const auto view = ParseClusterFile(R"({"view": 7, "nodes": [
      {"id": "n0", "address": "127.0.0.1:7070", "weight": 2.5, "capacity": "256MiB"},
      {"id": "n1", "address": "[::1]:7070", "capacity": 4096}]})");
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->number.value, 7u);
  ASSERT_EQ(view->nodes.size(), 2u);
  EXPECT_EQ(view->nodes[0], (Node{NodeId{"n0"}, Address{"127.0.0.1", 7070}, 2.5, 256ull << 20}));
  EXPECT_EQ(view->nodes[1], (Node{NodeId{"n1"}, Address{"[::1]", 7070}, 1, 4096}));
  EXPECT_EQ(view->Find(NodeId{"n1"}), &view->nodes[1]);
  EXPECT_EQ(view->Find(NodeId{"n2"}), nullptr);
}

TEST(ClusterFile, EverythingThatIsWrongIsNamedAtOnce) {
  const auto view = ParseClusterFile(R"({"view": 0, "colour": "red", "nodes": [
      {"id": "n0", "address": "127.0.0.1:7070", "capacity": "1GiB"},
      {"id": "n0", "address": "localhost", "capacity": "lots"},
      {"id": "", "address": "127.0.0.1:7070", "weight": 0, "capacity": 1},
      {"id": "a/b", "address": ":1", "weight": "heavy", "port": 1},
      5]})");
  ASSERT_FALSE(view.ok());
  EXPECT_EQ(view.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message = Message(view.status());
  for (const char* part :
       {"view is 0", "unknown field \"colour\"", "node \"n0\": named twice",
        "\"localhost\" is not an address: write host:port", "\"lots\" is not a size", "node 2: its id is empty",
        "node 2: weight 0 is not positive", "address 127.0.0.1:7070 is another node's",
        "node \"a/b\": its id may hold only", "\":1\" is not an address", "node \"a/b\": \"weight\" is not a number",
        "node \"a/b\": \"capacity\" is missing",
        "node \"a/b\": unknown field \"port\" (known: id, address, weight, capacity)", "node 4: is not an object"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(ClusterFile, TextThatIsNoClusterIsRefused) {
  EXPECT_THAT(Message(ParseClusterFile("{").status()), HasSubstr("not a JSON object"));
  EXPECT_THAT(Message(ParseClusterFile("[]").status()), HasSubstr("not a JSON object"));
  EXPECT_EQ(Message(ParseClusterFile("{}").status()), "\"view\" is missing; \"nodes\" is missing");
  EXPECT_EQ(Message(ParseClusterFile(R"({"view": 1, "nodes": []})").status()), "no nodes");
  EXPECT_EQ(Message(ParseClusterFile(R"({"view": "1", "nodes": {}})").status()),
            "\"view\" is not a whole number above 0; \"nodes\" is not a list");
}

TEST(ClusterFile, AFileThatIsNotThereIsNamed) {
  const auto view = ReadClusterFile("/nowhere/cluster.json");
  EXPECT_EQ(view.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(view.status()), "cannot read cluster file /nowhere/cluster.json: No such file or directory");
}

TEST(ClusterFile, ComplaintsNameTheFile) {
  const std::string path = NewFolder() + "/cluster.json";
  std::ofstream(path) << "{}";
  EXPECT_THAT(Message(ReadClusterFile(path).status()), HasSubstr("cluster file " + path + ": \"view\" is missing"));
}

TEST(Publishing, AReaderWaitsForTheAddressThatANodeBinds) {
  const std::string path = NewFolder() + "/cluster.json";
  std::ofstream(path) << R"({"view": 3, "nodes": [{"id": "n0", "address": "127.0.0.1:0", "capacity": 1},
                                                   {"id": "n1", "address": "h:5", "capacity": 1}]})";
  std::thread node([&] { EXPECT_TRUE(PublishAddress(path, NodeId{"n0"}, Address{"127.0.0.1", 4711}).ok()); });
  const auto view = LoadView(path, absl::Now() + absl::Seconds(30), RealRuntime()->clock());
  node.join();
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->nodes[0].address, (Address{"127.0.0.1", 4711}));
  EXPECT_EQ(view->nodes[1].address, (Address{"h", 5}));
  EXPECT_EQ(view->number.value, 4u);
}

TEST(Publishing, ANodeThatDoesNotPublishIsNamedAndTheOthersAreResolved) {
  const std::string path = NewFolder() + "/cluster.json";
  std::ofstream(path) << R"({"view": 3, "nodes": [{"id": "n0", "address": "127.0.0.1:0", "capacity": 1},
                                                   {"id": "n1", "address": "127.0.0.1:0", "capacity": 1}]})";
  ASSERT_TRUE(PublishAddress(path, NodeId{"n1"}, Address{"127.0.0.1", 9}).ok());
  ASSERT_TRUE(PublishAddress(path, NodeId{"n1"}, Address{"127.0.0.1", 10}).ok());
  const auto files = ReadClusterFiles(path);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->missing, std::vector<std::string>{path + ".d/n0.address"});
  EXPECT_EQ(files->file.number.value, 3u);
  EXPECT_EQ(files->view.number.value, 5u);
  EXPECT_EQ(files->view.nodes[0].address.port, 0);
  EXPECT_EQ(files->view.nodes[1].address.port, 10);
}

TEST(Publishing, AWorkerStartsWithTheNodesThatItCanFindButNotWithNone) {
  const std::string path = NewFolder() + "/cluster.json";
  std::ofstream(path) << R"({"view": 3, "nodes": [{"id": "n0", "address": "127.0.0.1:0", "capacity": 1},
                                                   {"id": "n1", "address": "127.0.0.1:0", "capacity": 1}]})";
  const absl::Status none = LoadView(path, absl::InfinitePast(), RealRuntime()->clock()).status();
  EXPECT_THAT(Message(none), HasSubstr("n0.address, " + path + ".d/n1.address: is kvistd running"));
  ASSERT_TRUE(PublishAddress(path, NodeId{"n1"}, Address{"127.0.0.1", 9}).ok());
  const auto view = LoadView(path, absl::InfinitePast(), RealRuntime()->clock());
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->nodes[0].address.port, 0);
  EXPECT_EQ(view->nodes[1].address.port, 9);
}

TEST(Publishing, APortOf0AndAFolderThatCannotBeMadeAreRefused) {
  EXPECT_EQ(Message(PublishAddress("c", NodeId{"n0"}, Address{"h", 0})),
            "node \"n0\" cannot publish port 0: bind first");
  const std::string file = NewFolder() + "/plain";
  std::ofstream(file) << "x";
  EXPECT_THAT(Message(PublishAddress(file + "/c.json", NodeId{"n0"}, Address{"h", 1})), HasSubstr("cannot write "));
}

TEST(ByteSize, IsReadAsPeopleWriteIt) {
  EXPECT_EQ(*ParseByteSize("4096"), 4096u);
  EXPECT_EQ(*ParseByteSize("256MiB"), 256u << 20);
  EXPECT_EQ(*ParseByteSize("1.5 GiB"), 3u << 29);
  EXPECT_EQ(*ParseByteSize("2GB"), 2000000000u);
  for (const char* bad : {"", "MiB", "1.2.3", "-1", "1 MIB", "1e3", "99999999TiB"}) {
    EXPECT_THAT(Message(ParseByteSize(bad).status()), HasSubstr(std::string("\"") + bad + "\" is not a size")) << bad;
  }
  EXPECT_EQ(FormatByteSize(12), "12 B");
  EXPECT_EQ(FormatByteSize(256 << 20), "256.0 MiB");
}

}  // namespace
}  // namespace kvist
