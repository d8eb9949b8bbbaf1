// Goal: whoever follows a trace finds in a node's log what the node did for it. Method: a real kvistd that logs every call
// (--slow-call 0s), the real worker client, the real command line and raw calls; the log is read back.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "kernels/codec.h"
#include "kvist/v1/cache.pb.h"
#include "services/cluster/static_file.h"
#include "services/runtime/trace.h"
#include "services/transport/part_stream.h"
#include "services/worker/client.h"
#include "tests/e2e/process.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using nlohmann::json;
using testing::In;
using testing::WaitFor;

const Trace kOne{"4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", true};
const Trace kTwo{"0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", false};

class TraceTest : public ::testing::Test {
 protected:
  void Start(const std::vector<std::string>& flags = {"--slow-call", "0s"}) {
    file_ = ::testing::TempDir() + ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".json";
    std::filesystem::remove_all(file_ + ".d");
    std::ofstream(file_) << R"({"view": 3, "nodes": [{"id": "a", "address": "127.0.0.1:0", "capacity": "16MiB"}]})";
    std::vector<std::string> command = {testing::Runfile("services/node/kvistd"), "--cluster", file_, "--node", "a"};
    command.insert(command.end(), flags.begin(), flags.end());
    node_ = std::make_unique<testing::Process>(command);
    const absl::StatusOr<View> view = LoadView(file_, In(20), RealRuntime()->clock());
    ASSERT_TRUE(view.ok()) << view.status() << node_->Errors();
    view_ = *view;
  }
  std::unique_ptr<Client> NewClient() {
    ClientOptions options;
    options.ns.model = "m";
    options.ns.layers = 2;
    options.ns.heads = 1;
    options.ns.head_dim = 64;
    options.ns.tokens_per_block = 16;
    options.view = view_;
    options.transport = transport_.get();
    options.codec = Codec::kRaw16;
    options.deadline = absl::Seconds(20);
    return *Client::Create(std::move(options));
  }
  // The methods that the log names with this trace ("" = without any).
  std::multiset<std::string> Logged(const Trace& trace) {
    std::multiset<std::string> methods;
    std::istringstream lines(node_->Errors());
    for (std::string line; std::getline(lines, line);) {
      const json entry = json::parse(line, nullptr, false);
      if (!entry.is_object() || !entry.contains("method")) continue;
      if (entry.value("trace_id", "") == trace.trace_id && entry.value("span_id", "") == trace.span_id) {
        methods.insert(entry.value("method", ""));
      }
    }
    return methods;
  }
  bool IsLogged(const Trace& trace, const std::string& method) { return Logged(trace).contains(method); }

  grpc::Status RawServerInfo(const std::vector<std::string>& traceparents) {
    grpc::GenericStub stub(grpc::CreateChannel(view_.nodes[0].address.ToString(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(In(20)));
    for (const std::string& one : traceparents) context.AddMetadata("traceparent", one);
    grpc::CompletionQueue queue;
    const auto call =
        stub.PrepareUnaryCall(&context, "/kvist.v1.Cache/ServerInfo", EncodeMessage(v1::ServerInfoRequest()), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, this);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }

  std::string file_;
  View view_;
  std::unique_ptr<testing::Process> node_;
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
};

TEST_F(TraceTest, WhatAWorkerAsksForIsLoggedWithTheTraceOfItsCaller) {
  Start();
  const std::unique_ptr<Client> client = NewClient();
  const std::vector<Key> chain = client->Keys(std::vector<uint32_t>(32, 7));
  const BlockShape shape = client->ns().Shape();
  std::vector<uint16_t> values(shape.Elements() * chain.size(), 0x3f80);
  {
    const TraceScope scope(kOne);
    const auto put = client->Put(chain, ContiguousPages<const uint16_t>(values.data(), shape, 32));
    ASSERT_TRUE(put.ok()) << put.status();
    EXPECT_EQ(put->stored, chain.size());
  }
  {
    const TraceScope scope(kTwo);
    ASSERT_EQ(client->Match(chain)->blocks(), chain.size());
    const auto got = client->Get(chain, {0, chain.size()}, ContiguousPages<uint16_t>(values.data(), shape, 32));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->blocks, chain.size());
  }
  EXPECT_TRUE(WaitFor([&] { return IsLogged(kOne, "put"); })) << node_->Errors();
  EXPECT_TRUE(WaitFor([&] { return IsLogged(kTwo, "match") && IsLogged(kTwo, "get"); })) << node_->Errors();
  EXPECT_FALSE(IsLogged(kTwo, "put"));
  EXPECT_FALSE(IsLogged(kOne, "get"));
}

TEST_F(TraceTest, ACallThatFailsIsLoggedWithItsTraceAndAMissIsNot) {
  Start({});
  const std::unique_ptr<Channel> channel = transport_->Connect(view_.nodes[0].address.ToString());
  {
    const TraceScope scope(kOne);
    EXPECT_TRUE(testing::GetBlocks(channel.get(), testing::GetRequestFor({testing::TestKey(9)})).ok());  // a miss
  }
  const TraceScope scope(kTwo);
  v1::GetRequest wrong;
  wrong.set_keys("no key");
  EXPECT_EQ(testing::GetBlocks(channel.get(), wrong).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(WaitFor([&] { return IsLogged(kTwo, "get"); })) << node_->Errors();
  EXPECT_THAT(node_->Errors(), ::testing::HasSubstr("\"event\":\"a call failed\""));
  EXPECT_THAT(Logged(kOne), ::testing::IsEmpty());
}

TEST_F(TraceTest, AStreamThatTheNodeEndsIsLoggedWithItsTrace) {
  Start({"--write-stall", "500ms"});
  const std::unique_ptr<Channel> channel = transport_->Connect(view_.nodes[0].address.ToString());
  const TraceScope scope(kOne);
  const auto put = channel->Put(testing::ReserveFor(testing::TestKey(1), 1 << 20), In(60));
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(WaitFor([&] { return IsLogged(kOne, "put"); })) << node_->Errors();  // while the writer says nothing
  EXPECT_THAT(node_->Errors(), ::testing::HasSubstr("the writer sent nothing for 500ms"));
}

TEST_F(TraceTest, TheCommandLineTakesItsTraceFromTheEnvironment) {
  Start();
  const testing::Ended ended = testing::Run({"/usr/bin/env", "TRACEPARENT=" + kTwo.ToTraceparent(),
                                             testing::Runfile("services/ctl/kvist"), "stats", "--cluster", file_});
  EXPECT_EQ(ended.exit, 0) << ended.errors;
  EXPECT_TRUE(WaitFor([&] { return IsLogged(kTwo, "server_info"); })) << node_->Errors();
}

TEST_F(TraceTest, WhatIsNoTraceparentIsIgnoredAndTheCallAnswered) {
  Start();
  EXPECT_TRUE(RawServerInfo({kOne.ToTraceparent()}).ok());
  EXPECT_TRUE(WaitFor([&] { return IsLogged(kOne, "server_info"); })) << node_->Errors();
  EXPECT_TRUE(RawServerInfo({"00-garbage"}).ok());
  EXPECT_TRUE(RawServerInfo({kTwo.ToTraceparent(), kOne.ToTraceparent()}).ok());  // two are none
  EXPECT_TRUE(RawServerInfo({}).ok());
  EXPECT_TRUE(WaitFor([&] { return Logged(Trace()).count("server_info") == 3; })) << node_->Errors();
  EXPECT_EQ(Logged(kOne).count("server_info"), 1u);
  EXPECT_THAT(Logged(kTwo), ::testing::IsEmpty());
}

}  // namespace
}  // namespace kvist
