// Goal: the debug pages are there for who asked for them and for nobody else, and whatever workers have told the node, a
// browser sees it as text. Method: the page writer by itself; then a real node over HTTP, told of hostile namespaces.
#include "services/node/debug_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/node/debug_tables.h"
#include "services/transport/transport.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::TestKey;

TEST(DebugPagesTest, TextIsEscapedWhereverItStands) {
  EXPECT_EQ(EscapeHtml("<a href=\"x\" onclick='y'>&amp;\n\x01"),
            "&lt;a href=&quot;x&quot; onclick=&#39;y&#39;&gt;&amp;amp;  ");
  DebugPages pages;
  pages.Add("members", [] { return DebugTable{"<caption>", {"<column>"}, {{"<cell>"}}}; });
  const std::string html = *pages.Render("members");
  for (const char* word : {"caption", "column", "cell"})
    EXPECT_THAT(html, HasSubstr(absl::StrCat("&lt;", word, "&gt;")));
  EXPECT_THAT(html, Not(HasSubstr("<column>")));
  EXPECT_THAT(html, Not(HasSubstr("<cell>")));
}

TEST(DebugPagesTest, TheIndexLinksEveryPageAndOthersAreNone) {
  DebugPages pages;
  pages.Add("one", [] { return DebugTable{"first", {"a"}, {}}; });
  pages.Add("one", [] { return DebugTable{"second", {"b"}, {{"c"}}}; });
  pages.Add("two", [] { return DebugTable{"third", {"d"}, {}}; });
  EXPECT_THAT(*pages.Render(""), ::testing::AllOf(HasSubstr("href=\"/debug/one\""), HasSubstr("href=\"/debug/two\"")));
  EXPECT_THAT(*pages.Render("one"), ::testing::AllOf(HasSubstr("first"), HasSubstr("second"), Not(HasSubstr("third"))));
  EXPECT_EQ(pages.Render("three"), std::nullopt);
}

TEST(DebugPagesTest, LongTablesAndCellsAreCutAndSayThatTheyAre) {
  DebugPages pages;
  pages.Add("long", [] {
    DebugTable table{"long", {"a"}, {}};
    table.rows.assign(DebugPages::kMaxRows + 5, {"x"});
    table.rows[0] = {std::string(100'000, 'y')};
    return table;
  });
  const std::string html = *pages.Render("long");
  EXPECT_THAT(html, HasSubstr("and 5 more"));
  EXPECT_THAT(html, HasSubstr("yyy..."));
  EXPECT_LT(html.size(), 50'000u);
}

TEST(DebugTablesTest, MembersShareTheKeysByWhatCountsOfTheirWeights) {
  View view;
  view.number.value = 7;
  view.nodes.resize(3);
  view.nodes[0].id.value = "n0";
  view.nodes[0].weight = 3;
  view.nodes[1].id.value = "n1";
  view.nodes[1].state = NodeState::kJoining;
  view.nodes[1].weight = 2;
  view.nodes[1].ramp = 0.5;
  view.nodes[2].id.value = "n2";
  view.nodes[2].state = NodeState::kDraining;
  const DebugTable table = MembersTable(&view, NodeId{"n1"});
  EXPECT_EQ(table.caption, "View 7");
  ASSERT_EQ(table.rows.size(), 3u);
  const auto share = [&](size_t row) { return table.rows[row][5]; };
  EXPECT_EQ(share(0), "75.0 %");
  EXPECT_EQ(share(1), "25.0 %");
  EXPECT_EQ(share(2), "0.0 %");
  EXPECT_EQ(table.rows[1][0], "n1 (this node)");
  EXPECT_EQ(MembersTable(nullptr, NodeId{"n1"}).caption, "No view");
}

TEST(DebugTablesTest, TenantsThatHoldMostComeFirst) {
  TenantReading small, large;
  small.name = "small";
  small.host_bytes = 1;
  small.host_quota_bytes = 100;
  large.name = "large";
  large.host_bytes = 1;
  large.device_bytes = 1;
  const DebugTable table = TenantsTable({small, large});
  ASSERT_EQ(table.rows.size(), 2u);
  EXPECT_EQ(table.rows[0][0], "large");
  EXPECT_EQ(table.rows[0][2], "") << "no bound";
  EXPECT_EQ(table.rows[1][2], "100");
}

class DebugPagesOfANode : public ::testing::Test {
 protected:
  void Start(bool debug_pages) {
    NodeConfig config = testing::TestConfig(16 << 20);
    config.debug_pages = debug_pages;
    node_ = testing::StartNode(config);
    channel_ = transport_->Connect(node_->data_address().ToString());
  }
  httplib::Result Ask(const std::string& path) {
    return httplib::Client("http://" + node_->http_address().ToString()).Get(path.c_str());
  }
  void Describe(const std::string& digest, const nlohmann::json& text) {
    v1::DescribeRequest request;
    request.set_namespace_digest(digest);
    request.set_namespace_text(text.dump());
    const auto described = channel_->Describe(request, testing::In(10));
    ASSERT_TRUE(described.ok()) << described.status();
  }

  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::unique_ptr<NodeServer> node_;
  std::unique_ptr<Channel> channel_;
};

TEST_F(DebugPagesOfANode, AreNotThereUnlessAskedFor) {
  Start(false);
  for (const char* path : {"/debug", "/debug/", "/debug/namespaces", "/debug/build"}) {
    EXPECT_EQ(Ask(path)->status, 404) << path;
  }
}

TEST_F(DebugPagesOfANode, EveryPageIsHtmlThatMayRunAndFetchNothing) {
  Start(true);
  EXPECT_EQ(Ask("/debug")->status, 200);
  for (const char* page : {"bounds", "build", "hot", "members", "namespaces"}) {
    EXPECT_THAT(Ask("/debug")->body, HasSubstr(absl::StrCat("/debug/", page)));
    const httplib::Result got = Ask(absl::StrCat("/debug/", page));
    ASSERT_EQ(got->status, 200) << page;
    EXPECT_THAT(got->get_header_value("Content-Type"), HasSubstr("text/html"));
    EXPECT_THAT(got->get_header_value("Content-Security-Policy"), HasSubstr("default-src 'none'"));
    EXPECT_THAT(got->body, HasSubstr("<table>"));
    EXPECT_THAT(got->body, Not(HasSubstr("<script")));
  }
  EXPECT_THAT(Ask("/debug/bounds")->body, HasSubstr("Gets under way"));
  EXPECT_EQ(Ask("/debug/nothing")->status, 404);
  EXPECT_EQ(Ask("/debug/../metrics")->status, 404);
}

TEST_F(DebugPagesOfANode, WhatWorkersSaidIsTextAndNoSaltIsShown) {
  Start(true);
  const std::string hostile = "</td><script>alert(1)</script><img src=x onerror='alert(2)'>";
  Describe(testing::kTestNamespace, {{"model", hostile}, {hostile, "x"}, {"tenant_salt", "fingerprint"}});
  ASSERT_TRUE(testing::PutBlock(channel_.get(), TestKey(1), testing::TestBlock(TestKey(1), 2, 1)).ok());
  const std::string html = Ask("/debug/namespaces")->body;
  EXPECT_THAT(html, HasSubstr("model=&lt;/td&gt;&lt;script&gt;alert(1)"));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, Not(HasSubstr("fingerprint")));
  EXPECT_THAT(html, HasSubstr("74657374206e"));  // "test n", the digest's first bytes
}

TEST_F(DebugPagesOfANode, TheMostReadIsToldByTheFirstBytesOfItsKeyOnly) {
  Start(true);
  Key key = TestKey(0);
  for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(0xa0 + i);
  ASSERT_TRUE(testing::PutBlock(channel_.get(), key, testing::TestBlock(key, 20, 1)).ok());
  const auto read = [&] {
    EXPECT_TRUE(testing::GetBlocks(channel_.get(), testing::GetRequestFor({key})).ok());
    return Ask("/debug/hot")->body.find(">a0a1a2a3...<") != std::string::npos;
  };
  EXPECT_TRUE(testing::WaitFor(read));
  EXPECT_THAT(Ask("/debug/hot")->body, Not(HasSubstr("a0a1a2a3a4")));
}

}  // namespace
}  // namespace kvist
