// Goal: the examples in C++ and in Python do what they say, on a real cluster, and say what is wrong when there is
// none. Method: three kvistd processes from one cluster file; each example is run as a user would.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "tests/e2e/process.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using testing::Process;
using testing::Runfile;

class ExamplesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = ::testing::TempDir() + ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".json";
    std::filesystem::remove_all(file_ + ".d");
    std::ofstream(file_) << R"({"view": 1, "nodes": [{"id": "a", "address": "127.0.0.1:0", "capacity": "8MiB"},
        {"id": "b", "address": "127.0.0.1:0", "capacity": "8MiB"}, {"id": "c", "address": "127.0.0.1:0", "capacity": "8MiB"}]})";
    for (const char* id : {"a", "b", "c"}) {
      nodes_.push_back(std::make_unique<Process>(
          std::vector<std::string>{Runfile("services/node/kvistd"), "--cluster", file_, "--node", id}));
    }
  }

  std::string file_;
  std::vector<std::unique_ptr<Process>> nodes_;
};

TEST_F(ExamplesTest, TheWorkerInCppStoresMatchesAndReadsBack) {
  const testing::Ended ended = testing::Run({Runfile("examples/worker"), file_});
  EXPECT_EQ(ended.exit, 0) << ended.errors;
  EXPECT_EQ(ended.output, "stored 6 blocks, matched 96 tokens, read 6 blocks back\n");
}

TEST_F(ExamplesTest, TheWorkerInCppNamesAClusterFileThatIsNotThere) {
  const testing::Ended ended = testing::Run({Runfile("examples/worker"), "/nonexistent.json"});
  EXPECT_EQ(ended.exit, 1);
  EXPECT_THAT(ended.errors, HasSubstr("/nonexistent.json"));
}

}  // namespace
}  // namespace kvist
