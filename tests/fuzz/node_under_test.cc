#include "tests/fuzz/node_under_test.h"

#include <google/protobuf/stubs/logging.h>

#include <array>
#include <utility>

#include "kernels/codec.h"
#include "tests/fuzz/fuzz.h"

namespace kvist::fuzz {
namespace {

constexpr uint64_t kCapacity = uint64_t{128} << 10;

std::string MakeBlock(int key, int ns) {
  const BlockShape shape = {1, 1, 16, 64, Dtype::kBf16};
  std::vector<uint16_t> values(shape.Elements());
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(0x3f00 + (i * 7 + key * 31 + ns) % 256);
  BlockIdentity identity;
  identity.key = TestKey(key).bytes;
  const std::string digest = TestNamespace(ns);
  std::copy(digest.begin(), digest.end(), identity.namespace_digest.begin());
  identity.first_position = 16;
  const Codec codec = std::array{Codec::kRaw16, Codec::kI8, Codec::kLadder, Codec::kX16}[key % 4];
  std::vector<uint8_t> block(MaxBlockBytes(shape, codec));
  const auto size = Encode(identity, shape, ContiguousPages<const uint16_t>(values.data(), shape, shape.tokens),
                           {codec, 0}, absl::MakeSpan(block));
  KVIST_HOLDS(size.ok(), size.status().message());
  return std::string(block.begin(), block.begin() + static_cast<std::ptrdiff_t>(*size));
}

// Counting is all that the handlers do with it; nobody reads the figures here.
Metrics* SharedMetrics() {
  static Metrics* const metrics = new Metrics("n0", "0");
  return metrics;
}

std::shared_ptr<const View> TestView() {
  static const auto view =
      std::make_shared<const View>(View{ViewNumber{7},
                                        {Node{.id = NodeId{"n0"}, .address = Address{"127.0.0.1", 7070}, .http = {}},
                                         Node{.id = NodeId{"n1"}, .address = Address{"127.0.0.1", 7071}, .http = {}}}});
  return view;
}

}  // namespace

std::unique_ptr<Thread> ManualRuntime::Start(std::function<void()>) {
  KVIST_HOLDS(false, "the handlers start no thread");
  return nullptr;
}
std::unique_ptr<Condition> ManualRuntime::NewCondition() {
  KVIST_HOLDS(false, "the handlers wait for nothing");
  return nullptr;
}

Key TestKey(int number) {
  Key key;
  for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(number + 1);
  return key;
}

std::string TestNamespace(int number) { return std::string(16, static_cast<char>('A' + number)); }

const std::string& TestBlock(int key, int ns) {
  static const auto* const blocks = [] {
    auto* made = new std::vector<std::string>;
    for (int k = 0; k < kTestKeys; ++k) {
      for (int n = 0; n < kTestNamespaces; ++n) made->push_back(MakeBlock(k, n));
    }
    return made;
  }();
  return (*blocks)[static_cast<size_t>(key * kTestNamespaces + ns)];
}

NodeUnderTest::NodeUnderTest() {
  google::protobuf::SetLogHandler(nullptr);  // it would tell of each string that is not UTF-8
  HostTierOptions tier_options;
  tier_options.capacity_bytes = kCapacity;
  tier_options.clock = runtime.clock();
  tier_options.index_shards = 4;
  tier_options.remembered_removals = 256;
  tier_options.huge_pages = false;
  tier = HostTier::Create(tier_options).value();

  CacheHandlersOptions options;
  options.store = tier.get();
  options.metrics = SharedMetrics();
  options.runtime = &runtime;
  options.identity = {"0", "n0"};
  options.capacity_bytes = kCapacity;
  options.limits.max_keys = kMaxTestKeys;
  options.limits.max_block_bytes = kCapacity;
  options.admission.gets = 6;
  options.admission.puts = 4;
  options.view = [] { return TestView(); };
  options.hooks.stored = [this](const Key&, const BlockTraits&, std::string_view, uint32_t replicas) {
    KVIST_HOLDS(replicas >= 1, "no replica at all");
    ++stored;
  };
  options.hooks.hot_nodes = [](const Key& group) {
    return group.bytes[0] == 2 ? std::vector<NodeId>{NodeId{"n1"}} : std::vector<NodeId>();
  };
  options.hooks.adopt = [](TenantId, const v1::AdoptRequest& request) {
    return static_cast<uint32_t>(request.keys().size() / 32);
  };
  options.hooks.drain = [](const v1::DrainRequest&) { return v1::DrainResponse(); };
  options.hooks.taking_blocks = [this] { return taking_blocks; };
  options.hooks.conflict = [this](const Key&) { ++conflicts; };
  options.hooks.damaged = [this](const Key&, const BlockTraits&) { ++damaged; };
  handlers = std::make_unique<CacheHandlers>(std::move(options));
}

void NodeUnderTest::Store(int key, int ns) {
  auto put = handlers->OpenPut(Caller::Anyone(), DeadlineIn(absl::Seconds(1)));
  KVIST_HOLDS(put.ok(), put.status().ToString());
  const std::string& block = TestBlock(key, ns);
  v1::PutReserve reserve;
  const Key name = TestKey(key);
  reserve.set_key(name.bytes.data(), name.bytes.size());
  reserve.set_size_bytes(block.size());
  reserve.set_namespace_digest(TestNamespace(ns));
  const auto reserved = (*put)->Reserve(reserve);
  KVIST_HOLDS(reserved.ok() && *reserved, reserved.status().ToString());
  KVIST_HOLDS((*put)->Write(0, {reinterpret_cast<const uint8_t*>(block.data()), block.size()}).ok(), "write");
  const auto committed = (*put)->Commit(block.size());
  KVIST_HOLDS(committed.ok() && committed->stored(), committed.status().ToString());
}

}  // namespace kvist::fuzz
