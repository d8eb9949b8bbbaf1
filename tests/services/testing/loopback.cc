#include "tests/services/testing/loopback.h"

#include <httplib.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "kernels/codec.h"

namespace kvist::testing {
namespace {

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "test set-up failed: %s\n", status.ToString().c_str());
  std::abort();
}

class CollectingSink : public GetSink {
 public:
  explicit CollectingSink(ReceivedBlocks* fetched) : fetched_(fetched) {}
  absl::Status OnHeader(const v1::GetHeader& header) override {
    fetched_->headers.push_back(header);
    fetched_->bytes.emplace_back(header.block_bytes(), '\0');
    return absl::OkStatus();
  }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t item, uint64_t offset, size_t size_bytes) override {
    if (item >= fetched_->bytes.size() || offset + size_bytes > fetched_->bytes[item].size()) {
      return absl::OutOfRangeError("a part does not fit its item");
    }
    return absl::MakeSpan(reinterpret_cast<uint8_t*>(fetched_->bytes[item].data()) + offset, size_bytes);
  }

 private:
  ReceivedBlocks* const fetched_;
};

}  // namespace

NodeConfig TestConfig(uint64_t capacity_bytes) {
  NodeConfig config;
  config.id.value = "test";
  config.listen = {"127.0.0.1", 0};
  config.http = {"127.0.0.1", 0};
  config.capacity_bytes = capacity_bytes;
  return config;
}

std::unique_ptr<NodeServer> StartNode(const NodeConfig& config) {
  absl::StatusOr<std::unique_ptr<NodeServer>> node = NodeServer::Start(config);
  if (!node.ok()) Die(node.status());
  return *std::move(node);
}

std::unique_ptr<NodeServer> StartNode(uint64_t capacity_bytes, absl::Duration drain) {
  NodeConfig config = TestConfig(capacity_bytes);
  config.drain = drain;
  return StartNode(config);
}

Key TestKey(uint8_t fill) {
  Key key;
  key.bytes.fill(fill);
  return key;
}

std::string TestBlock(const Key& key, uint32_t layers, uint64_t seed, const std::string& namespace_digest) {
  const BlockShape shape = {layers, 1, 16, 64, Dtype::kBf16};
  BlockIdentity identity;
  identity.key = key.bytes;
  std::memcpy(identity.namespace_digest.data(), namespace_digest.data(), identity.namespace_digest.size());
  std::mt19937_64 random(seed);
  std::vector<uint16_t> values(shape.Elements());
  for (uint16_t& value : values) value = static_cast<uint16_t>(random()) & 0xbfff;  // no NaN, no Inf
  EncodeOptions options;
  options.codec = Codec::kRaw16;
  std::string block(MaxBlockBytes(shape, Codec::kRaw16), '\0');
  const absl::StatusOr<size_t> size =
      Encode(identity, shape, ContiguousPages<const uint16_t>(values.data(), shape, shape.tokens), options,
             absl::MakeSpan(reinterpret_cast<uint8_t*>(block.data()), block.size()));
  if (!size.ok()) Die(size.status());
  block.resize(*size);
  return block;
}

v1::PutReserve ReserveFor(const Key& key, uint64_t size_bytes, const std::string& namespace_digest) {
  v1::PutReserve reserve;
  reserve.set_key(key.bytes.data(), key.bytes.size());
  reserve.set_size_bytes(size_bytes);
  reserve.set_namespace_digest(namespace_digest);
  return reserve;
}

absl::Status PutBlock(Channel* channel, const Key& key, const std::string& block, const std::string& namespace_digest) {
  absl::StatusOr<std::unique_ptr<PutStream>> stream =
      channel->Put(ReserveFor(key, block.size(), namespace_digest), In(10));
  if (!stream.ok()) return stream.status();
  const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(block.data()), block.size());
  if (absl::Status status = (*stream)->Write(0, bytes); !status.ok()) return status;
  return (*stream)->Commit(block.size()).status();
}

absl::StatusOr<ReceivedBlocks> GetBlocks(Channel* channel, const v1::GetRequest& request, absl::Time deadline) {
  ReceivedBlocks fetched;
  CollectingSink sink(&fetched);
  const absl::StatusOr<v1::GetTrailer> trailer = channel->Get(request, deadline, &sink);
  if (!trailer.ok()) return trailer.status();
  return fetched;
}

v1::GetRequest GetRequestFor(const std::vector<Key>& keys) {
  v1::GetRequest request;
  for (const Key& key : keys)
    request.mutable_keys()->append(reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size());
  return request;
}

std::string HttpGet(const Address& address, const std::string& path) {
  httplib::Client client("http://" + address.ToString());
  const auto result = client.Get(path.c_str());
  return result ? result->body : "";
}

bool WaitFor(const std::function<bool()>& condition, double seconds) {
  for (const absl::Time end = In(seconds); absl::Now() < end; absl::SleepFor(absl::Milliseconds(2))) {
    if (condition()) return true;
  }
  return condition();
}

}  // namespace kvist::testing
