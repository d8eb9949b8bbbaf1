// Goal: /metrics stays cheap and small however many namespaces and tenants a node has. Method: a real node with traffic in
// fifty namespaces, each of a tenant of its own, scraped over HTTP. Of the times the least is judged: it is what a scrape
// costs, the rest is what else the machine does.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/access/access_config.h"
#include "services/transport/bearer_token.h"
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

std::string Token(int number) { return absl::StrCat("the-secret-token-of-", number); }

// Fifty tenants, each with a token and a quota.
AccessOptions WriteAccess(const std::string& folder) {
  std::string tenants, identities, tokens;
  for (int i = 0; i < kNamespaces; ++i) {
    absl::StrAppend(&tenants, i == 0 ? "" : ", ", "\"team-", i, "\": {\"host_bytes\": \"1MiB\", \"requests\": 8}");
    absl::StrAppend(&identities, i == 0 ? "" : ", ", "{\"identity\": \"token:t", i, "\", \"tenant\": \"team-", i,
                    "\", \"role\": \"writer\"}");
    const TokenHash hash = HashToken(Token(i));
    const absl::string_view bytes(reinterpret_cast<const char*>(hash.data()), hash.size());
    absl::StrAppend(&tokens, "t", i, " sha256:", absl::BytesToHexString(bytes), "\n");
  }
  AccessOptions options{.access_file = folder + "/scrape.json", .token_file = folder + "/scrape.tokens"};
  std::ofstream(options.access_file) << absl::StrCat("{\"tenants\": {", tenants, "}, \"identities\": [", identities,
                                                     "]}");
  std::ofstream(options.token_file) << tokens;
  chmod(options.token_file.c_str(), 0600);
  return options;
}

TEST(ScrapeTest, FiftyNamespacesAndTenantsTakeLessThanTwentyMillisecondsAndAMebibyte) {
  NodeConfig config = testing::TestConfig(64 << 20);
  config.access = WriteAccess(::testing::TempDir());
  const std::unique_ptr<NodeServer> node = testing::StartNode(config);
  for (int i = 0; i < kNamespaces; ++i) {
    const std::string file = ::testing::TempDir() + "/scrape.token";
    std::ofstream(file) << Token(i);
    chmod(file.c_str(), 0600);
    const std::unique_ptr<Transport> transport = NewGrpcTransport(nullptr, *BearerToken::Load(file));
    Use(transport->Connect(node->data_address().ToString()).get(), i);
  }
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
    EXPECT_NE(text.find(absl::StrCat("kvist_tenant_stored_blocks_total{tenant=\"team-", i, "\"} 2\n")),
              std::string::npos);
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
