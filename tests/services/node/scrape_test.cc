// Goal: /metrics stays cheap and small however many namespaces a node has seen. Method: a real node with traffic in fifty
// of them, scraped over HTTP. Of the times the least is judged: it is what a scrape costs, the rest is what else the
// machine does.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/transport/transport.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using testing::In;

constexpr int kNamespaces = 50, kScrapes = 50;

std::string Digest(int number) {
  char digest[17];
  std::snprintf(digest, sizeof(digest), "%03d namespace...", number);
  return digest;
}

// Describes a namespace, puts two blocks of it, gets one, and misses one.
void Use(Channel* channel, int number) {
  v1::DescribeRequest describe;
  describe.set_namespace_digest(Digest(number));
  describe.set_namespace_text(absl::StrCat("{\"model\": \"model ", number, "\"}"));
  ASSERT_TRUE(channel->Describe(describe, In(10)).ok());
  for (uint8_t block = 0; block < 2; ++block) {
    Key key = testing::TestKey(block);
    key.bytes[0] = static_cast<uint8_t>(number);
    const absl::Status put =
        testing::PutBlock(channel, key, testing::TestBlock(key, 2, number, Digest(number)), Digest(number));
    ASSERT_TRUE(put.ok()) << put;
    v1::GetRequest get = testing::GetRequestFor({key, testing::TestKey(255)});
    get.set_namespace_digest(Digest(number));
    ASSERT_TRUE(testing::GetBlocks(channel, get).ok());
  }
}

TEST(ScrapeTest, FiftyNamespacesTakeLessThanTwentyMillisecondsAndAMebibyte) {
  const std::unique_ptr<NodeServer> node = testing::StartNode(16 << 20);
  const std::unique_ptr<Transport> transport = NewGrpcTransport();
  const std::unique_ptr<Channel> channel = transport->Connect(node->data_address().ToString());
  for (int i = 0; i < kNamespaces; ++i) Use(channel.get(), i);
  std::vector<absl::Duration> took;
  std::string text;
  for (int i = 0; i < kScrapes; ++i) {
    const absl::Time begin = absl::Now();
    text = testing::HttpGet(node->http_address(), "/metrics");
    took.push_back(absl::Now() - begin);
  }
  for (int i = 0; i < kNamespaces; ++i) {
    const std::string label =
        absl::StrCat("{kv_namespace=\"", absl::BytesToHexString(Digest(i)).substr(0, 12), "\"} 2\n");
    for (const char* what : {"hit", "missed", "stored"}) {
      EXPECT_NE(text.find(absl::StrCat("kvist_namespace_", what, "_blocks_total", label)), std::string::npos) << label;
    }
  }
  std::sort(took.begin(), took.end());
  std::printf("%zu bytes; least %s, median %s\n", text.size(), absl::FormatDuration(took.front()).c_str(),
              absl::FormatDuration(took[took.size() / 2]).c_str());
  EXPECT_LT(text.size(), 1u << 20);
  EXPECT_LT(took.front(), absl::Milliseconds(20));
}

}  // namespace
}  // namespace kvist
