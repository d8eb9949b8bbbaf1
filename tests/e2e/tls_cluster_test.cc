// Goal: a cluster that speaks nothing but mutual TLS does all that one in plaintext does, for workers, for the command
// line and among its nodes; who lacks a certificate gets nothing; a change of certificates and of the authority itself
// fails no call. Method: real kvistd and kvist processes and a real etcd; workers through the C ABI; certificates made here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/worker/kvist.h"
#include "tests/e2e/cluster_fixture.h"
#include "tests/services/testing/certificates.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::kBlocks;
using testing::kTokensPerBlock;
using testing::TestCa;
using testing::WaitFor;

std::vector<std::string> Flags(const TlsOptions& tls) {
  return {"--tls-cert", tls.cert_file, "--tls-key", tls.key_file, "--tls-ca", tls.ca_file};
}

// A worker in C, of the fixture's prompt.
class Worker {
 public:
  Worker(const std::string& seeds, const TlsOptions& tls, uint32_t deadline_ms = 20'000) {
    kvist_namespace ns = {};
    ns.model = "m";
    ns.dtype = "bf16";
    ns.layers = 2;
    ns.heads = ns.tp_size = ns.pp_size = 1;
    ns.head_dim = 64;
    ns.tokens_per_block = kTokensPerBlock;
    kvist_options options = {};
    options.codec = "raw16";
    options.seeds = seeds.c_str();
    options.deadline_ms = deadline_ms;
    kvist_identity identity = {};
    identity.size_bytes = sizeof(identity);
    identity.cert_file = tls.cert_file.c_str();
    identity.key_file = tls.key_file.c_str();
    identity.ca_file = tls.ca_file.c_str();
    kvist_client_create_as(&ns, &options, &identity, &client_, &error_);
    for (int i = 0; i < kTokensPerBlock * kBlocks; ++i) tokens_.push_back(static_cast<uint32_t>(i * 7 % 1000));
  }
  ~Worker() { kvist_client_destroy(client_); }
  Worker(const Worker&) = delete;

  // True if every block came; else why() says what was wrong.
  bool Get() {
    if (client_ == nullptr) return false;
    kvist_get_result got = {};
    const kvist_code code =
        kvist_get(client_, tokens_.data(), tokens_.size(), 0, kBlocks, kv_.data(), tokens_.size(), &got, &error_);
    if (code == KVIST_OK && got.blocks < kBlocks)
      absl::SNPrintF(error_.message, KVIST_ERROR_BYTES, "%s", got.miss_reason);
    return code == KVIST_OK && got.blocks == kBlocks;
  }
  uint32_t Put() {
    kvist_put_result put = {};
    kvist_put(client_, tokens_.data(), tokens_.size(), kv_.data(), tokens_.size(), &put, &error_);
    return put.stored;
  }
  std::vector<uint16_t>& kv() { return kv_; }
  std::string why() const { return error_.message; }

 private:
  kvist_client* client_ = nullptr;
  kvist_error error_ = {};
  std::vector<uint32_t> tokens_;
  std::vector<uint16_t> kv_ = std::vector<uint16_t>(size_t{2} * 2 * 64 * kTokensPerBlock * kBlocks);
};

class TlsClusterTest : public testing::ClusterTest {
 protected:
  void SetUp() override {
    ClusterTest::SetUp();
    node_flags_ = Flags(WriteTls("node", ca_.Issue(), ca_.pem()));
    node_flags_.insert(node_flags_.end(), {"--tls-refresh", "50ms"});
    worker_ = WriteTls("worker", ca_.Issue({.names = "DNS:worker", .usage = "clientAuth"}), ca_.pem());
    kvist_flags_ = Flags(worker_);
    StartThree();
  }
  TlsOptions WriteTls(const std::string& name, const testing::Issued& issued, const std::string& ca) {
    return testing::WriteTls(Path(name), issued, ca);
  }
  std::string Seeds() {
    return absl::StrCat(Logged("n1", "address"), ",", Logged("n2", "address"), ",", Logged("n3", "address"));
  }
  int Blocks() {
    int blocks = 0;
    for (const json& node : json::parse(Kvist({"stats", "--json"}).output, nullptr, false)) {
      if (node.is_object()) blocks += node.value("blocks", 0);
    }
    return blocks;
  }

  const TestCa ca_;
  TlsOptions worker_;
};

TEST_F(TlsClusterTest, WhatTheCommandLinePutsEveryNodeFindsAndAWorkerInCReads) {
  EXPECT_EQ(OnPrompt({"match"})["miss_reason"], "never_stored");
  EXPECT_EQ(Put()["stored"], kBlocks);
  EXPECT_EQ(OnPrompt({"match"})["blocks"], kBlocks);
  for (const char* through : {"n1", "n2", "n3"}) EXPECT_EQ(Get(through)["blocks"], kBlocks);
  Worker worker(Seeds(), worker_);
  EXPECT_TRUE(worker.Get()) << worker.why();
  const std::string in = ReadBack("kv.bin");
  EXPECT_EQ(in, std::string(reinterpret_cast<const char*>(worker.kv().data()), in.size()));
}

TEST_F(TlsClusterTest, WhoShowsNoCertificateOfTheCaGetsNothingAndIsTold) {
  ASSERT_EQ(Put()["stored"], kBlocks);
  const TestCa other;
  const TlsOptions stranger = WriteTls("stranger", other.Issue(), ca_.pem());
  for (const std::vector<std::string>& flags : {std::vector<std::string>{}, Flags(stranger)}) {
    kvist_flags_ = flags;
    for (const std::vector<std::string>& act : {std::vector<std::string>{"stats"}, {"drain", "n2"}}) {
      std::vector<std::string> words = act;
      words.insert(words.end(), {"--deadline", "2s"});
      const testing::Ended ended = Kvist(words);
      EXPECT_EQ(ended.exit, 1);
      EXPECT_THAT(ended.errors, HasSubstr("TLS"));
    }
  }
  Worker worker(Seeds(), stranger, 2000);
  EXPECT_FALSE(worker.Get());
  EXPECT_THAT(worker.why(), HasSubstr("TLS"));
  kvist_flags_ = Flags(worker_);
  EXPECT_EQ(Serving(), 3);
}

TEST_F(TlsClusterTest, CallersThatAreRefusedLeaveFewLinesInTheLogAndEachIsJson) {
  const TestCa other;
  const TlsOptions stranger = WriteTls("stranger", other.Issue(), ca_.pem());
  const absl::Time start = absl::Now();
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(Worker(Logged("n1", "address"), stranger, 1500).Get());
  size_t refused = 0;
  std::istringstream lines(nodes_["n1"]->Errors());
  for (std::string line; std::getline(lines, line);) {
    const json entry = json::parse(line, nullptr, false);
    ASSERT_TRUE(entry.is_object()) << line;
    refused += entry["event"] == "grpc";
  }
  EXPECT_GT(refused, 0u);
  EXPECT_LE(static_cast<double>(refused),
            11 + absl::ToDoubleSeconds(absl::Now() - start));  // ten at once, one a second
}

TEST_F(TlsClusterTest, NodesCopyBlocksToEachOtherSoThatTheLossOfOneLosesNone) {
  ASSERT_EQ(OnPrompt({"put", "--kv", Path("kv.bin"), "--codec", "raw16", "--replicas", "2"})["stored"], kBlocks);
  ASSERT_TRUE(WaitFor([&] { return Blocks() == 2 * kBlocks; }, 60)) << Kvist({"stats"}).output;
  nodes_["n2"]->Signal(SIGKILL);
  EXPECT_EQ(Get("n1", 2)["blocks"], kBlocks);
}

TEST_F(TlsClusterTest, ADrainedNodeHandsOverLeavesAndEnds) {
  ASSERT_EQ(Put()["stored"], kBlocks);
  const testing::Ended drained = Kvist({"drain", "n2", "--json"});
  EXPECT_EQ(drained.exit, 0) << drained.errors;
  EXPECT_THAT(drained.output, HasSubstr("\"phase\":\"left\""));
  EXPECT_EQ(nodes_["n2"]->Wait(30), 0);
  EXPECT_EQ(Get()["blocks"], kBlocks);
}

// Workers that read without pause, half of them with connections of their own each time, until told to end.
class Load {
 public:
  Load(const std::string& seeds, const TlsOptions& tls) {
    for (const bool anew : {false, true}) {
      threads_.emplace_back([this, seeds, tls, anew] {
        auto worker = std::make_unique<Worker>(seeds, tls);
        while (!ending_) {
          if (anew) worker = std::make_unique<Worker>(seeds, tls);
          ++reads_;
          if (!worker->Get()) ADD_FAILURE() << "a read failed: " << worker->why();
        }
      });
    }
  }
  ~Load() {
    ending_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  bool GoesOn() {
    const int before = reads_;
    return WaitFor([&] { return reads_ > before + 20; }, 60);
  }

 private:
  std::atomic<bool> ending_ = false;
  std::atomic<int> reads_ = 0;
  std::vector<std::thread> threads_;
};

// Each step is seen by a worker who could not read before it: from all nodes, since every one owns some of the blocks.
TEST_F(TlsClusterTest, CertificatesAndTheAuthorityItselfRotatedUnderLoadFailNoCall) {
  ASSERT_EQ(Worker(Seeds(), worker_).Put(), kBlocks);
  const TestCa next;
  const std::string both = ca_.pem() + next.pem();
  Load load(Seeds(), WriteTls("loaded", ca_.Issue(), both));
  const auto seen_by = [&](const TlsOptions& tls) {
    return WaitFor([&] { return Worker(Seeds(), tls, 1000).Get(); }, 60);
  };
  ASSERT_TRUE(load.GoesOn());
  WriteTls("node", ca_.Issue(), both);
  EXPECT_TRUE(seen_by(WriteTls("newcomer", next.Issue(), ca_.pem()))) << "nodes do not trust the new authority";
  ASSERT_TRUE(load.GoesOn());
  WriteTls("node", next.Issue(), both);
  EXPECT_TRUE(seen_by(WriteTls("purist", next.Issue(), next.pem()))) << "nodes do not show the new certificate";
  ASSERT_TRUE(load.GoesOn());
  for (const char* id : {"n1", "n2", "n3"}) {
    const std::string metrics = testing::HttpGet(*ParseAddress(Logged(id, "http")), "/metrics");
    EXPECT_THAT(metrics, HasSubstr("\nkvist_tls_reload_failed 0\n")) << id;
  }
}

}  // namespace
}  // namespace kvist
