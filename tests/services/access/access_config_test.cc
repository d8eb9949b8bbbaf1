// Goal: the access file and the token file say what they mean or are refused with a sentence that says what to change.
// Method: one good file; one wrong thing at a time.
#include "services/access/access_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;

TEST(AccessConfigTest, AGoodFileIsReadAsItSays) {
  const auto config = ParseAccess(R"({
      "tenants": {"team-a": {"host_bytes": "8GiB", "device_bytes": "1GiB", "share": 2, "requests": 64}, "team-b": {}},
      "identities": [{"identity": "spiffe://corp/ns/a/*", "tenant": "team-a", "role": "writer"},
                     {"identity": "dns:*.b.example", "tenant": "team-b", "role": "reader"},
                     {"identity": "token:ci", "tenant": "team-b", "role": "admin"},
                     {"identity": "dns:node.example", "role": "node"},
                     {"identity": "dns:ops.example", "role": "admin"}]})");
  ASSERT_TRUE(config.ok()) << config.status();
  const TenantLimits a = config->tenants.at("team-a"), b = config->tenants.at("team-b");
  EXPECT_EQ(a.host_bytes, 8ull << 30);
  EXPECT_EQ(a.device_bytes, 1ull << 30);
  EXPECT_EQ(a.share, 2u);
  EXPECT_EQ(a.requests, 64u);
  EXPECT_EQ(b.host_bytes, TenantQuotas::kNoBound);
  EXPECT_EQ(b.share, 1u);
  ASSERT_EQ(config->identities.size(), 5u);
  EXPECT_EQ(config->identities[0].tenant, "team-a");
  EXPECT_EQ(config->identities[0].role, Role::kWriter);
  EXPECT_EQ(config->identities[3].role, Role::kNode);
  EXPECT_EQ(config->identities[4].tenant, "");
}

TEST(AccessConfigTest, WhatIsWrongIsNamed) {
  const auto with_identity = [](const std::string& identity) {
    return absl::StrCat(R"({"tenants": {"a": {}}, "identities": [)", identity, "]}");
  };
  const auto with_tenant = [](const std::string& tenant) {
    return absl::StrCat(R"({"tenants": {)", tenant, R"(}, "identities": [{"identity": "dns:n", "role": "node"}]})");
  };
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"{", "it is no JSON"},
      {"[]", "is no JSON object"},
      {R"({"tenant": {}})", "unknown field 'tenant'"},
      {R"({"tenants": []})", "tenants: is an object of names"},
      {R"({"tenants": {}})", "without one nobody could call"},
      {with_tenant(R"("a b": {})"), "tenant 'a b': a tenant's name has 1 to 63"},
      {with_tenant(R"("a": {"bytes": "1GiB"})"), "tenant 'a': has an unknown field 'bytes'"},
      {with_tenant(R"("a": {"host_bytes": 5})"), "host_bytes is a size in quotes"},
      {with_tenant(R"("a": {"host_bytes": "much"})"), "tenant 'a': host_bytes: "},
      {with_tenant(R"("a": {"share": 0})"), "share is a whole number of 1 to 1000000"},
      {with_tenant(R"("a": {"requests": 1.5})"), "requests is a whole number"},
      {with_identity(R"({"role": "reader"})"), "identity 1: has no field 'identity'"},
      {with_identity(R"({"identity": "alice", "tenant": "a", "role": "reader"})"),
       "is spiffe://..., dns:... or token:..."},
      {with_identity(R"({"identity": "dns:x", "tenant": "a", "role": "root"})"),
       "role is reader, writer, admin or node"},
      {with_identity(R"({"identity": "dns:x", "tenant": "z", "role": "reader"})"), "its tenant 'z' is not among"},
      {with_identity(R"({"identity": "dns:x", "role": "writer"})"), "a writer belongs to a tenant: name it"},
      {with_identity(R"({"identity": "dns:x", "tenant": "a", "role": "node"})"), "leave \"tenant\" out"},
      {with_identity(R"({"identity": "dns:a.*.c", "tenant": "a", "role": "reader"})"), "only for the first label"},
      {with_identity(R"({"identity": "dns:*", "tenant": "a", "role": "reader"})"), "only for the first label"},
      {with_identity(R"({"identity": "spiffe://*/x", "tenant": "a", "role": "reader"})"), "only at the end"},
      {with_identity(R"({"identity": "token:*", "tenant": "a", "role": "reader"})"), "a token's name"},
      {with_identity(R"({"identity": "dns:x", "role": "node"}, {"identity": "dns:x", "role": "node"})"), "named twice"},
  };
  for (const auto& [json, sentence] : wrong) {
    const absl::Status status = ParseAccess(json).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr(sentence)) << json;
  }
}

TEST(AccessConfigTest, TokensAreKnownByTheirHashes) {
  // SHA-256 of "test", as FIPS 180-4 has it.
  const auto tokens =
      ParseTokens("# who may read\n\n  ci sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  \n");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->at(HashToken("test")), "ci");
  EXPECT_EQ(tokens->count(HashToken("Test")), 0u);
}

TEST(AccessConfigTest, AWrongLineOfTheTokenFileIsNamedAndNotRepeated) {
  const std::string hash(64, 'a');
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"secretsecret", "line 1: is not 'name sha256:"},
      {"ci md5:" + hash, "line 1: is not 'name sha256:"},
      {"a b sha256:" + hash, "line 1: is not 'name sha256:"},
      {"ci sha256:abcd", "line 1: has no 64 hex digits"},
      {"ci sha256:" + hash + "\nci sha256:" + std::string(64, 'b'), "line 2: 'ci' is named twice"},
      {"ci sha256:" + hash + "\ncd sha256:" + hash, "line 2: has the hash of an earlier line"},
  };
  for (const auto& [text, sentence] : wrong) {
    const std::string message(ParseTokens(text).status().message());
    EXPECT_THAT(message, HasSubstr(sentence)) << text;
    EXPECT_THAT(message, ::testing::Not(HasSubstr("secretsecret")));
  }
}

TEST(AccessConfigTest, ARuleForATokenThatIsNotThereIsNamed) {
  const auto config = ParseAccess(R"({"identities": [{"identity": "token:ops", "role": "admin"}]})");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(TokensWithoutLine(*config, {}), "nobody can be 'token:ops': the token file has no such line");
  EXPECT_EQ(TokensWithoutLine(*config, {{HashToken("x"), "ops"}}), "");
}

}  // namespace
}  // namespace kvist
