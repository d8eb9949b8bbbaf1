// Goal: an etcd that answers wrongly, partly or never, and servers that are no etcd, make a sentence and nothing else:
// no crash, no wait without an end, no view.
// Method: strange servers in this process: a port where nobody listens, one that never answers, one that sends noise,
// gRPC without etcd's services, gRPC with noise for messages, and an etcd that lies in one place at a time.
#include <arpa/inet.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "etcd/rpc.grpc.pb.h"
#include "services/cluster/records.h"
#include "tests/services/cluster/membership_fixture.h"

namespace kvist {
namespace {

namespace pb = ::etcdserverpb;
using ::testing::HasSubstr;
using testing::In;
using testing::NodeOf;
using testing::WaitFor;

EtcdOptions OptionsFor(const std::string& endpoint) {
  EtcdOptions options;
  options.endpoints = {endpoint};
  options.lease = absl::Seconds(1);
  options.call_deadline = absl::Milliseconds(300);
  return options;
}

// Registration fails by its deadline with a sentence that names the endpoint; all ends promptly.
std::string SentenceAbout(const EtcdOptions& options, absl::StatusCode code = absl::StatusCode::kDeadlineExceeded) {
  const absl::Time begin = absl::Now();
  std::string sentence;
  {
    const auto member = *NewEtcdMembership(options, RealRuntime());
    const absl::Status late = member->Register(NodeOf("a", 1), In(1));
    EXPECT_EQ(late.code(), code) << late;
    EXPECT_EQ(member->view(), nullptr);
    EXPECT_FALSE(member->health().registered);
    EXPECT_NE(member->health().problem, "");
    sentence = std::string(late.message());
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
  return sentence;
}

TEST(EtcdFaults, NobodyListens) {
  const std::string endpoint = absl::StrCat("127.0.0.1:", testing::FreePort());
  EXPECT_THAT(SentenceAbout(OptionsFor(endpoint)), HasSubstr(endpoint + ": "));
  EXPECT_THAT(SentenceAbout(OptionsFor(endpoint)), HasSubstr("Connection refused"));
}

TEST(EtcdFaults, TheNameResolvesToNothing) {
  EXPECT_THAT(SentenceAbout(OptionsFor("no-such-host.invalid:2379")), HasSubstr("no-such-host.invalid:2379: "));
}

// Says nothing, or noise, to whoever connects.
class RawServer {
 public:
  explicit RawServer(bool noise) : noise_(noise), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~RawServer() {
    stop_ = true;
    thread_.join();
    for (const int connection : connections_) close(connection);
    close(listener_);
  }
  std::string endpoint() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  void Run() {
    std::mt19937_64 random(7);
    while (!stop_) {
      pollfd wait = {listener_, POLLIN, 0};
      if (poll(&wait, 1, 20) == 1) connections_.push_back(accept(listener_, nullptr, nullptr));
      for (const int connection : connections_) {
        const uint64_t bytes[4] = {random(), random(), random(), random()};
        if (noise_) (void)!send(connection, bytes, sizeof(bytes), MSG_NOSIGNAL);
      }
    }
  }

  const bool noise_;
  const int listener_;
  uint16_t port_ = 0;
  std::vector<int> connections_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

TEST(EtcdFaults, AServerThatNeverAnswers) {
  const RawServer server(/*noise=*/false);
  EXPECT_THAT(SentenceAbout(OptionsFor(server.endpoint())), HasSubstr(server.endpoint() + ": no answer within 300ms"));
}

TEST(EtcdFaults, AServerThatSendsNoise) {
  const RawServer server(/*noise=*/true);
  EXPECT_THAT(SentenceAbout(OptionsFor(server.endpoint())), HasSubstr(server.endpoint() + ": "));
}

class GrpcServer {
 public:
  explicit GrpcServer(const std::vector<grpc::Service*>& services, grpc::CallbackGenericService* generic = nullptr) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    for (grpc::Service* service : services) builder.RegisterService(service);
    if (generic != nullptr) builder.RegisterCallbackGenericService(generic);
    server_ = builder.BuildAndStart();
  }
  ~GrpcServer() { server_->Shutdown(std::chrono::system_clock::now()); }
  std::string endpoint() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// Answers every call with noise for a message, and ok.
class Noise final : public grpc::CallbackGenericService {
  class Call final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Call(std::string noise) {
      const grpc::Slice slice(noise);
      message_ = grpc::ByteBuffer(&slice, 1);
      StartWrite(&message_);
    }
    void OnWriteDone(bool) override { Finish(grpc::Status::OK); }
    void OnDone() override { delete this; }

   private:
    grpc::ByteBuffer message_;
  };
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    std::lock_guard lock(mutex_);
    std::string noise(random_() % 200, '\0');
    for (char& each : noise) each = static_cast<char>(random_());
    return new Call(noise);
  }
  std::mutex mutex_;
  std::mt19937_64 random_{11};
};

TEST(EtcdFaults, GrpcWithoutEtcdsServices) {
  pb::Auth::Service another;  // a server wants at least one
  GrpcServer server({&another});
  const std::string sentence = SentenceAbout(OptionsFor(server.endpoint()));
  EXPECT_THAT(sentence, HasSubstr("no etcd answers: " + server.endpoint() + ": UNIMPLEMENTED"));
}

TEST(EtcdFaults, GrpcWithNoiseForMessages) {
  Noise noise;
  GrpcServer server({}, &noise);
  EXPECT_THAT(SentenceAbout(OptionsFor(server.endpoint())), HasSubstr("etcd"));
}

// An etcd that knows one key and lies in one place.
enum class Lie { kNone, kNoRevision, kHugeAnswer, kNoLease, kLeaseError, kSilentWatch, kEndingWatch, kRefusedWatch };

class LyingEtcd final : public pb::KV::Service, public pb::Watch::Service, public pb::Lease::Service {
 public:
  explicit LyingEtcd(Lie lie) : lie_(lie) {}
  std::atomic<int> lists = 0;

 private:
  grpc::Status Range(grpc::ServerContext*, const pb::RangeRequest*, pb::RangeResponse* response) override {
    ++lists;
    response->mutable_header()->set_revision(lie_ == Lie::kNoRevision ? -3 : revision_.load());
    if (lie_ == Lie::kHugeAnswer) response->add_kvs()->set_value(std::string(20 << 20, 'x'));
    std::lock_guard lock(mutex_);
    if (!value_.empty()) Fill(response->add_kvs());
    return grpc::Status::OK;
  }
  grpc::Status Txn(grpc::ServerContext*, const pb::TxnRequest* request, pb::TxnResponse* response) override {
    std::lock_guard lock(mutex_);
    const pb::PutRequest& put = request->success(0).request_put();
    key_ = put.key();
    value_ = put.value();
    lease_ = put.lease();
    response->mutable_header()->set_revision(++revision_);
    response->set_succeeded(true);
    return grpc::Status::OK;
  }
  grpc::Status Watch(grpc::ServerContext* context,
                     grpc::ServerReaderWriter<pb::WatchResponse, pb::WatchRequest>* stream) override {
    pb::WatchRequest request;
    stream->Read(&request);
    pb::WatchResponse response;
    response.set_created(true);
    if (lie_ == Lie::kEndingWatch) return grpc::Status::OK;
    if (lie_ == Lie::kRefusedWatch) {
      response.set_canceled(true);
      response.set_cancel_reason("etcdserver: permission denied");
    }
    if (lie_ != Lie::kSilentWatch) stream->Write(response);
    if (lie_ == Lie::kNone) {
      while (stream->Read(&request)) {
        std::lock_guard lock(mutex_);
        pb::WatchResponse change;
        if (!value_.empty()) Fill(change.add_events()->mutable_kv());
        stream->Write(change);
      }
    }
    while (stream->Read(&request)) {
    }
    return grpc::Status::OK;
  }
  grpc::Status LeaseGrant(grpc::ServerContext*, const pb::LeaseGrantRequest*,
                          pb::LeaseGrantResponse* response) override {
    if (lie_ != Lie::kNoLease) response->set_id(5);
    if (lie_ == Lie::kLeaseError) response->set_error("out of leases");
    return grpc::Status::OK;
  }
  grpc::Status LeaseKeepAlive(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<pb::LeaseKeepAliveResponse, pb::LeaseKeepAliveRequest>* stream) override {
    pb::LeaseKeepAliveRequest request;
    pb::LeaseKeepAliveResponse response;
    response.set_ttl(10);
    while (stream->Read(&request)) stream->Write(response);
    return grpc::Status::OK;
  }
  void Fill(pb::KeyValue* kv) {
    kv->set_key(key_);
    kv->set_value(value_);
    kv->set_mod_revision(revision_);
    kv->set_lease(lease_);
  }

  const Lie lie_;
  std::mutex mutex_;
  std::string key_, value_;
  int64_t lease_ = 0;
  std::atomic<int64_t> revision_ = 1;
};

class EtcdLies : public ::testing::Test {
 protected:
  void Serve(Lie lie) {
    etcd_ = std::make_unique<LyingEtcd>(lie);
    server_ = std::make_unique<GrpcServer>(std::vector<grpc::Service*>{static_cast<pb::KV::Service*>(etcd_.get()),
                                                                       static_cast<pb::Watch::Service*>(etcd_.get()),
                                                                       static_cast<pb::Lease::Service*>(etcd_.get())});
  }
  EtcdOptions Options() const { return OptionsFor(server_->endpoint()); }

  std::unique_ptr<LyingEtcd> etcd_;
  std::unique_ptr<GrpcServer> server_;
};

TEST_F(EtcdLies, NoneAtAllIsGoodEnoughToRegister) {
  Serve(Lie::kNone);
  const auto member = *NewEtcdMembership(Options(), RealRuntime());
  const absl::Status registered = member->Register(NodeOf("a", 1), In(10));
  EXPECT_TRUE(registered.ok()) << registered;
}

TEST_F(EtcdLies, ARevisionThatIsNone) {
  Serve(Lie::kNoRevision);
  EXPECT_THAT(SentenceAbout(Options()), HasSubstr("etcd answered with revision -3"));
}

TEST_F(EtcdLies, AnAnswerWithoutEnd) {
  Serve(Lie::kHugeAnswer);
  EXPECT_THAT(SentenceAbout(Options()), HasSubstr(server_->endpoint() + ": "));
}

TEST_F(EtcdLies, ALeaseThatIsNone) {
  Serve(Lie::kNoLease);
  EXPECT_THAT(SentenceAbout(Options()), HasSubstr("etcd granted no lease"));
  Serve(Lie::kLeaseError);
  EXPECT_THAT(SentenceAbout(Options()), HasSubstr("out of leases"));
}

TEST_F(EtcdLies, AWatchThatSaysNothingIsReplacedByListing) {
  Serve(Lie::kSilentWatch);
  const auto member = *NewEtcdMembership(Options(), RealRuntime());
  const absl::Status registered = member->Register(NodeOf("a", 1), In(10));
  EXPECT_TRUE(registered.ok()) << registered << ": the next listing shows the record";
  EXPECT_TRUE(WaitFor(
      [&] { return member->health().problem.find("etcd's watch said nothing within 300ms") != std::string::npos; }));
  EXPECT_EQ(testing::Ids(*member), "a");
}

TEST_F(EtcdLies, AWatchThatEndsAtOnceIsNotAskedForWithoutPause) {
  Serve(Lie::kEndingWatch);
  const auto member = *NewEtcdMembership(Options(), RealRuntime());
  EXPECT_TRUE(member->Register(NodeOf("a", 1), In(10)).ok());
  const absl::Time begin = absl::Now();
  const int before = etcd_->lists;
  EXPECT_TRUE(WaitFor([&] { return etcd_->lists > before + 2; }));
  EXPECT_GT(absl::Now() - begin, absl::Milliseconds(300));
}

TEST_F(EtcdLies, AWatchThatIsRefusedIsToldAsSuch) {
  Serve(Lie::kRefusedWatch);
  const auto member = *NewEtcdMembership(Options(), RealRuntime());
  member->Register(NodeOf("a", 1), In(2)).IgnoreError();
  EXPECT_TRUE(WaitFor([&] {
    return member->health().problem.find("etcd refuses to be watched: etcdserver: permission denied") !=
           std::string::npos;
  }));
}

}  // namespace
}  // namespace kvist
