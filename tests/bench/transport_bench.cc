// Moving blocks from a real node to a worker, against a plain socket and against a real Redis; matching over three
// nodes. Method: real processes on loopback, both sides in turns in one run, medians. Argument: the path of kvistd.
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/cluster/static_file.h"
#include "services/transport/tls.h"
#include "services/transport/transport.h"
#include "services/worker/client.h"
#include "tests/bench/peers.h"
#include "tests/bench/rows.h"
#include "tests/services/testing/certificates.h"

namespace kvist {
namespace {

constexpr int kRounds = 15;
constexpr size_t kBlocks = 16;
// SmolLM2-135M: 30 layers, 3 KV heads of 64.
constexpr BlockShape kShape = {30, 3, 128, 64, Dtype::kBf16};
// Small blocks, so that thousands of them are stored in a moment: Match does not depend on their size.
constexpr BlockShape kSmallShape = {1, 1, 16, 64, Dtype::kBf16};
constexpr size_t kMatchKeys = 2048;

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "bench: %s\n", value.status().ToString().c_str());
  std::exit(1);
}
void Require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "bench: %s\n", what.c_str());
  std::exit(1);
}

// `count` kvistd processes from one cluster file in a folder of their own.
class Cluster {
 public:
  Cluster(const std::string& kvistd, int count, const std::vector<std::string>& flags = {})
      : folder_(std::filesystem::temp_directory_path() /
                absl::StrCat("kvist-bench-", getpid(), "-", count, flags.empty() ? "" : "-tls")) {
    std::filesystem::create_directories(folder_);
    const std::string file = folder_ / "cluster.json";
    std::string nodes;
    for (int i = 0; i < count; ++i) {
      absl::StrAppend(&nodes, i == 0 ? "" : ", ", "{\"id\": \"n", i,
                      "\", \"address\": \"127.0.0.1:0\", \"capacity\": \"512MiB\"}");
    }
    std::ofstream(file) << "{\"view\": 1, \"nodes\": [" << nodes << "]}";
    for (int i = 0; i < count; ++i) {
      std::vector<std::string> command = {kvistd, "--cluster", file, "--node", absl::StrCat("n", i)};
      command.insert(command.end(), flags.begin(), flags.end());
      children_.push_back(Child::Spawn(command));
    }
    view_ = Must(LoadView(file, absl::Now() + absl::Seconds(20), RealRuntime()->clock()));
  }
  ~Cluster() {
    children_.clear();
    std::filesystem::remove_all(folder_);
  }
  const View& view() const { return view_; }

 private:
  std::filesystem::path folder_;
  std::vector<Child> children_;
  View view_;
};

// A prompt of random values in one namespace, and a client of its own.
class Prompt {
 public:
  Prompt(const View& view, Transport* transport, const BlockShape& shape, Codec codec, size_t blocks)
      : shape_(shape),
        tokens_(blocks * shape.tokens),
        kv_(2 * size_t{shape.layers} * shape.heads * tokens_ * shape.head_dim) {
    ClientOptions options;
    options.ns.model = absl::StrCat("bench ", std::string(CodecName(codec)), " ", blocks);
    options.ns.dtype = shape.dtype;
    options.ns.layers = shape.layers;
    options.ns.heads = shape.heads;
    options.ns.head_dim = shape.head_dim;
    options.ns.tokens_per_block = shape.tokens;
    options.view = view;
    options.transport = transport;
    options.codec = codec;
    options.deadline = absl::Seconds(60);
    client_ = Must(Client::Create(options));
    std::vector<uint32_t> tokens(tokens_);
    for (size_t i = 0; i < tokens_; ++i) tokens[i] = static_cast<uint32_t>(i * 7919 % 49152);
    chain_ = client_->Keys(tokens);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (uint16_t& value : kv_) {
      const float x = normal(random);
      uint32_t bits;
      std::memcpy(&bits, &x, sizeof(bits));
      value = static_cast<uint16_t>(bits >> 16);
    }
  }

  void Put() {
    const PutResult put = Must(client_->Put(chain_, ContiguousPages<const uint16_t>(kv_.data(), shape_, tokens_)));
    Require(put.stored + put.present == chain_.size(),
            absl::StrCat("stored ", put.stored, " of ", chain_.size(), " blocks: ", put.failure));
  }
  void Get() {
    const GetResult got =
        Must(client_->Get(chain_, {0, chain_.size()}, ContiguousPages<uint16_t>(kv_.data(), shape_, tokens_)));
    Require(got.blocks == chain_.size(), "a block was missed: " + got.why);
  }
  size_t PlainBytes() const { return 2 * kv_.size(); }
  absl::Span<uint8_t> Bytes() { return {reinterpret_cast<uint8_t*>(kv_.data()), PlainBytes()}; }
  const std::vector<Key>& chain() const { return chain_; }
  Client* client() { return client_.get(); }

 private:
  const BlockShape shape_;
  const size_t tokens_;
  std::vector<uint16_t> kv_;
  std::unique_ptr<Client> client_;
  std::vector<Key> chain_;
};

// Receives a Get into one run of memory, each item where the last one ended.
class FlatSink : public GetSink {
 public:
  explicit FlatSink(absl::Span<uint8_t> memory) : memory_(memory) {}
  absl::Status OnHeader(const v1::GetHeader& header) override {
    item_begin_ = used_;
    used_ += header.block_bytes();
    Require(header.miss() == v1::MISS_REASON_UNSPECIFIED && used_ <= memory_.size(), "a block was missed");
    return absl::OkStatus();
  }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t, uint64_t offset, size_t size_bytes) override {
    return memory_.subspan(item_begin_ + offset, size_bytes);
  }
  size_t used() const { return used_; }

 private:
  const absl::Span<uint8_t> memory_;
  size_t item_begin_ = 0, used_ = 0;
};

size_t GetRaw(Channel* channel, const std::vector<Key>& chain, absl::Span<uint8_t> memory) {
  v1::GetRequest request;
  for (const Key& key : chain)
    request.mutable_keys()->append(reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size());
  FlatSink sink(memory);
  Must(channel->Get(request, absl::Now() + absl::Seconds(60), &sink));
  return sink.used();
}

void BenchGet(const View& view, Transport* transport, TcpSender* tcp) {
  Prompt prompt(view, transport, kShape, Codec::kLadder, kBlocks);
  prompt.Put();
  std::vector<uint8_t> memory(prompt.PlainBytes());
  const auto channel = transport->Connect(view.nodes[0].address.ToString());
  const size_t wire_bytes = GetRaw(channel.get(), prompt.chain(), absl::MakeSpan(memory));
  PrintThroughput(
      "Get of 16 blocks, bytes on the wire / plain TCP", kRounds, wire_bytes,
      [&] { GetRaw(channel.get(), prompt.chain(), absl::MakeSpan(memory)); }, wire_bytes,
      [&] { tcp->Fetch(absl::MakeSpan(memory).subspan(0, wire_bytes)); }, Target{0.7, Reach::kAtLeast});
}

void BenchTls(const std::string& kvistd, const View& plain_view, Transport* plain) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / absl::StrCat("kvist-bench-", getpid(), "-certificates");
  std::filesystem::create_directories(folder);
  const testing::TestCa ca;
  const TlsOptions files = testing::WriteTls(folder / "both", ca.Issue(), ca.pem());
  const Cluster cluster(kvistd, 1,
                        {"--tls-cert", files.cert_file, "--tls-key", files.key_file, "--tls-ca", files.ca_file});
  const auto transport = NewGrpcTransport(Must(TlsIdentity::Load(files)));
  Prompt ours(cluster.view(), transport.get(), kShape, Codec::kLadder, kBlocks);
  Prompt other(plain_view, plain, kShape, Codec::kLadder, kBlocks);
  ours.Put();
  other.Put();
  std::vector<uint8_t> memory(ours.PlainBytes());
  const auto ours_channel = transport->Connect(cluster.view().nodes[0].address.ToString());
  const auto other_channel = plain->Connect(plain_view.nodes[0].address.ToString());
  const size_t wire_bytes = GetRaw(ours_channel.get(), ours.chain(), absl::MakeSpan(memory));
  PrintThroughput(
      "Get of 16 blocks over mutual TLS / in plaintext", kRounds, wire_bytes,
      [&] { GetRaw(ours_channel.get(), ours.chain(), absl::MakeSpan(memory)); }, wire_bytes,
      [&] { GetRaw(other_channel.get(), other.chain(), absl::MakeSpan(memory)); }, std::nullopt);
  std::filesystem::remove_all(folder);
}

void BenchDecodedGet(const View& view, Transport* transport) {
  Redis redis;
  Prompt ladder(view, transport, kShape, Codec::kLadder, kBlocks), i8(view, transport, kShape, Codec::kI8, kBlocks),
      raw16(view, transport, kShape, Codec::kRaw16, kBlocks);
  const size_t block_bytes = kShape.PlainBytes();
  for (size_t b = 0; b < kBlocks; ++b)
    redis.Set(absl::StrCat("b", b), ladder.Bytes().subspan(b * block_bytes, block_bytes));
  const auto redis_get = [&] {
    for (size_t b = 0; b < kBlocks; ++b)
      redis.Get(absl::StrCat("b", b), ladder.Bytes().subspan(b * block_bytes, block_bytes));
  };
  const auto row = [&](const std::string& codec, Prompt* prompt, std::optional<Target> target) {
    prompt->Put();
    PrintThroughput(
        absl::StrCat("Get, decoded to bf16 (", codec, ") / Redis GET of the bf16"), kRounds, prompt->PlainBytes(),
        [&] { prompt->Get(); }, prompt->PlainBytes(), redis_get, target);
  };
  row("ladder", &ladder, Target{2.5, Reach::kAtLeast});
  row("i8", &i8, std::nullopt);
  row("raw16", &raw16, std::nullopt);
}

void BenchMatch(const View& view, Transport* transport) {
  Prompt prompt(view, transport, kSmallShape, Codec::kRaw16, kMatchKeys);
  prompt.Put();
  const auto channel = transport->Connect(view.nodes[0].address.ToString());
  std::vector<double> ours, other;
  for (int round = 0; round < 100; ++round) {
    const absl::Time start = absl::Now();
    const PrefixMatch match = Must(prompt.client()->Match(prompt.chain()));
    ours.push_back(absl::ToDoubleMicroseconds(absl::Now() - start));
    Require(match.blocks() == kMatchKeys, absl::StrCat("matched ", match.blocks(), " blocks"));
    other.push_back(1e6 * Seconds([&] { Must(channel->Release({}, absl::Now() + absl::Seconds(5))); }));
  }
  PrintRow("Match of 2,048 keys over three nodes / one empty unary call", Median(ours), Median(other), "us",
           Target{10, Reach::kAtMost});
}

int Main(const std::string& kvistd) {
  TcpSender tcp(kBlocks * kShape.PlainBytes());  // forks: before any thread
  const Cluster one(kvistd, 1), three(kvistd, 3);
  const std::unique_ptr<Transport> transport = NewGrpcTransport();
  BenchGet(one.view(), transport.get(), &tcp);
  BenchTls(kvistd, one.view(), transport.get());
  BenchDecodedGet(one.view(), transport.get());
  BenchMatch(three.view(), transport.get());
  return 0;
}

}  // namespace
}  // namespace kvist

int main(int argc, char** argv) { return kvist::Main(argc > 1 ? argv[1] : "bazel-bin/services/node/kvistd"); }
