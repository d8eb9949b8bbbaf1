#include "services/worker/remote_store.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/transport/miss_reason.h"

namespace kvist {
namespace {

constexpr size_t kAlignment = 64;

// One block's bytes in this process.
class BlockBytes {
 public:
  explicit BlockBytes(size_t size_bytes)
      : bytes_(static_cast<uint8_t*>(
            std::aligned_alloc(kAlignment, (size_bytes + kAlignment - 1) / kAlignment * kAlignment))),
        size_bytes_(bytes_ == nullptr ? 0 : size_bytes),
        piece_(bytes_.get(), size_bytes_) {}

  bool exists() const { return bytes_ != nullptr; }
  absl::Span<uint8_t> span() const { return {bytes_.get(), size_bytes_}; }
  absl::Span<const absl::Span<const uint8_t>> pieces() const { return {&piece_, 1}; }

 private:
  struct Free {
    void operator()(uint8_t* bytes) const { std::free(bytes); }
  };
  const std::unique_ptr<uint8_t, Free> bytes_;
  const size_t size_bytes_;
  const absl::Span<const uint8_t> piece_;
};

class FetchedBlock final : public PinnedBlock {
 public:
  explicit FetchedBlock(std::unique_ptr<BlockBytes> bytes) : bytes_(std::move(bytes)) {}
  size_t size_bytes() const override { return bytes_->span().size(); }
  absl::Span<const absl::Span<const uint8_t>> pieces() const override { return bytes_->pieces(); }
  void Unpin() override { delete this; }

 private:
  const std::unique_ptr<BlockBytes> bytes_;
};

// Receives the one item of a Get.
class OneBlock final : public GetSink {
 public:
  explicit OneBlock(uint64_t max_block_bytes) : max_block_bytes_(max_block_bytes) {}

  absl::Status OnHeader(const v1::GetHeader& header) override {
    if (header.item() != 0 || miss != v1::MISS_REASON_UNSPECIFIED || bytes != nullptr) return Misplaced("a header");
    miss = header.miss();
    if (miss != v1::MISS_REASON_UNSPECIFIED) return absl::OkStatus();
    if (header.sent_bytes() == 0) return Misplaced("an empty block");
    if (header.sent_bytes() > max_block_bytes_) {
      return absl::DataLossError(absl::StrCat("the node sends a block of ", header.sent_bytes(),
                                              " bytes; it takes none above ", max_block_bytes_));
    }
    bytes = std::make_unique<BlockBytes>(header.sent_bytes());
    return bytes->exists()
               ? absl::OkStatus()
               : absl::ResourceExhaustedError(absl::StrCat("no memory for a block of ", header.sent_bytes(), " bytes"));
  }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t item, uint64_t offset, size_t size_bytes) override {
    if (item != 0 || bytes == nullptr || offset != received_bytes ||
        size_bytes > bytes->span().size() - received_bytes) {
      return Misplaced("a part");
    }
    received_bytes += size_bytes;
    return bytes->span().subspan(offset, size_bytes);
  }
  bool Complete() const { return bytes != nullptr && received_bytes == bytes->span().size(); }

  v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;
  std::unique_ptr<BlockBytes> bytes;
  size_t received_bytes = 0;

 private:
  static absl::Status Misplaced(const char* what) {
    return absl::DataLossError(absl::StrCat("the node sent ", what, " that does not belong into this answer"));
  }

  const uint64_t max_block_bytes_;
};

class RemoteReservation final : public Reservation {
 public:
  RemoteReservation(std::unique_ptr<PutStream> stream, std::unique_ptr<BlockBytes> bytes)
      : stream_(std::move(stream)), bytes_(std::move(bytes)) {}

  absl::Status Write(size_t offset, absl::Span<const uint8_t> bytes) override {
    if (stream_ == nullptr) return Spent();
    const absl::Span<uint8_t> reserved = bytes_->span();
    if (offset > reserved.size() || bytes.size() > reserved.size() - offset) {
      return absl::OutOfRangeError(
          absl::StrCat(bytes.size(), " bytes at ", offset, " are beyond the ", reserved.size(), " reserved"));
    }
    if (!bytes.empty()) std::memcpy(reserved.data() + offset, bytes.data(), bytes.size());
    return absl::OkStatus();
  }

  absl::Span<const absl::Span<const uint8_t>> pieces() const override { return bytes_->pieces(); }

  absl::Status Commit(size_t size_bytes) override {
    if (stream_ == nullptr) return Spent();
    if (size_bytes == 0 || size_bytes > bytes_->span().size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("commit of ", size_bytes, " bytes of the ", bytes_->span().size(), " reserved"));
    }
    const std::unique_ptr<PutStream> stream = std::move(stream_);
    if (absl::Status written = stream->Write(0, bytes_->span().first(size_bytes)); !written.ok()) return written;
    const absl::StatusOr<v1::PutResponse> response = stream->Commit(size_bytes);
    if (!response.ok()) return response.status();
    return response->stored() ? absl::OkStatus()
                              : absl::AlreadyExistsError("the node has this block, or another is writing it");
  }

 private:
  static absl::Status Spent() { return absl::FailedPreconditionError("the reservation is spent"); }

  std::unique_ptr<PutStream> stream_;
  const std::unique_ptr<BlockBytes> bytes_;
};

std::string KeyField(const Key& key) { return std::string(key.bytes.begin(), key.bytes.end()); }

class RemoteStore final : public BlockStore {
 public:
  explicit RemoteStore(RemoteStoreOptions options) : options_(std::move(options)) {}

  absl::StatusOr<MatchResult> Match(absl::Span<const Key> chain, absl::Duration lease_ttl) override {
    v1::MatchRequest request;
    std::string* keys = request.add_chains()->mutable_keys();
    for (const Key& key : chain) *keys += KeyField(key);
    // The wire counts milliseconds: what was asked is rounded up, so that a short lease does not become none.
    request.set_lease_ms(
        static_cast<uint32_t>(absl::ToInt64Milliseconds(absl::Ceil(lease_ttl, absl::Milliseconds(1)))));
    request.set_explain(true);
    request.set_view(options_.view);
    const absl::StatusOr<v1::MatchResponse> response = options_.channel->Match(request, Deadline());
    if (!response.ok()) return response.status();
    if (response->chains_size() != 1 || response->chains(0).hits() > chain.size()) {
      return absl::InternalError("the answer to Match does not fit the request");
    }
    const v1::ChainMatch& match = response->chains(0);
    MatchResult result;
    result.hits = match.hits();
    result.miss = FromWire(match.first_miss());
    result.hit_bytes = match.hit_bytes();
    result.lease = LeaseId{match.lease()};
    result.lease_ttl = absl::Milliseconds(match.lease_ms());
    return result;
  }

  absl::StatusOr<Lookup> Get(const Key& key, bool touch) override {
    v1::GetRequest request;
    request.set_keys(KeyField(key));
    request.set_view(options_.view);
    OneBlock sink(options_.max_block_bytes);
    const absl::StatusOr<v1::GetTrailer> trailer = options_.channel->Get(request, Deadline(), &sink);
    if (!trailer.ok()) return trailer.status();
    if (sink.miss == v1::MISS_REASON_CHECKSUM)
      return absl::DataLossError(absl::StrCat("the node's copy of ", key.Hex(), " is damaged"));
    Lookup lookup;
    if (sink.miss != v1::MISS_REASON_UNSPECIFIED) {
      lookup.miss = FromWire(sink.miss);
      return lookup;
    }
    if (!sink.Complete()) return absl::DataLossError("the node ended a Get before the block was complete");
    lookup.block.reset(new FetchedBlock(std::move(sink.bytes)));
    lookup.tier = Tier::kHost;
    return lookup;
  }

  absl::StatusOr<std::unique_ptr<Reservation>> Reserve(const Key& key, size_t size_bytes,
                                                       const BlockTraits& traits) override {
    v1::PutReserve reserve;
    reserve.set_key(KeyField(key));
    reserve.set_size_bytes(size_bytes);
    reserve.set_namespace_digest(std::string(options_.namespace_digest.begin(), options_.namespace_digest.end()));
    reserve.set_view(options_.view);
    if (traits.group != Key{}) reserve.set_segment_head(KeyField(traits.group));
    if (traits.expires != absl::InfiniteFuture()) {
      const absl::Duration ttl = traits.expires - options_.store_clock();
      if (ttl <= absl::ZeroDuration()) {
        return absl::InvalidArgumentError(absl::StrCat("the block would expire at ", absl::FormatTime(traits.expires),
                                                       ", which is past: give a later time"));
      }
      reserve.set_ttl_ms(absl::ToInt64Milliseconds(absl::Ceil(ttl, absl::Milliseconds(1))));
    }
    absl::StatusOr<std::unique_ptr<PutStream>> stream = options_.channel->Put(reserve, Deadline());
    if (!stream.ok()) return stream.status();
    auto bytes = std::make_unique<BlockBytes>(size_bytes);
    if (!bytes->exists())
      return absl::ResourceExhaustedError(absl::StrCat("no memory for a block of ", size_bytes, " bytes"));
    return std::make_unique<RemoteReservation>(*std::move(stream), std::move(bytes));
  }

  // The node forgets it as erased by request, whatever `why`.
  absl::StatusOr<bool> Erase(const Key& key, MissReason why) override {
    if (why != MissReason::kErased && why != MissReason::kDamaged) {
      return absl::InvalidArgumentError("erase: a block is erased by request (kErased) or as damaged (kDamaged)");
    }
    v1::EraseRequest request;
    request.set_keys(KeyField(key));
    request.set_view(options_.view);
    const absl::StatusOr<v1::EraseResponse> response = options_.channel->Erase(request, Deadline());
    if (!response.ok()) return response.status();
    return response->erased_size() == 1 && response->erased(0);
  }

  absl::StatusOr<ScanResult> Scan(uint64_t cursor, size_t limit) override {
    return absl::UnimplementedError("a node does not list its blocks to others");
  }

  absl::Status Release(LeaseId lease) override {
    v1::ReleaseRequest request;
    request.add_leases(lease.value);
    return options_.channel->Release(request, Deadline()).status();
  }

  absl::StatusOr<StoreStats> Stats() override {
    const absl::StatusOr<v1::ServerInfoResponse> response = options_.channel->ServerInfo(Deadline());
    if (!response.ok()) return response.status();
    const v1::StoreState& state = response->store();
    StoreStats stats;
    stats.capacity_bytes = state.capacity_bytes();
    stats.used_bytes = state.used_bytes();
    stats.pinned_bytes = state.pinned_bytes();
    stats.reserved_bytes = state.reserved_bytes();
    stats.blocks = state.blocks();
    stats.leases = state.leases();
    stats.evicted_blocks = state.evicted_blocks();
    stats.evicted_bytes = state.evicted_bytes();
    return stats;
  }

 private:
  absl::Time Deadline() const { return options_.clock() + options_.deadline; }

  const RemoteStoreOptions options_;
};

}  // namespace

std::unique_ptr<BlockStore> NewRemoteStore(RemoteStoreOptions options) {
  return std::make_unique<RemoteStore>(std::move(options));
}

}  // namespace kvist
