// Goal: who may not enter is told so, with the cause; who may, enters, also after etcd forgot its tokens.
// Method: a real etcd with users and roles, and with certificates that openssl makes in the test's folder.
#include <filesystem>
#include <fstream>

#include "tests/services/cluster/membership_fixture.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using testing::In;
using testing::NodeOf;
using testing::WaitFor;

class EtcdAuthTest : public testing::EtcdTest {
 protected:
  void Do(const std::vector<std::string>& words) {
    const testing::Ended ended = Etcdctl(words);
    ASSERT_EQ(ended.exit, 0) << absl::StrJoin(words, " ") << ": " << ended.errors;
  }
  // Users root, node (of our prefix) and reader (of our prefix, to read).
  void EnableAuth() {
    Do({"user", "add", "root:secret"});
    Do({"user", "grant-role", "root", "root"});
    for (const auto& [user, kind] : {std::pair("node", "readwrite"), {"reader", "read"}}) {
      Do({"role", "add", user});
      Do({"role", "grant-permission", "--prefix=true", user, kind, "/kvist/kvist/"});
      Do({"user", "add", absl::StrCat(user, ":secret")});
      Do({"user", "grant-role", user, user});
    }
    Do({"auth", "enable"});
  }
  EtcdOptions As(const std::string& user, const std::string& password = "secret") const {
    EtcdOptions options = Options();
    options.user = user;
    options.password = password;
    return options;
  }
};

TEST_F(EtcdAuthTest, AUserOfOurPrefixIsEnoughAndOthersAreRefusedWithTheCause) {
  EnableAuth();
  const auto in = NewMember(As("node"));
  const absl::Status registered = in->Register(NodeOf("a", 1), In(20));
  EXPECT_TRUE(registered.ok()) << registered;
  EXPECT_TRUE(in->Update(NodeOf("a", 2), In(10)).ok());
  for (const auto& [options, cause] : {std::pair(As("node", "wrong"), "authentication failed"),
                                       {As("nobody"), "authentication failed"},
                                       {As("reader"), "permission denied"},
                                       {Options(), "user name is empty"}}) {
    const auto out = NewMember(options);
    const absl::Status refused = out->Register(NodeOf("b", 2), In(20));
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << cause << ": " << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(cause));
    EXPECT_THAT(out->health().problem, HasSubstr(cause));
  }
  EXPECT_TRUE(in->Leave(In(10)).ok());
}

TEST_F(EtcdAuthTest, WhoMayOnlyReadSeesTheOthers) {
  EnableAuth();
  const auto node = NewMember(As("node")), reader = NewMember(As("reader"));
  ASSERT_TRUE(node->Register(NodeOf("a", 1), In(20)).ok());
  EXPECT_TRUE(WaitFor([&] { return testing::Ids(*reader) == "a"; }));
  EXPECT_TRUE(reader->health().connected);
}

TEST_F(EtcdAuthTest, ATokenThatEtcdForgotIsAskedForAnew) {
  EnableAuth();
  const auto a = NewMember(As("node"));
  ASSERT_TRUE(a->Register(NodeOf("a", 1), In(20)).ok());
  etcd_.Kill();
  ASSERT_TRUE(WaitFor([&] { return !a->health().connected; }));
  etcd_.Restart();
  EXPECT_TRUE(WaitFor([&] { return a->health().registered && a->health().connected; })) << a->health().problem;
  EXPECT_TRUE(a->Update(NodeOf("a", 2), In(20)).ok()) << a->health().problem;
}

TEST_F(EtcdAuthTest, AuthenticationThatIsTurnedOnLaterFindsTheUserReady) {
  const auto a = NewMember(As("node"));
  ASSERT_TRUE(a->Register(NodeOf("a", 1), In(20)).ok());
  EnableAuth();
  EXPECT_TRUE(a->Update(NodeOf("a", 2), In(20)).ok()) << a->health().problem;
  EXPECT_TRUE(WaitFor([&] { return a->health().connected && a->health().registered; }));
}

// Certificates: an authority, one that it signed for the server and one for clients, and another authority.
class Certificates {
 public:
  Certificates() : folder_(::testing::TempDir() + "/tls") {
    std::filesystem::create_directories(folder_);
    Authority("ca");
    Authority("other");
    Signed("server", "serverAuth,clientAuth");
    Signed("client", "clientAuth");
  }
  std::string Path(const std::string& name) const { return absl::StrCat(folder_, "/", name); }

 private:
  void Openssl(std::vector<std::string> words) {
    words.insert(words.begin(), "/usr/bin/openssl");
    const testing::Ended made = testing::Run(words);
    EXPECT_EQ(made.exit, 0) << absl::StrJoin(words, " ") << made.errors;
  }
  void Authority(const std::string& name) {
    Openssl({"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=" + name, "-keyout", Path(name + ".key"), "-out", Path(name + ".pem")});
  }
  void Signed(const std::string& name, const std::string& usage) {
    std::ofstream(Path(name + ".ext")) << "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=" << usage;
    Openssl({"req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=" + name,
             "-keyout", Path(name + ".key"), "-out", Path(name + ".csr")});
    Openssl({"x509", "-req", "-days", "2", "-in", Path(name + ".csr"), "-CA", Path("ca.pem"), "-CAkey", Path("ca.key"),
             "-CAcreateserial", "-extfile", Path(name + ".ext"), "-out", Path(name + ".pem")});
  }

  const std::string folder_;
};

TEST(EtcdTls, ACertificateOfTheGivenAuthorityIsBelievedAndAnotherIsNot) {
  const Certificates files;
  testing::EtcdProcess etcd({"--cert-file=" + files.Path("server.pem"), "--key-file=" + files.Path("server.key")},
                            "https");
  EtcdOptions options;
  options.endpoints = {etcd.client_address().ToString()};
  options.ca_file = files.Path("ca.pem");
  const auto in = *NewEtcdMembership(options, RealRuntime());
  const absl::Status registered = in->Register(NodeOf("a", 1), In(20));
  EXPECT_TRUE(registered.ok()) << registered;
  options.ca_file = files.Path("other.pem");
  const auto out = *NewEtcdMembership(options, RealRuntime());
  const absl::Status refused = out->Register(NodeOf("b", 2), In(1));
  EXPECT_EQ(refused.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(options.endpoints[0]));
  options.ca_file = "";
  const auto plain = *NewEtcdMembership(options, RealRuntime());
  EXPECT_EQ(plain->Register(NodeOf("b", 2), In(1)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(plain->health().connected);
}

TEST(EtcdTls, AClientCertificateIsShownWhereEtcdAsksForOne) {
  const Certificates files;
  testing::EtcdProcess etcd({"--cert-file=" + files.Path("server.pem"), "--key-file=" + files.Path("server.key"),
                             "--client-cert-auth", "--trusted-ca-file=" + files.Path("ca.pem")},
                            "https");
  EtcdOptions options;
  options.endpoints = {etcd.client_address().ToString()};
  options.ca_file = files.Path("ca.pem");
  const auto out = *NewEtcdMembership(options, RealRuntime());
  EXPECT_EQ(out->Register(NodeOf("b", 2), In(1)).code(), absl::StatusCode::kDeadlineExceeded);
  options.cert_file = files.Path("client.pem");
  options.key_file = files.Path("client.key");
  const auto in = *NewEtcdMembership(options, RealRuntime());
  const absl::Status registered = in->Register(NodeOf("a", 1), In(20));
  EXPECT_TRUE(registered.ok()) << registered;
}

}  // namespace
}  // namespace kvist
