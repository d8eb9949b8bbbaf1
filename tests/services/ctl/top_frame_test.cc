// Goal: `kvist top` shows the nodes' own figures, rates over the time between two looks, and says which node gave none.
#include "services/ctl/top_frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "services/ctl/metrics_address.h"

namespace kvist {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::Pair;

std::string Exposition(int saved, int sent, int used) {
  return "# HELP kvist_state 1 for the state that the node is in.\n# TYPE kvist_state gauge\n"
         "kvist_state{state=\"serving\"} 1\nkvist_state{state=\"draining\"} 0\n"
         "kvist_blocks{tier=\"host\"} 3\nkvist_blocks{tier=\"device\"} 4\n"
         "kvist_capacity_bytes{tier=\"host\"} 4194304\nkvist_used_bytes{tier=\"host\"} " +
         std::to_string(used) + "\nkvist_saved_tokens_total " + std::to_string(saved) + "\nkvist_sent_bytes_total " +
         std::to_string(sent) + "\n";
}

Look LookOf(double seconds, const std::string& text, const std::string& problem = "") {
  Look look;
  look.when = absl::UnixEpoch() + absl::Seconds(seconds);
  look.view = 7;
  look.nodes.push_back({"n1", problem, MetricsText(text)});
  return look;
}

TEST(MetricsText, SumsTheSeriesThatHaveTheLabels) {
  const MetricsText text("a{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nb 2.5e3\n# a 9\n\nnonsense\n");
  EXPECT_EQ(text.Sum("a"), 7);
  EXPECT_EQ(text.Sum("a", {{"y", "3"}}), 4);
  EXPECT_EQ(text.Sum("a", {{"x", "1"}, {"y", "2"}}), 3);
  EXPECT_EQ(text.Sum("a", {{"y", "4"}}), 0);
  EXPECT_EQ(text.Sum("b"), 2500);
  EXPECT_FALSE(text.Has("nonsense"));
}

TEST(MetricsText, ReadsBucketsInTheOrderOfTheirBounds) {
  const MetricsText text(
      "h_bucket{m=\"a\",le=\"+Inf\"} 5\nh_bucket{m=\"a\",le=\"0.5\"} 1\nh_bucket{m=\"b\",le=\"0.5\"} 9\n");
  const auto buckets = text.Buckets("h", {{"m", "a"}});
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_THAT(buckets[0], Pair(0.5, 1));
  EXPECT_EQ(buckets[1].second, 5);
}

TEST(QuantileBetween, IsTheBoundBelowWhichThePartLies) {
  using Buckets = std::vector<std::pair<double, double>>;
  const double inf = std::numeric_limits<double>::infinity();
  const Buckets before = {{0.1, 10}, {1, 10}, {inf, 10}}, after = {{0.1, 12}, {1, 19}, {inf, 20}};
  EXPECT_EQ(QuantileBetween(before, after, 0.2), 0.1);
  EXPECT_EQ(QuantileBetween(before, after, 0.9), 1);
  EXPECT_EQ(QuantileBetween(before, after, 0.99), 1) << "beyond all bounds: the last one that is a number";
  EXPECT_EQ(QuantileBetween(after, after, 0.5), -1) << "nothing was counted";
}

TEST(Bar, IsAsFullAsThePart) {
  EXPECT_EQ(Bar(1, 2, 4), "[##--]");
  EXPECT_EQ(Bar(0, 0, 4), "[----]");
  EXPECT_EQ(Bar(9, 2, 4), "[####]");
}

TEST(TopFrame, ShowsMemoryAndRatesBetweenTheLooks) {
  const std::string frame = TopFrame(LookOf(0, Exposition(100, 0, 0)), LookOf(2, Exposition(300, 4 << 20, 2 << 20)));
  for (const char* part :
       {"view 7", "1 of 1 nodes answer", "over 2.0 s", "serving", "[########--------] 50.0 %", " 100 ", "2.0 MiB/s"}) {
    EXPECT_THAT(frame, HasSubstr(part));
  }
}

TEST(TopFrame, CountsANodeThatStartedBetweenTheLooksFromItsStart) {
  const std::string frame = TopFrame(LookOf(0, Exposition(5000, 0, 0)), LookOf(1, Exposition(40, 0, 0)));
  EXPECT_THAT(frame, HasSubstr(" 40 "));
  EXPECT_THAT(frame, Not(HasSubstr("-4960")));
}

TEST(TopFrame, NamesANodeThatGivesNoFigures) {
  const std::string frame = TopFrame(LookOf(0, ""), LookOf(1, "", "http://n1:8101/metrics does not answer (refused)"));
  EXPECT_THAT(frame, HasSubstr("0 of 1 nodes answer"));
  EXPECT_THAT(frame, HasSubstr("n1: http://n1:8101/metrics does not answer (refused)"));
}

class MetricsAddressTest : public ::testing::Test {
 protected:
  MetricsAddressTest() {
    node_.id.value = "n1";
    node_.address = {"10.0.0.1", 7070};
  }
  std::string Of(const Address& http, const std::string& cluster_file = "") {
    node_.http = http;
    const absl::StatusOr<Address> address = MetricsAddress(node_, cluster_file);
    return address.ok() ? address->ToString() : std::string(address.status().message());
  }
  Node node_;
};

TEST_F(MetricsAddressTest, IsThatOfTheRecord) {
  EXPECT_EQ(Of({"10.0.0.2", 8080}), "10.0.0.2:8080");
  EXPECT_EQ(Of({"[::1]", 8080}), "::1:8080");
}

TEST_F(MetricsAddressTest, OfANodeThatListensEverywhereIsWhereItsDataPortIs) {
  EXPECT_EQ(Of({"0.0.0.0", 8080}), "10.0.0.1:8080");
  EXPECT_EQ(Of({"[::]", 8080}), "10.0.0.1:8080");
}

TEST_F(MetricsAddressTest, IsReadFromBesideTheClusterFile) {
  const std::string file = ::testing::TempDir() + "/cluster.json";
  std::filesystem::create_directories(file + ".d");
  std::ofstream(file + ".d/n1.http") << "127.0.0.1:8101\n";
  EXPECT_EQ(Of({"", 0}, file), "127.0.0.1:8101");
  EXPECT_THAT(Of({"", 0}, file + ".other"), HasSubstr("neither its record nor a file beside the cluster file"));
  EXPECT_THAT(Of({"", 0}), HasSubstr("its record does not name it"));
}

}  // namespace
}  // namespace kvist
