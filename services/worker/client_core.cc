#include "services/worker/client_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"
#include "services/transport/retry_hint.h"
#include "services/worker/namespace_text.h"

namespace kvist {
namespace {

size_t LargestBlockBytes(const BlockShape& shape) {
  size_t largest = 0;
  for (const Codec codec : kKnownCodecs) largest = std::max(largest, MaxBlockBytes(shape, codec));
  return largest;
}

constexpr size_t kMaxCallers = 128;
constexpr int kMinLinkBuffers = 2;

// A call that got no sign of life for a quarter of its time has met a silent node.
BreakerOptions BreakerFor(const ClientOptions& options) {
  BreakerOptions breaker;
  breaker.silence = std::clamp(options.deadline / 4, absl::Milliseconds(250), absl::Seconds(1));
  return breaker;
}

}  // namespace

ClientCore::ClientCore(ClientOptions client_options)
    : options(std::move(client_options)),
      shape(options.ns.Shape()),
      namespace_digest(NamespaceDigest(options.ns)),
      namespace_text(NamespaceText(options.ns)),
      retries(options.retry, options.runtime),
      encoders(options.runtime, options.threads),
      reserve_bytes(NominalBlockBytes(Identity(Key{}, 0), shape, ForEncode())),
      locations(options.runtime),
      keeper({options.runtime, options.transport, &callers, &counters, BreakerFor(options),
              kMinLinkBuffers + options.threads, options.seeds, [this](size_t nodes) { Resize(nodes); }}),
      profiles(
          {options.runtime, &counters, [this] { return view(); }, options.ns.profile_digest, shape, options.deadline},
          options.profile),
      buffers(options.runtime, 0, LargestBlockBytes(shape)),
      decoders(options.runtime, options.threads),
      callers(options.runtime, std::min(kMaxCallers, options.seeds.size())),
      errands(options.runtime) {}

EncodeOptions EncodeOptionsOf(const ClientOptions& options) {
  return {.codec = options.codec,
          .floor_db = options.floor_db,
          .key_bits = options.key_bits,
          .value_bits = options.value_bits,
          .tile_bits = options.tile_bits,
          .exact_heads = options.exact_heads};
}

absl::StatusOr<EncodeOptions> ClientCore::PreparedForEncode() const {
  EncodeOptions encode = ForEncode();
  if (options.codec != Codec::kQ) return encode;
  const absl::StatusOr<const Profile*> profile = options.profile->ForEncoding();
  if (!profile.ok()) return profile.status();
  encode.profile = *profile;
  return encode;
}

void ClientCore::Resize(size_t nodes) {
  buffers.SetBuffers(2 * (nodes + options.threads));
  callers.SetMaxThreads(std::min(kMaxCallers, kLinkCalls * nodes));
}

std::string ClientCore::NamespaceField() const {
  return std::string(namespace_digest.begin(), namespace_digest.begin() + 16);
}

BlockIdentity ClientCore::Identity(const Key& key, size_t block) const {
  BlockIdentity identity;
  identity.key = key.bytes;
  std::copy_n(namespace_digest.begin(), identity.namespace_digest.size(), identity.namespace_digest.begin());
  identity.profile_digest = options.ns.profile_digest;
  identity.first_position = static_cast<uint32_t>(block * options.ns.tokens_per_block);
  return identity;
}

ExpectedBlock ClientCore::Expected(const Key& key, size_t block) const {
  return {Identity(key, block), shape, options.min_precision, options.floor_db};
}

std::optional<absl::Time> ClientCore::ToldTime(const absl::Status& status) {
  const std::optional<absl::Duration> hint = RetryHint(status);
  if (!absl::IsResourceExhausted(status) || !hint) return std::nullopt;
  return Now() + retries.Pause(/*attempt=*/0, hint);
}

std::optional<absl::Time> ClientCore::RetryTime(const absl::Status& status, absl::Time deadline) {
  const std::optional<absl::Time> told = ToldTime(status);
  if (!told || *told >= deadline || !retries.Take()) return std::nullopt;
  ++counters.retries;
  return told;
}

void ClientCore::CountMiss(v1::MissReason reason) {
  if (reason != v1::MISS_REASON_UNSPECIFIED) ++counters.misses[reason];
}

void ClientCore::CountGet(const GetResult& result) {
  counters.fetched_blocks += result.blocks;
  counters.fetched_bytes += result.fetched_bytes;
  counters.decode_ns += absl::ToInt64Nanoseconds(result.decode_time);
  CountMiss(result.miss);
}

void ClientCore::ReportDamage(const std::shared_ptr<NodeLink>& node, const Key& key) {
  ++counters.damaged;
  v1::ReportRequest request;
  request.set_keys(PackKeys({&key, 1}, {0}));
  errands.Submit([this, node, request = std::move(request)] {
    const absl::Time deadline = Now() + kErrandDeadline;
    node->Ask<v1::ReportResponse>([&](Channel& channel) { return channel.Report(request, deadline); })
        .status()
        .IgnoreError();  // the node's own scrub will find it
  });
}

std::vector<OwnerBlocks> GroupByOwner(absl::Span<const Key> chain, BlockRange range, const View& view) {
  std::vector<OwnerBlocks> groups;
  const std::vector<size_t> owners = ChainOwners(chain.first(range.last), view);
  for (size_t block = range.first; block < range.last; ++block) {
    auto group =
        std::find_if(groups.begin(), groups.end(), [&](const OwnerBlocks& g) { return g.owner == owners[block]; });
    if (group == groups.end()) group = groups.insert(group, OwnerBlocks{owners[block], {}});
    group->blocks.push_back(block);
  }
  return groups;
}

std::string PackKeys(absl::Span<const Key> chain, absl::Span<const size_t> blocks) {
  std::string keys;
  keys.reserve(blocks.size() * Key::kBytes);
  for (const size_t block : blocks) {
    keys.append(reinterpret_cast<const char*>(chain[block].bytes.data()), chain[block].bytes.size());
  }
  return keys;
}

bool IsFault(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return true;
    default:
      return false;
  }
}

v1::MissReason MissReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded:
      return v1::MISS_REASON_DEADLINE;
    case absl::StatusCode::kDataLoss:
      return v1::MISS_REASON_CHECKSUM;
    case absl::StatusCode::kResourceExhausted:
      return v1::MISS_REASON_OVERLOADED;
    default:
      return v1::MISS_REASON_OWNER_DOWN;
  }
}

v1::MissReason Known(v1::MissReason reason) {
  return v1::MissReason_IsValid(reason) ? reason : v1::MISS_REASON_NEVER_STORED;
}

absl::Status AtNode(const std::string& node, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("node ", node, ": ", status.message()));
}

}  // namespace kvist
