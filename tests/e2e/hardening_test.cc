// Goal: whoever means harm at a node's ports costs it a bounded amount of memory and descriptors, for a bounded time, and
// costs others nothing. Method: a real kvistd process, raw sockets that say nothing or a byte now and then, raw gRPC calls
// that are too large; meanwhile another client puts and gets. Memory and descriptors are what /proc says.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "kvist/v1/cache.pb.h"
#include "services/cluster/view.h"
#include "services/transport/part_stream.h"
#include "services/transport/tls.h"
#include "tests/e2e/process.h"
#include "tests/services/testing/certificates.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using testing::HttpGet;
using testing::In;
using testing::Process;
using testing::TestBlock;
using testing::TestKey;
using testing::WaitFor;

constexpr int kCrowd = 1000;
constexpr double kGone =
    60;  // seconds until the node has certainly closed who says nothing; 10 to 25 on a quiet machine

// A socket that connects and then does what a test says.
class Raw {
 public:
  explicit Raw(const Address& to) : descriptor_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(to.port);
    inet_pton(AF_INET, to.host.c_str(), &at.sin_addr);
    connected_ = connect(descriptor_, reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0;
    fcntl(descriptor_, F_SETFL, O_NONBLOCK);
  }
  ~Raw() { close(descriptor_); }
  Raw(const Raw&) = delete;
  bool connected() const { return connected_; }
  void Send(std::string_view bytes) {
    if (send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0 && errno != EAGAIN) ended_ = true;
  }
  // Reads what there is; true once the node has closed the connection.
  bool Ended() {
    char bytes[4096];
    ssize_t got = 0;
    while (!ended_ && (got = recv(descriptor_, bytes, sizeof(bytes), 0)) > 0) received_.append(bytes, got);
    ended_ |= got == 0 || (got < 0 && errno != EAGAIN);
    return ended_;
  }
  const std::string& received() const { return received_; }

 private:
  const int descriptor_;
  bool connected_ = false, ended_ = false;
  std::string received_;
};

using Crowd = std::vector<std::unique_ptr<Raw>>;

Crowd Connect(const Address& to, int count) {
  Crowd crowd;
  for (int i = 0; i < count; ++i) {
    crowd.push_back(std::make_unique<Raw>(to));
    EXPECT_TRUE(crowd.back()->connected()) << i;
  }
  return crowd;
}

bool AllEnded(const Crowd& crowd) {
  return std::all_of(crowd.begin(), crowd.end(), [](const auto& one) { return one->Ended(); });
}

class HardeningTest : public ::testing::Test {
 protected:
  void SetUp() override {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 8192);
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  // Before kvistd's own words come `before`.
  void Start(const std::vector<std::string>& flags = {}, std::vector<std::string> before = {}, bool tls = false) {
    std::vector<std::string> command = std::move(before);
    command.insert(command.end(), {testing::Runfile("services/node/kvistd"), "--listen", "127.0.0.1:0", "--capacity",
                                   "16MiB", "--http", "127.0.0.1:0"});
    command.insert(command.end(), flags.begin(), flags.end());
    std::shared_ptr<TlsIdentity> identity;
    if (tls) {
      const TlsOptions node = testing::WriteTls(::testing::TempDir() + "/node", ca_.Issue(), ca_.pem());
      command.insert(command.end(),
                     {"--tls-cert", node.cert_file, "--tls-key", node.key_file, "--tls-ca", node.ca_file});
      identity = *TlsIdentity::Load(testing::WriteTls(::testing::TempDir() + "/worker", ca_.Issue(), ca_.pem()));
    }
    node_ = std::make_unique<Process>(command);
    ASSERT_TRUE(WaitFor([&] { return Serves(); }, 30)) << node_->Errors();
    transport_ = NewGrpcTransport(identity);
    ExpectServes();
    ASSERT_TRUE(WaitFor([&] { return Counted("\nkvist_connections 0\n"); }));  // that client's has gone
    descriptors_ = Descriptors();
  }
  bool Serves() {
    std::istringstream lines(node_->Errors());
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
      if (!entry.is_object() || entry.value("event", "") != "serving") continue;
      data_ = *ParseAddress(entry.value("address", ""));
      http_ = *ParseAddress(entry.value("http", ""));
      return HttpGet(http_, "/readyz") == "ready\n";
    }
    return false;
  }
  // A client that comes anew puts a block and gets it back.
  void ExpectServes() {
    const std::unique_ptr<Channel> channel = transport_->Connect(data_.ToString());
    const Key key = TestKey(static_cast<uint8_t>(++puts_));
    const std::string block = TestBlock(key, 4, puts_);
    const absl::Status put = testing::PutBlock(channel.get(), key, block);
    ASSERT_TRUE(put.ok()) << put;
    const auto got = testing::GetBlocks(channel.get(), testing::GetRequestFor({key}));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->bytes[0], block);
  }
  size_t Descriptors() const {
    const std::filesystem::directory_iterator open(absl::StrCat("/proc/", node_->pid(), "/fd"));
    return std::distance(begin(open), end(open));
  }
  bool DescriptorsAreBack() {
    return WaitFor([&] { return Descriptors() <= descriptors_ + 4; }, kGone);
  }
  double ResidentMib() const {
    std::ifstream status(absl::StrCat("/proc/", node_->pid(), "/status"));
    for (std::string word; status >> word;) {
      double kib = 0;
      if (word == "VmRSS:" && status >> kib) return kib / 1024;
    }
    return 0;
  }
  bool Counted(const std::string& line) { return HttpGet(http_, "/metrics").find(line) != std::string::npos; }

  void ACrowdThatSaysNothing() {
    const double before = ResidentMib();
    Crowd crowd = Connect(data_, kCrowd);
    ASSERT_TRUE(WaitFor([&] { return Counted(absl::StrCat("\nkvist_connections ", kCrowd, "\n")); }, 30));
    ExpectServes();
    EXPECT_LT(ResidentMib() - before, 64);
    EXPECT_TRUE(WaitFor([&] { return AllEnded(crowd); }, kGone));
    EXPECT_TRUE(DescriptorsAreBack()) << Descriptors();
    ExpectServes();
    EXPECT_TRUE(Counted("\nkvist_refused_connections_total 0\n"));
  }

  testing::TestCa ca_;
  std::unique_ptr<Process> node_;
  Address data_, http_;
  std::unique_ptr<Transport> transport_;
  size_t descriptors_ = 0;
  int puts_ = 0;
};

TEST_F(HardeningTest, AThousandConnectionsThatSayNothingHoldNobodyUpAndAreClosed) {
  Start();
  ACrowdThatSaysNothing();
}

TEST_F(HardeningTest, OverTlsToo) {
  Start({}, {}, /*tls=*/true);
  ACrowdThatSaysNothing();
}

TEST_F(HardeningTest, ClosedByTheirClientsTheyAreForgottenAtOnce) {
  Start();
  Crowd crowd = Connect(data_, kCrowd);
  ASSERT_TRUE(WaitFor([&] { return Counted(absl::StrCat("\nkvist_connections ", kCrowd, "\n")); }, 30));
  crowd.clear();
  EXPECT_TRUE(DescriptorsAreBack()) << Descriptors();
  ExpectServes();
}

TEST_F(HardeningTest, BeyondTheMostConnectionsOneMoreIsClosedUntilOthersGo) {
  Start({"--max-connections", "64"});
  Crowd crowd = Connect(data_, 300);
  const auto ended = [&] {
    return std::count_if(crowd.begin(), crowd.end(), [](const auto& one) { return one->Ended(); });
  };
  EXPECT_TRUE(WaitFor([&] { return ended() >= 300 - 64; }, 30)) << ended();
  EXPECT_LE(Descriptors(), descriptors_ + 64);
  EXPECT_FALSE(Counted("\nkvist_refused_connections_total 0\n"));
  EXPECT_THAT(node_->Errors(), HasSubstr("--max-connections allows no more"));
  crowd.clear();
  EXPECT_TRUE(DescriptorsAreBack());
  ExpectServes();
}

// gRPC's own listener would be silent for good from the first connection on for which there is no descriptor.
TEST_F(HardeningTest, ALowLimitOfOpenFilesIsKeptToAndHarmsNobodyForLong) {
  Start({}, {"/usr/bin/prlimit", "--nofile=640:640"});
  EXPECT_THAT(node_->Errors(), HasSubstr("fewer connections than --max-connections"));
  Crowd crowd = Connect(data_, kCrowd);
  ASSERT_TRUE(WaitFor([&] { return !Counted("\nkvist_refused_connections_total 0\n"); }, 30));
  EXPECT_EQ(HttpGet(http_, "/readyz"), "ready\n");
  crowd.clear();
  EXPECT_TRUE(DescriptorsAreBack());
  ExpectServes();
}

TEST_F(HardeningTest, TooLowALimitOfOpenFilesIsRefusedAtTheStart) {
  const testing::Ended ended =
      testing::Run({"/usr/bin/prlimit", "--nofile=100:100", testing::Runfile("services/node/kvistd"), "--listen",
                    "127.0.0.1:0", "--capacity", "16MiB"});
  EXPECT_EQ(ended.exit, 1);
  EXPECT_THAT(ended.errors, HasSubstr("this process may open 100 files, and needs 576"));
}

TEST_F(HardeningTest, AThousandOnTheHttpPortHoldNoProbeUp) {
  Start();
  Crowd crowd = Connect(http_, kCrowd);
  EXPECT_EQ(HttpGet(http_, "/readyz"), "ready\n");
  EXPECT_THAT(HttpGet(http_, "/metrics"), HasSubstr("kvist_ready 1"));
  EXPECT_LE(Descriptors(), descriptors_ + 300);
  EXPECT_TRUE(WaitFor([&] { return AllEnded(crowd); }, kGone));
  EXPECT_TRUE(DescriptorsAreBack()) << Descriptors();
  ExpectServes();
}

// A byte now and then of a request whose end never comes. The crowd is larger than any pool of threads.
TEST_F(HardeningTest, RequestsThatComeByteByByteAreCutOff) {
  Start();
  Crowd slow = Connect(http_, 100);
  const std::string request = "GET /metrics HTTP/1.1\r\nX-Filler: " + std::string(8000, 'x');
  size_t sent = 0;
  EXPECT_TRUE(WaitFor(
      [&] {
        if (sent % 50 == 0) {
          EXPECT_EQ(HttpGet(http_, "/readyz"), "ready\n");
        }
        for (const auto& one : slow) one->Send(request.substr(sent, 1));
        ++sent;
        return AllEnded(slow);
      },
      kGone));
  EXPECT_LT(sent, request.size());
  for (const auto& one : slow) EXPECT_EQ(one->received(), "");
  EXPECT_TRUE(DescriptorsAreBack()) << Descriptors();
}

// Of the 24 bytes with which every HTTP/2 connection begins.
TEST_F(HardeningTest, PrefacesThatComeByteByByteAreCutOff) {
  Start();
  Crowd slow = Connect(data_, 100);
  const std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  size_t round = 0;
  EXPECT_TRUE(WaitFor(
      [&] {
        if (++round % 100 == 0) ExpectServes();
        const size_t byte = round / 100 - 1;
        if (round % 100 == 0 && byte < preface.size()) {
          for (const auto& one : slow) one->Send(preface.substr(byte, 1));
        }
        return AllEnded(slow);
      },
      kGone));
  EXPECT_TRUE(DescriptorsAreBack()) << Descriptors();
  ExpectServes();
}

class RawCallTest : public HardeningTest {
 protected:
  // One unary call or the first message of a stream, as bytes.
  grpc::Status Call(const std::string& method, const grpc::ByteBuffer& request, size_t metadata_bytes = 0) {
    grpc::GenericStub stub(grpc::CreateChannel(data_.ToString(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(In(20)));
    if (metadata_bytes > 0) context.AddMetadata("x-filler", std::string(metadata_bytes, 'x'));
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, this);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }
};

TEST_F(RawCallTest, WhatIsTooLargeIsRefusedAndTheNodeServesOn) {
  Start();
  v1::MatchRequest match;
  match.add_chains()->set_keys(std::string(8 << 20, 'k'));
  EXPECT_EQ(Call("/kvist.v1.Cache/Match", EncodeMessage(match)).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  match.mutable_chains(0)->set_keys(std::string(32 * 5000, 'k'));
  EXPECT_EQ(Call("/kvist.v1.Cache/Match", EncodeMessage(match)).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::GetRequest get;
  get.set_keys(std::string(32 * 5000, 'k'));
  EXPECT_EQ(Call("/kvist.v1.Cache/Get", EncodeMessage(get)).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::DescribeRequest describe;
  describe.set_namespace_digest(std::string(16, 'd'));
  describe.set_namespace_text("{\"model\": \"" + std::string(100'000, 'm') + "\"}");
  EXPECT_EQ(Call("/kvist.v1.Cache/Describe", EncodeMessage(describe)).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Call("/kvist.v1.Cache/ServerInfo", EncodeMessage(v1::ServerInfoRequest()), 64 << 10).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  const std::unique_ptr<Channel> channel = transport_->Connect(data_.ToString());
  const auto put = channel->Put(testing::ReserveFor(TestKey(200), uint64_t{1} << 40), In(10));
  EXPECT_EQ(put.status().code(), absl::StatusCode::kInvalidArgument) << put.status();
  ExpectServes();
}

TEST_F(HardeningTest, APutThatTricklesIsEnded) {
  Start({"--write-stall", "1s", "--min-write-rate", "1MiB"});
  const std::unique_ptr<Channel> channel = transport_->Connect(data_.ToString());
  auto put = channel->Put(testing::ReserveFor(TestKey(201), 4 << 20), In(60));
  ASSERT_TRUE(put.ok()) << put.status();
  const std::vector<uint8_t> few(100);
  absl::Status status;
  uint64_t sent = 0;
  EXPECT_TRUE(WaitFor(
      [&] {
        status = (*put)->Write(sent, few);
        sent += few.size();
        return !status.ok();
      },
      30));
  EXPECT_LT(sent, 4u << 20);
  EXPECT_NE(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_TRUE(WaitFor([&] { return Counted("kvist_ended_streams_total{cause=\"slow_writer\"} 1\n"); }));
  EXPECT_THAT(node_->Errors(), HasSubstr("less than 1048576 a second"));
  EXPECT_EQ(channel->ServerInfo(In(10))->store().reserved_bytes(), 0);
  ExpectServes();
}

}  // namespace
}  // namespace kvist
