#include "services/worker/client_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"

namespace kvist {
namespace {

// A node whose address nobody knows (it has not published one): every call fails at once.
class UnknownAddress final : public Channel {
 public:
  explicit UnknownAddress(const std::string& node) : node_(node) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest&, absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest&, absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest&, absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest&, absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest&, absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest&, absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest&, absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest&, absl::Time) override { return Unknown(); }
  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest&, absl::Time, GetSink*) override { return Unknown(); }
  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve&, absl::Time) override { return Unknown(); }

 private:
  absl::Status Unknown() const {
    return absl::UnavailableError(absl::StrCat("the address of node ", node_, " is not known: it has published none"));
  }

  const std::string node_;
};

size_t LargestBlockBytes(const BlockShape& shape) {
  return std::max(
      {MaxBlockBytes(shape, Codec::kRaw16), MaxBlockBytes(shape, Codec::kI8), MaxBlockBytes(shape, Codec::kLadder)});
}

constexpr size_t kCallersPerNode = 4, kMaxCallers = 128;

}  // namespace

ClientCore::ClientCore(ClientOptions client_options)
    : options(std::move(client_options)),
      shape(options.ns.Shape()),
      namespace_digest(NamespaceDigest(options.ns)),
      retries(options.retry, options.runtime),
      encoders(options.runtime, options.threads),
      reserve_bytes(NominalBlockBytes(Identity(Key{}, 0), shape, options.codec)),
      buffers(options.runtime, 2 * (options.view.nodes.size() + options.threads), LargestBlockBytes(shape)),
      decoders(options.runtime, options.threads),
      callers(options.runtime, std::min(kMaxCallers, kCallersPerNode * options.view.nodes.size())) {
  for (const Node& node : options.view.nodes) {
    channels.push_back(node.address.port == 0 ? std::make_unique<UnknownAddress>(node.id.value)
                                              : options.transport->Connect(node.address.ToString()));
  }
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

void ClientCore::CountMiss(v1::MissReason reason) {
  if (reason != v1::MISS_REASON_UNSPECIFIED && v1::MissReason_IsValid(reason)) ++misses[reason];
}

void ClientCore::CheckView(uint64_t view_of_node) {
  if (view_of_node != 0 && view_of_node != options.view.number.value) ++stale_views;
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
  keys.reserve(blocks.size() * sizeof(Key));
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
    default:
      return v1::MISS_REASON_OWNER_DOWN;
  }
}

absl::Status AtNode(const std::string& node, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("node ", node, ": ", status.message()));
}

}  // namespace kvist
