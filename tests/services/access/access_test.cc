// Goal: who shows what is taken for whom; changed files count soon, wrong ones never, and tenants keep their numbers.
// Method: files in the test's folder, read again every 10 ms.
#include "services/access/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;

constexpr char kAccess[] = R"({"tenants": {"a": {"requests": 5}, "b": {}}, "identities": [
    {"identity": "dns:special.a.example", "tenant": "b", "role": "reader"},
    {"identity": "dns:*.a.example", "tenant": "a", "role": "writer"},
    {"identity": "spiffe://corp/b/*", "tenant": "b", "role": "writer"},
    {"identity": "token:ci", "tenant": "a", "role": "admin"},
    {"identity": "dns:node", "role": "node"}]})";

std::string Line(const std::string& name, const std::string& token) {
  const TokenHash hash = HashToken(token);
  const absl::string_view bytes(reinterpret_cast<const char*>(hash.data()), hash.size());
  return absl::StrCat(name, " sha256:", absl::BytesToHexString(bytes), "\n");
}

class AccessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    options_.access_file = ::testing::TempDir() + "/" + name + ".json";
    options_.token_file = ::testing::TempDir() + "/" + name + ".tokens";
    options_.refresh = absl::Milliseconds(10);
    Write(options_.access_file, kAccess);
    Write(options_.token_file, Line("ci", "the token"));
  }
  static void Write(const std::string& path, const std::string& text, mode_t mode = 0600) {
    const std::string next = path + ".next";
    std::ofstream(next) << text;
    ASSERT_EQ(chmod(next.c_str(), mode), 0);
    ASSERT_EQ(std::rename(next.c_str(), path.c_str()), 0);
  }
  std::shared_ptr<Access> Load() {
    auto access = Access::Load(options_);
    EXPECT_TRUE(access.ok()) << access.status();
    return access.value_or(nullptr);
  }
  static std::string Who(const Access& access, std::vector<std::string> names, const std::string& token = "") {
    const auto caller = access.Identify({std::move(names), token, ""});
    if (!caller.ok()) return std::string(caller.status().message());
    return absl::StrCat(caller->identity, " ", caller->tenant_name, " ", std::string(RoleName(caller->role)));
  }

  AccessOptions options_;
};

TEST_F(AccessTest, NamesLeadToTenantsAndRolesTheExactOnesFirst) {
  const auto access = Load();
  EXPECT_EQ(Who(*access, {"dns:x.a.example"}), "dns:x.a.example a writer");
  EXPECT_EQ(Who(*access, {"dns:special.a.example"}), "dns:special.a.example b reader");
  EXPECT_EQ(Who(*access, {"spiffe://corp/b/sa/vllm", "dns:x.a.example"}), "spiffe://corp/b/sa/vllm b writer");
  EXPECT_EQ(Who(*access, {"dns:other", "dns:node"}), "dns:node  node");
  EXPECT_EQ(Who(*access, {"dns:node"}, "the token"), "token:ci a admin") << "a token goes first";
}

TEST_F(AccessTest, WhoIsNotKnownIsToldWhatWasSeen) {
  const auto access = Load();
  EXPECT_THAT(Who(*access, {"dns:x.y.a.example"}), HasSubstr("does not know 'dns:x.y.a.example'"));
  EXPECT_THAT(Who(*access, {"dns:.a.example"}), HasSubstr("does not know"));
  EXPECT_THAT(Who(*access, {"dns:a.example"}), HasSubstr("does not know"));
  EXPECT_THAT(Who(*access, {"spiffe://corp/bb/x"}), HasSubstr("does not know"));
  EXPECT_THAT(Who(*access, {}), HasSubstr("show a token, or a certificate with a name"));
  EXPECT_THAT(Who(*access, {"dns:node"}, "another"), HasSubstr("the token is not known"));
  EXPECT_EQ(access->Identify({}).status().code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(AccessTest, OnlyNodesAndTheOperatorActForATenantByName) {
  const auto access = Load();
  const Caller node = *access->Identify({{"dns:node"}, "", ""}), a = *access->Identify({{"dns:x.a.example"}, "", ""});
  EXPECT_EQ(*access->TenantFor(node, "a"), a.tenant);
  EXPECT_EQ(*access->TenantFor(node, ""), 0);
  EXPECT_EQ(*access->TenantFor(a, ""), a.tenant);
  EXPECT_EQ(*access->TenantFor(a, "a"), a.tenant);
  EXPECT_EQ(access->TenantFor(a, "b").status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(access->TenantFor(a, "nobody").status().message(), access->TenantFor(a, "b").status().message());
  EXPECT_THAT(std::string(access->TenantFor(node, "z").status().message()), HasSubstr("all nodes need the same"));
}

TEST_F(AccessTest, ARevokedTokenIsNotKnownAnyMore) {
  const auto access = Load();
  ASSERT_EQ(Who(*access, {}, "the token"), "token:ci a admin");
  Write(options_.token_file, Line("ci", "the next token"));
  ASSERT_TRUE(testing::WaitFor([&] { return Who(*access, {}, "the next token") == "token:ci a admin"; }));
  EXPECT_THAT(Who(*access, {}, "the token"), HasSubstr("the token is not known"));
  EXPECT_EQ(access->figures().reloads, 1u);
}

// Its identity still stands in the access file: once that held the new token file back, and the token stayed good.
TEST_F(AccessTest, ToTakeItsLineOutIsEnoughToRevokeAToken) {
  const auto access = Load();
  ASSERT_EQ(Who(*access, {}, "the token"), "token:ci a admin");
  EXPECT_EQ(access->figures().remark, "");
  Write(options_.token_file, "# nobody\n");
  ASSERT_TRUE(testing::WaitFor([&] { return Who(*access, {}, "the token") != "token:ci a admin"; }));
  EXPECT_THAT(Who(*access, {}, "the token"), HasSubstr("the token is not known"));
  EXPECT_TRUE(access->figures().last.ok());
  EXPECT_THAT(access->figures().remark, HasSubstr("nobody can be 'token:ci'"));
}

TEST_F(AccessTest, WrongFilesChangeNothingAndAreTold) {
  const auto access = Load();
  Write(options_.access_file, "{");
  ASSERT_TRUE(testing::WaitFor([&] { return !access->figures().last.ok(); }));
  EXPECT_THAT(std::string(access->figures().last.message()), HasSubstr(options_.access_file + "': it is no JSON"));
  EXPECT_EQ(Who(*access, {"dns:node"}), "dns:node  node");
  Write(options_.access_file, kAccess);
  ASSERT_TRUE(testing::WaitFor([&] { return access->figures().last.ok(); }));
  Write(options_.token_file, "");
  ASSERT_TRUE(testing::WaitFor([&] { return !access->figures().last.ok(); }));
  EXPECT_EQ(Who(*access, {}, "the token"), "token:ci a admin");
  EXPECT_EQ(access->figures().failed_reloads, 2u);
}

TEST_F(AccessTest, ATenantKeepsItsNumberAndIsFirstToGiveWayWhileItIsOut) {
  const auto access = Load();
  const auto number = [&](const std::string& name) {
    for (const TenantInfo& tenant : access->tenants()) {
      if (tenant.name == name) return static_cast<int>(tenant.id);
    }
    return -1;
  };
  const int a = number("a"), b = number("b");
  EXPECT_NE(a, b);
  EXPECT_EQ(access->MaxRequests(a), 5u);
  Write(options_.access_file, R"({"tenants": {"0": {}, "b": {"share": 7, "host_bytes": "1MiB"}}, "identities": [
      {"identity": "dns:node", "role": "node"}]})");
  ASSERT_TRUE(testing::WaitFor([&] { return number("a") == -1; }));
  EXPECT_EQ(number("b"), b);
  EXPECT_NE(number("0"), a);
  EXPECT_EQ(access->host_quotas()->share(a), 0u);
  EXPECT_EQ(access->host_quotas()->share(b), 7u);
  EXPECT_EQ(access->host_quotas()->max_bytes(b), 1u << 20);
  EXPECT_EQ(access->NameOf(a), "a") << "its blocks are still told apart";
  Write(options_.access_file, kAccess);
  ASSERT_TRUE(testing::WaitFor([&] { return number("a") == a; }));
  EXPECT_EQ(access->host_quotas()->share(a), 1u);
}

TEST_F(AccessTest, AFileThatIsWrongAtTheStartIsRefused) {
  Write(options_.token_file, Line("ci", "the token"), 0644);
  EXPECT_THAT(std::string(Access::Load(options_).status().message()), HasSubstr("is open to others (mode 0644)"));
  options_.access_file += ".none";
  EXPECT_THAT(std::string(Access::Load(options_).status().message()), HasSubstr("No such file or directory"));
}

TEST_F(AccessTest, MoreTenantsThanAreKeptApartAreRefused) {
  AccessConfig config;
  for (size_t i = 0; i < TenantQuotas::kMostTenants; ++i) config.tenants[absl::StrCat("t", i)] = {};
  EXPECT_THAT(std::string(Access::Of(config).status().message()), HasSubstr("it keeps 255 apart"));
}

}  // namespace
}  // namespace kvist
