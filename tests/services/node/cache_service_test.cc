// Goal: a node keeps what cache.proto promises, and answers every wrong request with a sentence and no loss.
// Method: a real node on loopback, spoken to through the gRPC transport; after each fault the node must still work, and
// what it reserved or pinned must be free again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>

#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using testing::GetBlocks;
using testing::GetRequestFor;
using ::testing::HasSubstr;
using testing::In;
using testing::kTestNamespace;
using testing::PutBlock;
using testing::ReserveFor;
using testing::TestBlock;
using testing::TestKey;

constexpr uint64_t kCapacity = 8 << 20;

absl::Span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

class CacheServiceTest : public ::testing::Test {
 protected:
  v1::StoreState Store() {
    const auto info = channel_->ServerInfo(In(10));
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->store() : v1::StoreState();
  }
  bool NothingHeld() {
    return testing::WaitFor([this] {
      const v1::StoreState store = Store();
      return store.reserved_bytes() == 0 && store.pinned_bytes() == 0;
    });
  }
  v1::MatchResponse Match(const std::vector<Key>& keys, uint32_t lease_ms) {
    v1::MatchRequest request;
    request.add_chains()->set_keys(GetRequestFor(keys).keys());
    request.set_lease_ms(lease_ms);
    request.set_explain(true);
    const auto response = channel_->Match(request, In(10));
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *response : v1::MatchResponse();
  }
  absl::Status PutRaw(const v1::PutReserve& reserve, const std::string& bytes) {
    auto stream = channel_->Put(reserve, In(10));
    if (!stream.ok()) return stream.status();
    if (absl::Status status = (*stream)->Write(0, AsBytes(bytes)); !status.ok()) return status;
    return (*stream)->Commit(bytes.size()).status();
  }

  std::unique_ptr<NodeServer> node_ = testing::StartNode(kCapacity);
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::unique_ptr<Channel> channel_ = transport_->Connect(node_->data_address().ToString());
};

TEST_F(CacheServiceTest, ABlockComesBackByteForByteInPartsOfAtMostOneMebibyte) {
  const std::string block = TestBlock(TestKey(1), 600, 1);  // 2.4 MB
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), block).ok());
  const auto fetched = GetBlocks(channel_.get(), GetRequestFor({TestKey(1), TestKey(2)}));
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  ASSERT_EQ(fetched->headers.size(), 2);
  EXPECT_EQ(fetched->headers[0].miss(), v1::MISS_REASON_UNSPECIFIED);
  EXPECT_EQ(fetched->bytes[0], block);
  EXPECT_EQ(fetched->headers[1].miss(), v1::MISS_REASON_NEVER_STORED);
  EXPECT_TRUE(NothingHeld());
}

TEST_F(CacheServiceTest, ALayerRangeBringsOnlyItsBytes) {
  const std::string block = TestBlock(TestKey(1), 10, 1);
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), block).ok());
  v1::GetRequest request = GetRequestFor({TestKey(1)});
  request.set_first_layer(2);
  request.set_last_layer(3);
  const auto fetched = GetBlocks(channel_.get(), request);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->headers[0].block_bytes(), block.size());
  EXPECT_LT(fetched->headers[0].sent_bytes(), block.size() / 4);
  const auto view = BlockView::Parse(AsBytes(fetched->bytes[0]));
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_TRUE(view->Verify(2, 3, 0).ok());
  EXPECT_FALSE(view->Verify(3, 4, 0).ok());
}

TEST_F(CacheServiceTest, AHigherPrecisionThanStoredIsAMissAndALayerOutOfRangeAFault) {
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), TestBlock(TestKey(1), 3, 1)).ok());
  v1::GetRequest request = GetRequestFor({TestKey(1)});
  request.set_first_layer(2);
  request.set_last_layer(9);
  const auto fetched = GetBlocks(channel_.get(), request);
  EXPECT_EQ(fetched.status().code(), absl::StatusCode::kInvalidArgument) << fetched.status();
  EXPECT_TRUE(NothingHeld());
}

TEST_F(CacheServiceTest, AnExistingBlockEndsThePutBeforeDataMoves) {
  const std::string block = TestBlock(TestKey(1), 2, 1);
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), block).ok());
  const auto again = channel_->Put(ReserveFor(TestKey(1), block.size()), In(10));
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CacheServiceTest, ABlockBeingWrittenIsAMissAndASecondWriterIsTurnedAway) {
  const auto writer = channel_->Put(ReserveFor(TestKey(1), 1000), In(10));
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ(Match({TestKey(1)}, 0).chains(0).first_miss(), v1::MISS_REASON_BEING_WRITTEN);
  EXPECT_EQ(channel_->Put(ReserveFor(TestKey(1), 1000), In(10)).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CacheServiceTest, AWriterThatDiesInTheMiddleGivesItsSpaceBack) {
  {
    auto writer = channel_->Put(ReserveFor(TestKey(1), 4 << 20), In(10));
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Write(0, AsBytes(std::string(1 << 20, 'x'))).ok());
    EXPECT_GT(Store().reserved_bytes(), 0);
  }
  EXPECT_TRUE(NothingHeld());
  EXPECT_EQ(Match({TestKey(1)}, 0).chains(0).hits(), 0);
  EXPECT_TRUE(PutBlock(channel_.get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
}

class GoneSink : public GetSink {
 public:
  absl::Status OnHeader(const v1::GetHeader&) override { return absl::OkStatus(); }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t, uint64_t, size_t) override {
    return absl::CancelledError("I am gone");
  }
};

TEST_F(CacheServiceTest, AReaderThatDiesInTheMiddleDropsItsPin) {
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), TestBlock(TestKey(1), 1000, 1)).ok());
  GoneSink sink;
  const absl::Time start = absl::Now();
  const auto trailer = channel_->Get(GetRequestFor({TestKey(1), TestKey(1), TestKey(1)}), In(60), &sink);
  EXPECT_EQ(Message(trailer.status()), "I am gone");
  EXPECT_TRUE(NothingHeld());
  EXPECT_LT(absl::Now() - start, absl::Seconds(9));  // by the cancellation, not by the deadline
}

TEST_F(CacheServiceTest, LeasesPinUntilReleaseOrDeadline) {
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
  const v1::MatchResponse matched = Match({TestKey(1), TestKey(2)}, 20'000);
  ASSERT_EQ(matched.chains(0).hits(), 1);
  EXPECT_EQ(matched.chains(0).first_miss(), v1::MISS_REASON_NEVER_STORED);
  EXPECT_EQ(Store().leases(), 1);
  EXPECT_GT(Store().pinned_bytes(), 0);
  v1::ReleaseRequest release;
  release.add_leases(matched.chains(0).lease());
  EXPECT_TRUE(channel_->Release(release, In(10)).ok());
  EXPECT_EQ(Store().leases(), 0);
  Match({TestKey(1)}, 50);
  EXPECT_TRUE(NothingHeld());  // by the deadline, with no call about leases
}

TEST_F(CacheServiceTest, EraseSaysWhichBlocksThereWere) {
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
  v1::EraseRequest request;
  request.set_keys(GetRequestFor({TestKey(1), TestKey(2)}).keys());
  const auto response = channel_->Erase(request, In(10));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_TRUE(response->erased(0));
  EXPECT_FALSE(response->erased(1));
  EXPECT_EQ(Match({TestKey(1)}, 0).chains(0).first_miss(), v1::MISS_REASON_ERASED);
}

struct BadBlock {
  std::string what;
  std::string bytes;
  std::string message;  // part of the node's sentence
  std::string cause;    // of kvist_refused_blocks_total
};

std::vector<BadBlock> BadBlocks() {
  const std::string good = TestBlock(TestKey(1), 3, 1);
  std::string magic = good, future = good, data = good, header = good, table = good;
  magic[0] = 'X';
  future[8] = 9;
  data[data.size() - 100] ^= 1;
  header[40] ^= 1;
  table[130] ^= 1;
  return {{"truncated in the data", good.substr(0, good.size() - 64), "cut off", "format"},
          {"truncated in the header", good.substr(0, 100), "header", "format"},
          {"oversized", good + std::string(64, '\0'), "bytes", "format"},
          {"wrong magic", magic, "KVISTBLK", "format"},
          {"future version", future, "version", "format"},
          {"broken data", data, "checksum", "checksum"},
          {"broken header", header, "checksum", "checksum"},
          {"broken table", table, "checksum", "checksum"},
          {"another key", TestBlock(TestKey(9), 3, 1), "was made for key 0909", "identity"},
          {"another namespace", TestBlock(TestKey(1), 3, 1, "another name...."), "was made for namespace", "identity"}};
}

TEST_F(CacheServiceTest, BadBlocksAreRefusedWithASentenceCountedAndLeaveNothingBehind) {
  for (const BadBlock& bad : BadBlocks()) {
    SCOPED_TRACE(bad.what);
    const std::string counter = "kvist_refused_blocks_total{cause=\"" + bad.cause + "\"} ";
    const auto count = [&] {
      const std::string metrics = testing::HttpGet(node_->http_address(), "/metrics");
      const size_t at = metrics.find(counter);
      return at == std::string::npos ? -1.0 : std::stod(metrics.substr(at + counter.size()));
    };
    const double before = count();
    const absl::Status status = PutRaw(ReserveFor(TestKey(1), bad.bytes.size()), bad.bytes);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(Message(status), HasSubstr(bad.message));
    EXPECT_EQ(count(), before + 1);
    EXPECT_TRUE(NothingHeld());
    EXPECT_EQ(Match({TestKey(1)}, 0).chains(0).hits(), 0);
  }
  EXPECT_TRUE(PutBlock(channel_.get(), TestKey(1), TestBlock(TestKey(1), 3, 1)).ok());
}

TEST_F(CacheServiceTest, ABlockOfAnotherNamespaceIsAMissForTheReader) {
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), TestBlock(TestKey(1), 2, 1)).ok());
  v1::GetRequest request = GetRequestFor({TestKey(1)});
  request.set_namespace_digest("another name....");
  const auto fetched = GetBlocks(channel_.get(), request);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->headers[0].miss(), v1::MISS_REASON_IDENTITY_MISMATCH);
}

TEST_F(CacheServiceTest, WrongRequestsAreNamed) {
  v1::GetRequest get;
  get.set_keys("short");
  EXPECT_THAT(Message(GetBlocks(channel_.get(), get).status()), HasSubstr("keys are 32 bytes each"));
  v1::MatchRequest match;
  match.add_chains()->set_keys(std::string(32 * 4097, 'k'));
  EXPECT_THAT(Message(channel_->Match(match, In(10)).status()),
              HasSubstr("4097 keys in one request; at most 4096 are allowed"));
  v1::PutReserve reserve = ReserveFor(TestKey(1), 100);
  reserve.set_key("short");
  EXPECT_THAT(Message(channel_->Put(reserve, In(10)).status()), HasSubstr("a key is 32 bytes"));
  EXPECT_THAT(Message(channel_->Put(ReserveFor(TestKey(1), 100, "short"), In(10)).status()),
              HasSubstr("it is 16 bytes"));
  EXPECT_THAT(Message(channel_->Put(ReserveFor(TestKey(1), kCapacity + 1), In(10)).status()),
              HasSubstr("larger than this node's limit of 8388608 bytes"));
  EXPECT_THAT(Message(GetBlocks(channel_.get(), GetRequestFor({TestKey(1)}), absl::Now() + absl::Hours(2)).status()),
              HasSubstr("need a deadline of at most 10m"));
  EXPECT_TRUE(NothingHeld());
}

TEST_F(CacheServiceTest, PutBeyondWhatIsPinnedIsRefusedAndNothingIsLost) {
  std::vector<Key> keys;
  for (uint8_t i = 1; i <= 3; ++i) {
    keys.push_back(TestKey(i));
    ASSERT_TRUE(PutBlock(channel_.get(), TestKey(i), TestBlock(TestKey(i), 300, i)).ok());  // 1.2 MB
  }
  ASSERT_EQ(Match(keys, 20'000).chains(0).hits(), 3);
  const auto too_much = channel_->Put(ReserveFor(TestKey(9), 7 << 20), In(10));
  EXPECT_EQ(too_much.status().code(), absl::StatusCode::kResourceExhausted) << too_much.status();
  EXPECT_EQ(Match(keys, 0).chains(0).hits(), 3);
}

TEST_F(CacheServiceTest, MetricsCountWhatHappened) {
  const std::string block = TestBlock(TestKey(1), 4, 1);
  ASSERT_TRUE(PutBlock(channel_.get(), TestKey(1), block).ok());
  ASSERT_TRUE(GetBlocks(channel_.get(), GetRequestFor({TestKey(1), TestKey(2)})).ok());
  Match({TestKey(1), TestKey(2), TestKey(3)}, 1000);
  Match({TestKey(1), TestKey(2), TestKey(3)}, 0);  // a probe is no lookup
  const auto metrics = [this] { return testing::HttpGet(node_->http_address(), "/metrics"); };
  // A stream is counted when the server ends it, which may be after the client has all of it.
  ASSERT_TRUE(testing::WaitFor([&] {
    return metrics().find("kvist_rpcs_total{code=\"ok\",method=\"get\"} 1") != std::string::npos ||
           metrics().find("kvist_rpcs_total{method=\"get\",code=\"ok\"} 1") != std::string::npos;
  }));
  const std::string text = metrics();
  for (const std::string& line :
       {std::string("kvist_blocks{tier=\"host\"} 1"), "kvist_sent_bytes_total " + std::to_string(block.size()),
        "kvist_received_bytes_total " + std::to_string(block.size()),
        std::string("kvist_hit_blocks_total{op=\"get\"} 1"), std::string("kvist_hit_blocks_total{op=\"match\"} 1"),
        std::string("kvist_capacity_bytes{tier=\"host\"} 8388608")}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST_F(CacheServiceTest, ATakenPortIsSaid) {
  NodeConfig config;
  config.id.value = "second";
  config.listen = node_->data_address();
  config.http = {"127.0.0.1", 0};
  config.capacity_bytes = 1 << 20;
  const auto second = NodeServer::Start(config);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(Message(second.status()), HasSubstr("cannot listen on data address " + node_->data_address().ToString()));
}

TEST_F(CacheServiceTest, StopLetsAnOpenStreamFinish) {
  const std::string block = TestBlock(TestKey(1), 4, 1);
  auto writer = channel_->Put(ReserveFor(TestKey(1), block.size()), In(10));
  ASSERT_TRUE(writer.ok()) << writer.status();
  std::thread stopper([this] { node_->Stop(); });
  EXPECT_TRUE(testing::WaitFor(
      [this] { return testing::HttpGet(node_->http_address(), "/readyz") == "not ready: the node is draining\n"; }));
  EXPECT_TRUE((*writer)->Write(0, AsBytes(block)).ok());
  const auto response = (*writer)->Commit(block.size());
  stopper.join();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_TRUE(response->stored());
}

TEST(NodeDownTest, ANodeThatIsNotThereIsUnavailableWithinTheDeadline) {
  auto node = testing::StartNode(1 << 20);
  const std::string address = node->data_address().ToString();
  node = nullptr;
  const auto channel = NewGrpcTransport()->Connect(address);
  const absl::Time start = absl::Now();
  const absl::Status status = channel->ServerInfo(In(2)).status();
  EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) << status;
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
}

}  // namespace
}  // namespace kvist
