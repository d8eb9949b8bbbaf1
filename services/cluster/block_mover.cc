#include "services/cluster/block_mover.h"

#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

std::string KeyField(const Key& key) { return std::string(key.bytes.begin(), key.bytes.end()); }

// Receives the one item of a Get. Memory is taken for what has come, not for what was announced.
class OneBlock final : public GetSink {
 public:
  explicit OneBlock(uint64_t max_bytes) : max_bytes_(max_bytes) {}

  absl::Status OnHeader(const v1::GetHeader& header) override {
    if (header.item() != 0 || announced_ > 0 || missing) return absl::DataLossError("the peer sent an item too many");
    missing = header.miss() != v1::MISS_REASON_UNSPECIFIED;
    if (missing) return absl::OkStatus();
    if (header.sent_bytes() == 0 || header.sent_bytes() > max_bytes_) {
      return absl::OutOfRangeError(absl::StrCat("the peer sends a block of ", header.sent_bytes(),
                                                " bytes; one has 1 to ", max_bytes_, " bytes here"));
    }
    announced_ = header.sent_bytes();
    return absl::OkStatus();
  }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t item, uint64_t offset, size_t size_bytes) override {
    if (item != 0 || offset != bytes.size() || size_bytes > announced_ - bytes.size()) {
      return absl::DataLossError("the peer sent a part out of place");
    }
    bytes.resize(offset + size_bytes);
    return absl::MakeSpan(bytes).subspan(offset, size_bytes);
  }

  bool complete() const { return announced_ > 0 && bytes.size() == announced_; }

  std::vector<uint8_t> bytes;
  bool missing = false;

 private:
  const uint64_t max_bytes_;
  uint64_t announced_ = 0;
};

}  // namespace

absl::StatusOr<uint64_t> BlockMover::Send(const Key& key, Channel* to, const CopyTerms& terms, absl::Time deadline) {
  absl::StatusOr<Lookup> found = options_.store->Get(key, /*touch=*/false);
  if (!found.ok()) return found.status();
  if (found->block == nullptr) return absl::NotFoundError("the block is gone");
  const absl::Duration ttl = std::min(terms.ttl, found->traits.expires - options_.runtime->Now());
  if (ttl <= absl::ZeroDuration()) return absl::NotFoundError("the block has expired");
  const absl::StatusOr<std::string> namespace_digest = options_.reading.namespace_of(found->block->pieces());
  if (!namespace_digest.ok()) {
    return absl::DataLossError(absl::StrCat("our own copy cannot be read: ", namespace_digest.status().message()));
  }
  v1::PutReserve reserve;
  reserve.set_key(KeyField(key));
  reserve.set_size_bytes(found->block->size_bytes());
  reserve.set_namespace_digest(*namespace_digest);
  reserve.set_view(terms.view);
  if (found->traits.group != Key{}) reserve.set_segment_head(KeyField(found->traits.group));
  reserve.set_copy(true);
  reserve.set_tenant(TenantOf(key));
  reserve.set_replicas(terms.replicas);
  if (ttl != absl::InfiniteDuration()) {
    reserve.set_ttl_ms(std::max<uint64_t>(1, static_cast<uint64_t>(absl::ToInt64Milliseconds(ttl))));
  }
  absl::StatusOr<std::unique_ptr<PutStream>> stream = to->Put(reserve, deadline);
  if (absl::IsAlreadyExists(stream.status())) return 0;
  // It leaves, and takes nothing new: no fault of the block's, and a later view names another.
  if (absl::IsFailedPrecondition(stream.status())) return absl::AbortedError(stream.status().message());
  if (!stream.ok()) return stream.status();
  uint64_t offset = 0;
  for (const absl::Span<const uint8_t> piece : found->block->pieces()) {
    const absl::Status written = (*stream)->Write(offset, piece);
    if (absl::IsAlreadyExists(written)) return 0;
    if (!written.ok()) return written;
    offset += piece.size();
  }
  const absl::StatusOr<v1::PutResponse> response = (*stream)->Commit(offset);
  if (!response.ok()) return response.status();
  return response->stored() ? offset : 0;
}

absl::StatusOr<uint64_t> BlockMover::Fetch(const Key& key, const BlockTraits& traits,
                                           const std::string& namespace_digest, Channel* from, uint64_t view,
                                           absl::Time deadline) {
  const absl::StatusOr<Lookup> here = options_.store->Get(key, /*touch=*/false);
  if (here.ok() && here->block != nullptr) {
    if (!traits.spare) Keep(key);
    return 0;
  }
  if (traits.expires <= options_.runtime->Now()) return absl::NotFoundError("the block has expired");
  v1::GetRequest request;
  request.set_keys(KeyField(key));
  request.set_namespace_digest(namespace_digest);
  request.set_view(view);
  request.set_tenant(TenantOf(key));
  OneBlock sink(options_.max_block_bytes);
  const absl::StatusOr<v1::GetTrailer> trailer = from->Get(request, deadline, &sink);
  if (!trailer.ok()) return trailer.status();
  if (sink.missing) return absl::NotFoundError("the peer does not have the block");
  if (!sink.complete()) return absl::DataLossError("the block came incomplete");
  if (absl::Status verified = options_.reading.verify(sink.bytes, key, namespace_digest); !verified.ok())
    return verified;
  const absl::StatusOr<std::unique_ptr<Reservation>> reservation =
      options_.store->Reserve(key, sink.bytes.size(), traits);
  if (absl::IsAlreadyExists(reservation.status())) return 0;
  if (!reservation.ok()) return reservation.status();
  if (absl::Status written = (*reservation)->Write(0, sink.bytes); !written.ok()) return written;
  if (options_.reading.content_of) (*reservation)->SetContent(options_.reading.content_of((*reservation)->pieces()));
  if (absl::Status committed = (*reservation)->Commit(sink.bytes.size()); !committed.ok()) return committed;
  const absl::Span<const uint8_t> whole = sink.bytes;
  if (options_.reading.came) options_.reading.came(key, {&whole, 1});
  return sink.bytes.size();
}

absl::StatusOr<v1::ExplainResponse> BlockMover::Ask(const std::vector<Key>& keys, Channel* peer, uint64_t view,
                                                    absl::Time deadline) const {
  v1::ExplainRequest request;
  request.set_view(view);
  request.set_tenant(TenantOf(keys.front()));
  for (const Key& key : keys) request.mutable_keys()->append(KeyField(key));
  absl::StatusOr<v1::ExplainResponse> response = peer->Explain(request, deadline);
  if (response.ok() && response->fates().size() != static_cast<int>(keys.size())) {
    return absl::DataLossError(
        absl::StrCat("the peer tells of ", response->fates().size(), " blocks, asked for ", keys.size()));
  }
  return response;
}

absl::StatusOr<std::vector<bool>> BlockMover::Lacks(const std::vector<Key>& keys, Channel* peer, uint64_t view,
                                                    absl::Time deadline) {
  std::map<TenantId, std::vector<size_t>> by_tenant;
  for (size_t i = 0; i < keys.size(); ++i) by_tenant[keys[i].tenant].push_back(i);
  std::vector<bool> lacks(keys.size());
  for (const auto& [tenant, places] : by_tenant) {
    std::vector<Key> asked;
    for (const size_t place : places) asked.push_back(keys[place]);
    const absl::StatusOr<v1::ExplainResponse> response = Ask(asked, peer, view, deadline);
    if (!response.ok()) return response.status();
    for (size_t i = 0; i < places.size(); ++i) {
      lacks[places[i]] = ShouldBeSent(response->fates(static_cast<int>(i)), asked[i]);
    }
  }
  return lacks;
}

bool BlockMover::ShouldBeSent(const v1::BlockFate& fate, const Key& key) {
  switch (fate.miss()) {
    case v1::MISS_REASON_UNSPECIFIED:
      return fate.expires_unix_ms() != 0 && OursLasts(key);
    case v1::MISS_REASON_NEVER_STORED:
    case v1::MISS_REASON_EXPIRED:
    case v1::MISS_REASON_CHECKSUM:
    case v1::MISS_REASON_BEING_WRITTEN:  // the writer may fail
      return true;
    default:
      return false;
  }
}

bool BlockMover::OursLasts(const Key& key) {
  const absl::StatusOr<Lookup> found = options_.store->Get(key, /*touch=*/false);
  return found.ok() && found->block != nullptr && found->traits.expires == absl::InfiniteFuture();
}

void BlockMover::Keep(const Key& key) {
  const absl::StatusOr<Lookup> found = options_.store->Get(key, /*touch=*/false);
  if (!found.ok() || found->block == nullptr || !found->traits.spare) return;
  BlockTraits traits;
  traits.group = found->traits.group;
  // AlreadyExists says that it was prolonged; if it has gone just now, the reservation ends here.
  options_.store->Reserve(key, found->block->size_bytes(), traits).status().IgnoreError();
}

bool BlockMover::DropIfDamaged(const Key& key) {
  const absl::StatusOr<Lookup> found = options_.store->Get(key, /*touch=*/false);
  if (!found.ok() || found->block == nullptr) return false;
  std::vector<uint8_t> bytes;
  bytes.reserve(found->block->size_bytes());
  for (const absl::Span<const uint8_t> piece : found->block->pieces()) {
    bytes.insert(bytes.end(), piece.begin(), piece.end());
  }
  const absl::Status whole = options_.reading.verify(bytes, key, "");
  if (whole.ok() || !options_.store->Erase(key, MissReason::kDamaged).value_or(false)) return false;
  if (options_.damaged) options_.damaged(key, whole);
  return true;
}

absl::StatusOr<std::string> BlockMover::NamespaceOf(const Key& key) {
  const absl::StatusOr<Lookup> found = options_.store->Get(key, /*touch=*/false);
  if (!found.ok()) return found.status();
  if (found->block == nullptr) return absl::NotFoundError("the block is gone");
  return options_.reading.namespace_of(found->block->pieces());
}

}  // namespace kvist
