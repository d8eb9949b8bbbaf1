// Goal: a node at the other end of a wire is a BlockStore like any other.
// Method: the conformance suite over a real gRPC server on loopback, with a host tier behind it on a virtual clock,
// spoken to through the remote store. Blocks are real ones (raw16): the node verifies them at commit.
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cachestore/host_tier.h"
#include "services/node/cache_service.h"
#include "services/transport/grpc_library.h"
#include "services/worker/remote_store.h"
#include "tests/conformance/block_store_conformance.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

constexpr size_t kLayerBytes = 4096;  // of one layer of a test block

// The machine's threads and a clock of the test's.
class TestClockRuntime final : public Runtime {
 public:
  explicit TestClockRuntime(Clock clock) : clock_(std::move(clock)) {}
  absl::Time Now() override { return clock_(); }
  uint64_t Random() override { return RealRuntime()->Random(); }
  std::unique_ptr<Thread> Start(std::function<void()> body) override { return RealRuntime()->Start(std::move(body)); }
  std::unique_ptr<Condition> NewCondition() override { return RealRuntime()->NewCondition(); }
  void SleepUntil(absl::Time time) override {}

 private:
  const Clock clock_;
};

class RemoteStoreUnderTest final : public StoreUnderTest {
 public:
  explicit RemoteStoreUnderTest(uint64_t capacity_bytes) {
    KeepGrpcAlive();
    HostTierOptions tier;
    tier.capacity_bytes = capacity_bytes;
    tier.clock = [this] { return absl::FromUnixMillis(now_ms_.load()); };
    tier.max_lease = kMaxLease;
    tier.max_pinned_fraction = kMaxPinnedFraction;
    tier_ = *HostTier::Create(tier);
    metrics_ = std::make_unique<Metrics>("test", "0");
    CacheHandlersOptions options;
    options.store = tier_.get();
    options.metrics = metrics_.get();
    options.runtime = &runtime_;
    options.identity = {"0", "test"};
    options.capacity_bytes = capacity_bytes;
    options.admission.pinned_fraction = 1;  // the tier's own limits are what is tested
    options.admission.reserved_fraction = 1;
    options.limits.max_lease = kMaxLease;
    handlers_ = std::make_unique<CacheHandlers>(std::move(options));
    service_ = std::make_unique<CacheService>(handlers_.get(), nullptr);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    channel_ = transport_->Connect(absl::StrCat("127.0.0.1:", port));
    RemoteStoreOptions remote;
    remote.channel = channel_.get();
    remote.store_clock = tier.clock;
    std::memcpy(remote.namespace_digest.data(), testing::kTestNamespace, remote.namespace_digest.size());
    store_ = NewRemoteStore(remote);
  }
  ~RemoteStoreUnderTest() override { server_->Shutdown(absl::ToChronoTime(absl::Now() + absl::Seconds(5))); }

  BlockStore& store() override { return *store_; }
  HostTier& tier() { return *tier_; }
  std::string MakeBlock(const Key& key, size_t approximate_bytes, uint64_t seed) override {
    const size_t layers = std::clamp<size_t>(approximate_bytes / kLayerBytes, 1, 1024);
    return testing::TestBlock(key, static_cast<uint32_t>(layers), seed ^ key.Prefix64());
  }
  void Advance(absl::Duration by) override { now_ms_ += absl::ToInt64Milliseconds(by); }
  absl::Time Now() const override { return absl::FromUnixMillis(now_ms_.load()); }

  bool is_local() const override { return false; }
  bool get_holds_space() const override { return false; }
  bool reservations_are_readable() const override { return false; }
  bool counts_all_events() const override { return false; }

 private:
  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  TestClockRuntime runtime_{[this] { return Now(); }};
  std::unique_ptr<HostTier> tier_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<CacheHandlers> handlers_;
  std::unique_ptr<CacheService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<BlockStore> store_;
};

INSTANTIATE_TEST_SUITE_P(Remote, BlockStoreConformance,
                         ::testing::Values(StoreKind{"OverLoopback",
                                                     [](uint64_t capacity_bytes) {
                                                       return std::make_unique<RemoteStoreUnderTest>(capacity_bytes);
                                                     }}),
                         StoreKindName);

// What the suite cannot see from this side of the wire.
TEST(RemoteStoreTest, TraitsReachTheNode) {
  RemoteStoreUnderTest node(uint64_t{4} << 20);
  Key plain, grouped, head;
  plain.bytes.fill(1);
  grouped.bytes.fill(2);
  head.bytes.fill(3);
  const auto put = [&](const Key& key, const BlockTraits& traits) {
    const std::string block = node.MakeBlock(key, 8192, 0);
    auto reservation = node.store().Reserve(key, block.size(), traits);
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    ASSERT_TRUE((*reservation)->Write(0, AsBytes(block)).ok());
    ASSERT_TRUE((*reservation)->Commit(block.size()).ok());
  };
  put(plain, {});
  put(grouped, {.group = head, .expires = node.Now() + absl::Microseconds(1500)});
  EXPECT_EQ(node.tier().Get(plain)->traits.expires, absl::InfiniteFuture());
  EXPECT_EQ(node.tier().Get(grouped)->traits.group, head);
  EXPECT_EQ(node.tier().Get(grouped)->traits.expires, node.Now() + absl::Milliseconds(2)) << "rounded up";
}

}  // namespace
}  // namespace kvist
