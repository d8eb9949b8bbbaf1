// Goal: an Explain costs a bounded amount of work and answers with a bounded number of bytes, whatever was described.
// Method: the table of namespaces by itself, and handlers over a host tier that many blocks of other namespaces are
// asked of.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/node/namespaces.h"
#include "services/transport/retry_hint.h"
#include "tests/services/node/local_node.h"

namespace kvist {
namespace {

using testing::GetRequestFor;
using ::testing::HasSubstr;
using testing::kTestNamespace;
using testing::LocalNode;
using testing::TestKey;

std::string Digest(int i) {
  std::string digest(16, '\0');
  std::memcpy(digest.data(), &i, sizeof(i));
  return digest;
}

std::string Text(const std::string& name, const std::string& value) {
  return absl::StrCat("{\"model\": \"m\", \"", name, "\": \"", value, "\"}");
}

NamespaceFields Fields(const std::string& text) {
  const absl::StatusOr<NamespaceFields> fields = ParseNamespace(text);
  EXPECT_TRUE(fields.ok()) << fields.status();
  return fields.value_or(NamespaceFields());
}

TEST(NamespacesTest, TheFirstDescriptionOfADigestStays) {
  Namespaces namespaces;
  ASSERT_TRUE(namespaces.Describe(0, Digest(1), Text("dtype", "bf16")).ok());
  ASSERT_TRUE(namespaces.Describe(0, Digest(1), Text("dtype", "f16")).ok());
  ASSERT_NE(namespaces.Find(0, Digest(1)), nullptr);
  EXPECT_EQ(namespaces.Find(0, Digest(1))->at("dtype"), "bf16");
  EXPECT_EQ(namespaces.Find(0, Digest(2)), nullptr);
}

TEST(NamespacesTest, ATextHasABoundedNumberOfFields) {
  std::string text = "{\"f0\": 0";
  for (int i = 1; i < 64; ++i) absl::StrAppend(&text, ", \"f", i, "\": 0");
  EXPECT_TRUE(ParseNamespace(text + "}").ok());
  const absl::Status many = ParseNamespace(text + ", \"more\": 0}").status();
  EXPECT_THAT(std::string(many.message()), HasSubstr("65 fields; at most 64 are allowed"));
}

TEST(NamespacesTest, DescriptionsTogetherAreBoundedAndTheOldestGoes) {
  Namespaces namespaces;
  const std::string value(16'000, 'x');
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(namespaces.Describe(0, Digest(i), Text("salt", value)).ok());
  EXPECT_EQ(namespaces.Find(0, Digest(0)), nullptr);
  EXPECT_NE(namespaces.Find(0, Digest(299)), nullptr);
  EXPECT_LE(namespaces.size() * value.size(), Namespaces::kMaxDescribedBytes);
  EXPECT_GT((namespaces.size() + 2) * value.size(), Namespaces::kMaxDescribedBytes);
  for (int i = 1000; i < 1100; ++i) namespaces.CountBlock(0, Digest(i));  // these have no text, and cost nothing of it
  EXPECT_NE(namespaces.Find(0, Digest(299)), nullptr);
}

TEST(NamespacesTest, ALongValueIsCutWhereACharacterEnds) {
  Namespaces namespaces;
  std::string value = "x";
  for (int i = 0; i < 1000; ++i) value += "\xc3\xa5";  // å: byte 128 is the second half of one
  ASSERT_TRUE(namespaces.Describe(0, Digest(1), Text("salt", value)).ok());
  namespaces.CountBlock(0, Digest(1));
  const std::vector<v1::NearNamespace> near = namespaces.Near(0, Digest(2), Fields(Text("salt", "s")));
  ASSERT_EQ(near.size(), 1u);
  ASSERT_EQ(near[0].fields_size(), 1);
  EXPECT_EQ(near[0].fields(0).stored(), value.substr(0, 127) + "...");
  EXPECT_EQ(near[0].fields(0).asked(), "s");
}

TEST(ExplainTest, ManyMismatchesOfLongTextsFitIntoOneMessage) {
  LocalNode node;
  const auto text = [](char c) {
    std::string fields;
    for (int i = 0; i < 3; ++i)
      absl::StrAppend(&fields, ", \"", std::string(1000, 'a' + i), "\": \"", std::string(4000, c), "\"");
    return "{\"model\": \"m\"" + fields + "}";
  };
  ASSERT_TRUE(node.Put(TestKey(1), 1, Digest(1)).ok());
  v1::DescribeRequest describe;
  describe.set_namespace_digest(Digest(1));
  describe.set_namespace_text(text('x'));
  ASSERT_TRUE(node.channel->Describe(describe, node.In(1)).ok());
  v1::ExplainRequest request;
  request.set_keys(GetRequestFor(std::vector<Key>(4096, TestKey(1))).keys());
  request.set_namespace_digest(kTestNamespace);
  request.set_namespace_text(text('y'));
  const auto answer = node.channel->Explain(request, node.In(1));
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->fates_size(), 4096);
  EXPECT_LT(answer->ByteSizeLong(), 4u << 20);
  EXPECT_THAT(answer->fates(4095).detail(),
              HasSubstr(std::string(128, 'a') + "... is " + std::string(128, 'x') + "..."));
}

TEST(ExplainTest, AskingDescribesNothing) {
  LocalNode node;
  ASSERT_TRUE(node.Put(TestKey(1), 1, Digest(1)).ok());
  v1::ExplainRequest request;
  request.set_namespace_digest(Digest(1));
  request.set_namespace_text(Text("dtype", "wrong"));
  ASSERT_TRUE(node.channel->Explain(request, node.In(1)).ok());
  request.set_namespace_digest(Digest(2));
  request.set_namespace_text(Text("dtype", "bf16"));
  const auto answer = node.channel->Explain(request, node.In(1));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->near_size(), 0);
}

TEST(ExplainTest, ExplainsAndDescribesHaveABoundOfTheirOwn) {
  AdmissionLimits limits;
  limits.explains = 0;
  LocalNode node(limits);
  v1::DescribeRequest describe;
  describe.set_namespace_digest(Digest(1));
  describe.set_namespace_text("{}");
  for (const absl::Status& status : {node.channel->Explain(v1::ExplainRequest(), node.In(1)).status(),
                                     node.channel->Describe(describe, node.In(1)).status()}) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_TRUE(RetryHint(status).has_value()) << status;
  }
  EXPECT_EQ(node.Figure("kvist_overload_refusals_total{limit=\"explains\"}"), 2);
  EXPECT_TRUE(node.channel->Match(v1::MatchRequest(), node.In(1)).ok());
}

}  // namespace
}  // namespace kvist
