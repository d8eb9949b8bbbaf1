// Goal: who lacks a good certificate gets nothing and is told so in time; who has one notices no rotation; bad files are
// refused at start by name and change nothing later.
// Method: real nodes with mutual TLS on loopback, channels and workers against them, certificates made by this test.
#include "services/transport/tls.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvist/v1/cache.grpc.pb.h"
#include "services/transport/miss_reason.h"
#include "services/worker/client.h"
#include "tests/services/testing/certificates.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using testing::In;
using testing::Issued;
using testing::TestCa;
using testing::TestKey;

constexpr double kDeadline = 5;

TlsOptions Write(const std::string& name, const Issued& issued, const std::string& ca) {
  return testing::WriteTls(::testing::TempDir() + "/" + name, issued, ca);
}

std::shared_ptr<TlsIdentity> Load(const TlsOptions& options) {
  auto loaded = TlsIdentity::Load(options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.value_or(nullptr);
}

std::string WhyNot(const TlsOptions& options) { return std::string(TlsIdentity::Load(options).status().message()); }

// The figure of one line of /metrics; -1 if it is not there.
double Figure(const NodeServer& node, const std::string& series) {
  const std::string metrics = testing::HttpGet(node.http_address(), "/metrics");
  const size_t at = metrics.find("\n" + series + " ");
  return at == std::string::npos ? -1 : std::stod(metrics.substr(at + series.size() + 2));
}

class TlsTest : public ::testing::Test {
 protected:
  void StartNode(const testing::IssueOptions& issue = {}) {
    config_ = testing::TestConfig(8 << 20);
    config_.tls = Write("node", ca_.Issue(issue), ca_.pem());
    node_ = testing::StartNode(config_);
    address_ = node_->data_address().ToString();
  }
  std::unique_ptr<Channel> Connect(std::shared_ptr<TlsIdentity> tls) const {
    return NewGrpcTransport(std::move(tls))->Connect(address_);
  }
  std::unique_ptr<Channel> ConnectWith(const TlsOptions& options) const { return Connect(Load(options)); }

  // What a caller gets who must not get in: on a unary call and on both streams, each within its deadline.
  std::string Refused(Channel* channel) const {
    const absl::Time start = absl::Now();
    const absl::Status info = channel->ServerInfo(In(kDeadline)).status();
    const absl::Status put = testing::PutBlock(channel, TestKey(1), testing::TestBlock(TestKey(1), 1, 1));
    const absl::Status get = testing::GetBlocks(channel, testing::GetRequestFor({TestKey(1)}), In(kDeadline)).status();
    EXPECT_LT(absl::Now() - start, absl::Seconds(4 * kDeadline));
    for (const absl::Status& status : {info, put, get}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("TLS")) << status;
    }
    return std::string(info.message());
  }

  TestCa ca_;
  NodeConfig config_;
  std::unique_ptr<NodeServer> node_;
  std::string address_;
};

TEST_F(TlsTest, WithCertificatesOfOneCaBlocksGoInAndComeBack) {
  StartNode();
  const auto channel = ConnectWith(Write("worker", ca_.Issue({.names = "DNS:worker"}), ca_.pem()));
  const std::string block = testing::TestBlock(TestKey(1), 10, 1);
  ASSERT_TRUE(testing::PutBlock(channel.get(), TestKey(1), block).ok());
  const auto got = testing::GetBlocks(channel.get(), testing::GetRequestFor({TestKey(1)}));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->bytes[0], block);
}

TEST_F(TlsTest, NodesCopyBlocksToEachOtherWithTheirCertificates) {
  const std::string file = ::testing::TempDir() + "/two.json";
  std::ofstream(file) << R"({"view": 1, "nodes": [{"id": "n0", "address": "127.0.0.1:0", "capacity": "8MiB"},
                                                  {"id": "n1", "address": "127.0.0.1:0", "capacity": "8MiB"}]})";
  NodeConfig config = testing::TestConfig(8 << 20);
  config.cluster_file = file;
  config.tls = Write("node", ca_.Issue(), ca_.pem());
  std::vector<std::unique_ptr<NodeServer>> nodes;
  std::vector<std::unique_ptr<Channel>> channels;
  const auto transport = NewGrpcTransport(Load(Write("worker", ca_.Issue(), ca_.pem())));
  for (const char* id : {"n0", "n1"}) {
    config.id.value = id;
    nodes.push_back(testing::StartNode(config));
    channels.push_back(transport->Connect(nodes.back()->data_address().ToString()));
  }
  const std::string block = testing::TestBlock(TestKey(1), 10, 1);
  v1::PutReserve reserve = testing::ReserveFor(TestKey(1), block.size());
  reserve.set_replicas(2);
  auto put = channels[0]->Put(reserve, In(10));
  ASSERT_TRUE(put.ok()) << put.status();
  ASSERT_TRUE((*put)->Write(0, {reinterpret_cast<const uint8_t*>(block.data()), block.size()}).ok());
  ASSERT_TRUE((*put)->Commit(block.size()).ok());
  EXPECT_TRUE(testing::WaitFor(
      [&] {
        const auto info = channels[1]->ServerInfo(In(kDeadline));
        return info.ok() && info->store().blocks() == 1;
      },
      30));
}

TEST_F(TlsTest, AWorkerOfAnotherCaIsRefused) {
  StartNode();
  const TestCa other;
  Refused(ConnectWith(Write("other", other.Issue(), ca_.pem())).get());
}

TEST_F(TlsTest, ANodeOfAnotherCaIsRefusedByTheWorker) {
  StartNode();
  const TestCa other;
  const std::string why = Refused(ConnectWith(Write("other", ca_.Issue(), other.pem())).get());
  EXPECT_THAT(why, HasSubstr("certificate verify failed"));
}

TEST_F(TlsTest, ANodeWhoseCertificateNamesAnotherHostIsRefusedUnlessTheNameIsGiven) {
  StartNode({.names = "DNS:node.example"});
  TlsOptions worker = Write("worker", ca_.Issue(), ca_.pem());
  EXPECT_THAT(Refused(ConnectWith(worker).get()), HasSubstr("Hostname Verification Check failed"));
  worker.server_name = "node.example";
  const auto info = ConnectWith(worker)->ServerInfo(In(kDeadline));
  EXPECT_TRUE(info.ok()) << info.status();
}

TEST_F(TlsTest, PlaintextToATlsNodeIsRefused) {
  StartNode();
  EXPECT_THAT(Refused(Connect(nullptr).get()), HasSubstr("may want TLS"));
}

TEST(TlsHintTest, WhatANodeSaysAndAPortWhereNobodyListensAreNoMatterOfTls) {
  for (const char* words : {"the node is draining", "failed to connect to all addresses; Connection refused"}) {
    EXPECT_EQ(WithTlsHint(absl::UnavailableError(words), true), absl::UnavailableError(words));
  }
  EXPECT_EQ(WithTlsHint(absl::InternalError("Socket closed"), true), absl::InternalError("Socket closed"));
  EXPECT_THAT(std::string(WithTlsHint(absl::UnavailableError("Socket closed"), false).message()),
              HasSubstr("may want TLS"));
}

TEST_F(TlsTest, TlsToAPlaintextNodeIsRefused) {
  config_ = testing::TestConfig(8 << 20);
  node_ = testing::StartNode(config_);
  address_ = node_->data_address().ToString();
  Refused(ConnectWith(Write("worker", ca_.Issue(), ca_.pem())).get());
}

// A caller that our own transport would not let out: gRPC's credentials as they are, on a connection of its own. Says
// what certificate the node showed, if that is asked for.
absl::StatusCode CallWith(const std::string& address, const std::string& ca, const Issued& issued,
                          std::string* shown = nullptr) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel =
      grpc::CreateCustomChannel(address, grpc::SslCredentials({ca, issued.key, issued.cert}), arguments);
  const auto stub = v1::Cache::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(In(kDeadline)));
  v1::ServerInfoResponse response;
  const grpc::Status status = stub->ServerInfo(&context, {}, &response);
  if (shown != nullptr && status.ok()) {
    const auto found = context.auth_context()->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
    if (!found.empty()) *shown = std::string(found[0].data(), found[0].size());
  }
  return static_cast<absl::StatusCode>(status.error_code());
}

std::string ShownBy(const std::string& address, const std::string& ca, const Issued& issued) {
  std::string shown;
  CallWith(address, ca, issued, &shown);
  return shown;
}

TEST_F(TlsTest, ACallerWithNoCertificateOrAnExpiredOneIsRefused) {
  StartNode();
  EXPECT_EQ(CallWith(address_, ca_.pem(), ca_.Issue()), absl::StatusCode::kOk);
  EXPECT_EQ(CallWith(address_, ca_.pem(), {}), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CallWith(address_, ca_.pem(), ca_.Issue({.ends = -absl::Hours(1)})), absl::StatusCode::kUnavailable);
}

TEST_F(TlsTest, AWorkerWithAWrongCertificateCountsMisses) {
  StartNode();
  const TestCa other;
  const auto transport = NewGrpcTransport(Load(Write("other", other.Issue(), ca_.pem())));
  ClientOptions options;
  options.ns.model = "test";
  options.ns.layers = options.ns.heads = 1;
  options.ns.head_dim = 64;
  options.view.number.value = 1;
  options.view.nodes.push_back(Node{NodeId{"test"}, node_->data_address(), 1, 8 << 20});
  options.transport = transport.get();
  options.deadline = absl::Seconds(2);
  const auto client = Client::Create(options);
  ASSERT_TRUE(client.ok()) << client.status();
  const std::vector<uint32_t> tokens(options.ns.tokens_per_block, 1);
  const absl::Time start = absl::Now();
  const auto match = (*client)->Match((*client)->Keys(tokens));
  ASSERT_TRUE(match.ok()) << match.status();
  EXPECT_EQ(match->blocks(), 0u);
  EXPECT_EQ(MissReasonName(match->miss()), "owner_down");
  EXPECT_THAT(match->why(), HasSubstr("over TLS"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  EXPECT_EQ((*client)->counters().misses[match->miss()], 1u);
}

// Takes connections, ends each at once, and counts them.
class Refuser {
 public:
  Refuser() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(any);
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&any), size), 0);
    EXPECT_EQ(listen(socket_, 16), 0);
    EXPECT_EQ(getsockname(socket_, reinterpret_cast<sockaddr*>(&any), &size), 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(any.sin_port));
    thread_ = std::thread([this] {
      for (int taken; (taken = accept(socket_, nullptr, nullptr)) >= 0; ++refused_) close(taken);
    });
  }
  ~Refuser() {
    shutdown(socket_, SHUT_RDWR);
    thread_.join();
    close(socket_);
  }
  const std::string& address() const { return address_; }
  int refused() const { return refused_; }

 private:
  const int socket_;
  std::string address_;
  std::atomic<int> refused_ = 0;
  std::thread thread_;
};

// gRPC pauses before it connects again, longer each time, and what it keeps for that looks at the identity's files after
// the channel is gone. It once found them empty, and ended the process.
TEST_F(TlsTest, AWorkerThatGivesUpInThePauseBeforeAnAttemptEndsNoProcess) {
  StartNode();
  const Refuser refuser;
  {
    const auto channel = NewGrpcTransport(Load(Write("gone", ca_.Issue(), ca_.pem())))->Connect(refuser.address());
    EXPECT_TRUE(testing::WaitFor(
        [&] {
          EXPECT_FALSE(channel->ServerInfo(In(kDeadline)).ok());
          return refuser.refused() >= 7;  // the pause is longer than a second now
        },
        30));
  }
  // gRPC looks at files once a second. Between two certificates that the node shows is one such look of everybody.
  for (int look = 0; look < 2; ++look) {
    const Issued next = ca_.Issue();
    Write("node", next, ca_.pem());
    EXPECT_TRUE(testing::WaitFor([&] { return ShownBy(address_, ca_.pem(), next) == next.cert; }, 30));
  }
}

// Calls without pause, half of them on new connections, until it is told to end.
class Callers {
 public:
  Callers(const std::string& address, const std::shared_ptr<TlsIdentity>& tls) {
    for (int i = 0; i < 4; ++i) {
      threads_.emplace_back([this, address, tls, i] {
        const auto transport = NewGrpcTransport(tls);
        auto channel = transport->Connect(address);
        while (!ending_) {
          if (i % 2 == 0) channel = transport->Connect(address);
          const absl::Status status = channel->ServerInfo(In(20)).status();
          ++calls_;
          if (status.ok()) continue;
          ++failed_;
          ADD_FAILURE() << status;
        }
      });
    }
  }
  void End() {
    ending_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  int calls() const { return calls_; }
  int failed() const { return failed_; }

 private:
  std::atomic<bool> ending_ = false;
  std::atomic<int> calls_ = 0, failed_ = 0;
  std::vector<std::thread> threads_;
};

TEST_F(TlsTest, CertificatesRotatedUnderLoadOnBothSidesFailNoCall) {
  StartNode();
  const auto tls = Load(Write("worker", ca_.Issue(), ca_.pem()));
  Callers load(address_, tls);
  for (uint64_t round = 1; round <= 3; ++round) {
    const testing::IssueOptions longer = {.ends = absl::Hours(static_cast<double>(1 + round))};
    const Issued node = ca_.Issue(longer), worker = ca_.Issue(longer);
    Write("node", node, ca_.pem());
    Write("worker", worker, ca_.pem());
    const double expiry = absl::ToUnixSeconds(absl::Now() + longer.ends);
    EXPECT_TRUE(testing::WaitFor([&] {
      return tls->figures().expiry > absl::Now() + longer.ends - absl::Minutes(5) &&
             Figure(*node_, "kvist_tls_certificate_expiry_seconds") > expiry - 300 && tls->figures().last.ok();
    }));
    EXPECT_TRUE(testing::WaitFor([&] { return ShownBy(address_, ca_.pem(), worker) == node.cert; }, 30));
    const int before = load.calls();
    EXPECT_TRUE(testing::WaitFor([&] { return load.calls() > before + 100; }, 30));
  }
  load.End();
  EXPECT_EQ(load.failed(), 0) << "of " << load.calls();
  EXPECT_EQ(Figure(*node_, "kvist_tls_reload_failed"), 0);
}

TEST_F(TlsTest, NewConnectionsUseTheCaThatWasRotatedIn) {
  StartNode();
  const TestCa next;
  const Issued worker = next.Issue();
  EXPECT_EQ(CallWith(address_, ca_.pem(), worker), absl::StatusCode::kUnavailable);
  Write("node", ca_.Issue(), ca_.pem() + next.pem());
  EXPECT_TRUE(testing::WaitFor([&] { return CallWith(address_, ca_.pem(), worker) == absl::StatusCode::kOk; }, 30));
}

TEST_F(TlsTest, ABadFileRotatedInChangesNothingAndIsToldUntilItIsMended) {
  StartNode();
  const auto tls = Load(Write("worker", ca_.Issue(), ca_.pem()));
  const double expiry = Figure(*node_, "kvist_tls_certificate_expiry_seconds");
  const Issued next = ca_.Issue({.ends = absl::Hours(9)});
  testing::ReplaceFile(config_.tls.key_file, next.key);
  EXPECT_TRUE(testing::WaitFor([&] { return Figure(*node_, "kvist_tls_reload_failed") == 1; }));
  EXPECT_THAT(testing::HttpGet(node_->http_address(), "/readyz"), HasSubstr("does not belong to the certificate"));
  EXPECT_EQ(Figure(*node_, "kvist_tls_certificate_expiry_seconds"), expiry);
  EXPECT_EQ(Figure(*node_, "kvist_tls_reloads_total{result=\"failed\"}"), 1);
  const auto still = Connect(tls)->ServerInfo(In(kDeadline));
  EXPECT_TRUE(still.ok()) << still.status();
  testing::ReplaceFile(config_.tls.cert_file, next.cert);
  EXPECT_TRUE(testing::WaitFor([&] { return Figure(*node_, "kvist_tls_reload_failed") == 0; }));
  EXPECT_GT(Figure(*node_, "kvist_tls_certificate_expiry_seconds"), expiry);
  EXPECT_EQ(testing::HttpGet(node_->http_address(), "/readyz"), "ready\n");
}

class TlsFilesTest : public ::testing::Test {
 protected:
  TestCa ca_;
  TlsOptions good_ = Write("files", ca_.Issue(), ca_.pem());
};

TEST_F(TlsFilesTest, AFileThatCannotBeReadIsNamed) {
  for (std::string TlsOptions::*file : {&TlsOptions::cert_file, &TlsOptions::key_file, &TlsOptions::ca_file}) {
    TlsOptions options = good_;
    options.*file = "/no/such/file.pem";
    EXPECT_THAT(WhyNot(options), HasSubstr("'/no/such/file.pem' cannot be read (No such file or directory)"));
    testing::ReplaceFile(good_.*file + ".noise", "noise");
    options.*file = good_.*file + ".noise";
    EXPECT_THAT(WhyNot(options), HasSubstr(options.*file + "' holds no "));
  }
}

TEST_F(TlsFilesTest, AKeyOfAnotherCertificateIsNamed) {
  testing::ReplaceFile(good_.key_file, ca_.Issue().key);
  EXPECT_THAT(WhyNot(good_), HasSubstr(good_.key_file + "' does not belong to the certificate in '" + good_.cert_file));
}

TEST_F(TlsFilesTest, AKeyThatOthersCanReadIsRefused) {
  ASSERT_EQ(chmod(good_.key_file.c_str(), 0644), 0);
  EXPECT_THAT(WhyNot(good_), HasSubstr(good_.key_file + "' is open to others (mode 0644)"));
}

TEST_F(TlsFilesTest, ACertificateThatHasExpiredOrHasNotBegunOrIsForServersOnlyIsRefused) {
  TlsOptions options = Write("expired", ca_.Issue({.ends = -absl::Hours(1)}), ca_.pem());
  EXPECT_THAT(WhyNot(options), HasSubstr(options.cert_file + "' expired at "));
  options = Write("early", ca_.Issue({.begins = absl::Hours(1), .ends = absl::Hours(2)}), ca_.pem());
  EXPECT_THAT(WhyNot(options), HasSubstr(options.cert_file + "' is valid only from "));
  options = Write("server", ca_.Issue({.usage = "serverAuth"}), ca_.pem());
  EXPECT_THAT(WhyNot(options), HasSubstr(options.cert_file + "' may not be used by a client"));
}

TEST_F(TlsFilesTest, ANodeWithBadFilesDoesNotStartAndSaysWhy) {
  NodeConfig config = testing::TestConfig(1 << 20);
  config.tls = Write("expired", ca_.Issue({.ends = -absl::Hours(1)}), ca_.pem());
  const auto node = NodeServer::Start(config);
  ASSERT_FALSE(node.ok());
  EXPECT_THAT(std::string(node.status().message()), HasSubstr("expired at "));
}

}  // namespace
}  // namespace kvist
