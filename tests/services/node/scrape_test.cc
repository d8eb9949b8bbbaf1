// Goal: /metrics stays cheap and small however many tenants and namespaces a node has seen. Method: a real node with fifty
// tenants that each put and get blocks of a namespace of their own, scraped over HTTP. Of the times the least is judged: it
// is what a scrape costs, the rest is what else the machine does.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "services/access/access_config.h"
#include "services/transport/bearer_token.h"
#include "services/transport/transport.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using testing::In;

constexpr int kTenants = 50, kScrapes = 50;

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

std::string Path(const std::string& name) { return absl::StrCat(::testing::TempDir(), "/scrape.", name); }

void WritePrivately(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
}

std::string TokenOf(int tenant) { return absl::StrCat("the-secret-token-of-", tenant); }

AccessOptions FiftyTenants() {
  std::vector<std::string> tenants, identities;
  std::string tokens;
  for (int i = 0; i < kTenants; ++i) {
    tenants.push_back(absl::StrCat("\"t", i, "\": {\"host_bytes\": \"1MiB\"}"));
    identities.push_back(
        absl::StrCat("{\"identity\": \"token:t", i, "\", \"tenant\": \"t", i, "\", \"role\": \"writer\"}"));
    const TokenHash hash = HashToken(TokenOf(i));
    absl::StrAppend(&tokens, "t", i, " sha256:",
                    absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size())),
                    "\n");
  }
  WritePrivately(Path("json"), absl::StrCat("{\"tenants\": {", absl::StrJoin(tenants, ", "), "}, \"identities\": [",
                                            absl::StrJoin(identities, ", "), "]}"));
  WritePrivately(Path("tokens"), tokens);
  AccessOptions access;
  access.access_file = Path("json");
  access.token_file = Path("tokens");
  return access;
}

TEST(ScrapeTest, FiftyTenantsWithANamespaceEachTakeLessThanTwentyMillisecondsAndAMebibyte) {
  NodeConfig config = testing::TestConfig(64 << 20);
  config.access = FiftyTenants();
  const std::unique_ptr<NodeServer> node = testing::StartNode(config);
  for (int i = 0; i < kTenants; ++i) {
    WritePrivately(Path("token"), TokenOf(i) + "\n");
    const std::unique_ptr<Transport> transport = NewGrpcTransport(nullptr, *BearerToken::Load(Path("token")));
    Use(transport->Connect(node->data_address().ToString()).get(), i);
  }
  std::vector<absl::Duration> took;
  std::string text;
  for (int i = 0; i < kScrapes; ++i) {
    const absl::Time begin = absl::Now();
    text = testing::HttpGet(node->http_address(), "/metrics");
    took.push_back(absl::Now() - begin);
  }
  for (int i = 0; i < kTenants; ++i) {
    const std::string label = absl::BytesToHexString(Digest(i)).substr(0, 12);
    for (const char* what : {"hit", "missed", "stored"}) {
      const std::string line =
          absl::StrCat("kvist_namespace_", what, "_blocks_total{kv_namespace=\"", label, "\"} 2\n");
      EXPECT_NE(text.find(line), std::string::npos) << line;
    }
    EXPECT_NE(text.find(absl::StrCat("tenant=\"t", i, "\"")), std::string::npos) << i;
  }
  std::sort(took.begin(), took.end());
  std::printf("%zu bytes; least %s, median %s\n", text.size(), absl::FormatDuration(took.front()).c_str(),
              absl::FormatDuration(took[took.size() / 2]).c_str());
  EXPECT_LT(text.size(), 1u << 20);
  EXPECT_LT(took.front(), absl::Milliseconds(20));
}

}  // namespace
}  // namespace kvist
