#include "tests/fuzz/hostile_channel.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "services/cluster/records.h"
#include "tests/fuzz/block_truth.h"

namespace kvist::fuzz {
namespace {

constexpr size_t kKeyBytes = 32;
constexpr uint32_t kMostLeaseMs = 600'000;

std::vector<std::string_view> Split(std::string_view keys) {
  KVIST_HOLDS(keys.size() % kKeyBytes == 0, keys.size(), " bytes of keys");
  std::vector<std::string_view> split;
  for (size_t i = 0; i < keys.size(); i += kKeyBytes) split.push_back(keys.substr(i, kKeyBytes));
  return split;
}

}  // namespace

// What one Get sends for one key.
struct Item {
  v1::GetHeader header;
  std::string bytes;
};

class HostileChannel final : public Channel {
 public:
  HostileChannel(HostileCluster* cluster, size_t node)
      : cluster_(*cluster), answers_(*cluster->answers_), counts_(cluster->counts_), node_(node) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest& request, absl::Time deadline) override {
    KVIST_HOLDS(request.lease_ms() <= kMostLeaseMs, request.lease_ms());
    const Turn turn = Reach(deadline);
    if (!turn.status.ok()) return turn.status;
    v1::MatchResponse response;
    response.set_view(1);
    for (const v1::Chain& chain : request.chains()) *response.add_chains() = MatchOne(chain, request.lease_ms());
    if (turn.twisted) return TwistMatch(request, std::move(response));
    return Sent(response);
  }

  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest& request, absl::Time deadline) override {
    const Turn turn = Reach(deadline);
    if (!turn.status.ok()) return turn.status;
    v1::EraseResponse response;
    for (const std::string_view key : Split(request.keys())) response.add_erased(holds().erase(*BlockOf(key)) > 0);
    return Answer(turn, std::move(response));
  }

  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest&, absl::Time deadline) override {
    return Answer(Reach(deadline), v1::ReleaseResponse());
  }
  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest&, absl::Time deadline) override {
    return Answer(Reach(deadline), v1::DescribeResponse());
  }
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest&, absl::Time deadline) override {
    return Answer(Reach(deadline), v1::ReportResponse());
  }
  absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName&, absl::string_view,
                                                    absl::Time deadline) override {
    return Answer(Reach(deadline), v1::PutProfileResponse());
  }
  absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest&, absl::Time deadline) override {
    const Turn turn = Reach(deadline);
    if (!turn.status.ok()) return turn.status;
    return std::string();
  }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest&, absl::Time deadline) override {
    return Answer(Reach(deadline), v1::AdoptResponse());
  }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest&, absl::Time deadline) override {
    return Answer(Reach(deadline), v1::DrainResponse());
  }

  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time deadline) override {
    v1::ServerInfoResponse response;
    response.set_version("fuzz");
    response.add_codecs(v1::CODEC_LADDER);
    return Answer(Reach(deadline), std::move(response));
  }

  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time deadline) override {
    const Turn turn = Reach(deadline);
    v1::GetViewResponse response;
    *response.mutable_view() = ViewToWire(cluster_.FirstView());
    if (turn.status.ok() && turn.twisted && answers_.Flag()) {
      *response.mutable_view() = cluster_.AnyView();
      return Sent(response);
    }
    return Answer(turn, std::move(response));
  }

  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) override {
    const Turn turn = Reach(deadline);
    if (!turn.status.ok()) return turn.status;
    v1::ExplainResponse response;
    for (const std::string_view key : Split(request.keys())) {
      v1::BlockFate& fate = *response.add_fates();
      fate.set_miss(holds().count(*BlockOf(key)) > 0 ? v1::MISS_REASON_UNSPECIFIED : v1::MISS_REASON_EVICTED);
      fate.set_size_bytes(fate.miss() == v1::MISS_REASON_UNSPECIFIED ? 100 : 0);
    }
    if (turn.twisted && response.fates_size() > 0 && answers_.Flag()) TwistFates(&response);
    return Answer(turn, std::move(response));
  }

  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) override {
    const Turn turn = Reach(deadline);
    if (!turn.status.ok()) return turn.status;
    uint32_t number = 0;
    for (const std::string_view key : Split(request.keys())) {
      if (absl::Status sent = SendItem(key, number++, deadline, sink); !sent.ok()) return sent;
    }
    v1::GetTrailer trailer;
    trailer.set_view(1);
    return Answer(turn, std::move(trailer));
  }

  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) override;

 private:
  friend class HostilePut;
  using Turn = HostileCluster::Turn;

  HostileCluster::Holds& holds() { return cluster_.holds_[node_]; }

  Turn Reach(absl::Time deadline) {
    if ((cluster_.options_.down >> node_ & 1) != 0) return {absl::UnavailableError("connection refused")};
    return cluster_.Answer(deadline);
  }

  template <typename Message>
  absl::StatusOr<Message> Sent(const Message& message) {
    counts_.answer_bytes += message.ByteSizeLong();
    return message;
  }

  // A twisted answer has fields of the input's own bytes, over the honest ones or in their place.
  template <typename Message>
  absl::StatusOr<Message> Answer(const Turn& turn, Message message) {
    if (!turn.status.ok()) return turn.status;
    if (!turn.twisted) return Sent(message);
    const uint8_t how = answers_.Byte();
    if ((how & 1) != 0) message.Clear();
    const std::string bytes = answers_.Text(how / 2);
    if (!message.MergeFromString(bytes)) return absl::InternalError("a message cannot be read");
    return Sent(message);
  }

  v1::ChainMatch MatchOne(const v1::Chain& chain, uint32_t lease_ms) {
    v1::ChainMatch match;
    for (const std::string_view key : Split(chain.keys())) {
      if (holds().count(*BlockOf(key)) == 0) {
        match.set_first_miss(v1::MISS_REASON_NEVER_STORED);
        break;
      }
      match.set_hits(match.hits() + 1);
    }
    if (lease_ms == 0 || match.hits() == 0) return match;
    match.set_lease(++cluster_.last_lease_);
    match.set_lease_ms(lease_ms);
    return match;
  }

  absl::StatusOr<v1::MatchResponse> TwistMatch(const v1::MatchRequest& request, v1::MatchResponse response) {
    for (v1::ChainMatch& chain : *response.mutable_chains()) {
      const uint8_t how = answers_.Byte();
      if ((how & 1) != 0) chain.set_hits((how & 32) != 0 ? static_cast<uint32_t>(answers_.Number(4)) : how / 64);
      if ((how & 2) != 0) chain.set_lease(answers_.Number(2));
      if ((how & 4) != 0) chain.set_lease_ms(static_cast<uint32_t>(answers_.Number(4)));
      if ((how & 8) != 0) chain.set_first_miss(static_cast<v1::MissReason>(answers_.Byte()));
      if ((how & 16) != 0 && chain.hits() < 64) chain.set_hits(chain.hits() + 1);
    }
    const uint8_t how = answers_.Byte();
    if ((how & 1) != 0) *response.mutable_newer_view() = cluster_.AnyView();
    if ((how & 2) != 0) response.set_view(answers_.Number((how & 4) != 0 ? 8 : 1));
    if ((how & 8) != 0) response.mutable_load()->set_queued_bytes(answers_.Number(8));
    if ((how & 16) != 0) AddHot(request, &response);
    if ((how & 32) != 0 && response.chains_size() > 0) response.mutable_chains()->RemoveLast();
    return Answer({absl::OkStatus(), (how & 192) == 192}, std::move(response));
  }

  void AddHot(const v1::MatchRequest& request, v1::MatchResponse* response) {
    for (const v1::Chain& chain : request.chains()) {
      v1::HotSegment& hot = *response->add_hot();
      const std::vector<std::string_view> keys = Split(chain.keys());
      if (!keys.empty()) hot.set_head(std::string(keys[answers_.Below(keys.size())]));
      for (int i = answers_.Byte() % 12; i > 0; --i) hot.add_nodes(absl::StrCat("n", answers_.Below(6)));
    }
  }

  void TwistFates(v1::ExplainResponse* response) {
    v1::BlockFate& fate =
        *response->mutable_fates(static_cast<int>(answers_.Below(static_cast<uint64_t>(response->fates_size()))));
    fate.set_miss(static_cast<v1::MissReason>(answers_.Byte() % 20));
    fate.set_tier(static_cast<v1::Tier>(answers_.Byte()));
    fate.set_gone_unix_ms(static_cast<int64_t>(answers_.Number(8)));
    fate.set_made_room_for(answers_.Text(answers_.Byte() % 40));
  }

  // --- Get ---
  absl::Status SendItem(std::string_view key, uint32_t number, absl::Time deadline, GetSink* sink) {
    const std::optional<size_t> block = BlockOf(key);
    KVIST_HOLDS(block.has_value() && *block < kTrueBlocks, "a key that nobody asked for");
    Item item;
    item.header.set_item(number);
    const auto held = holds().find(*block);
    if (held == holds().end()) item.header.set_miss(v1::MISS_REASON_EVICTED);
    if (held != holds().end()) item.bytes = TrueForms(*block)[held->second].bytes;
    const uint8_t how = answers_.Byte();
    const bool odd = how >= 160;
    if (odd) Change(how % 8, *block, &item);
    if (!odd || how % 8 != 1) item.header.set_sent_bytes(item.bytes.size());
    if (odd && how % 16 == 15) {
      absl::StatusOr<v1::GetHeader> header = Answer({absl::OkStatus(), true}, item.header);
      if (!header.ok()) return header.status();
      item.header = *std::move(header);
    }
    counts_.answer_bytes += item.bytes.size() + 16;
    if (odd && how % 8 == 2) {
      if (absl::Status wait = cluster_.Wait(absl::Milliseconds(answers_.Byte()), deadline); !wait.ok()) return wait;
    }
    if (absl::Status taken = sink->OnHeader(item.header); !taken.ok()) return taken;
    return SendParts(item.bytes, number, odd && how % 8 == 3, deadline, sink);
  }

  void Change(int how, size_t block, Item* item) {
    switch (how) {
      case 0:
        item->header.set_miss(static_cast<v1::MissReason>(answers_.Byte() % 40));
        if (answers_.Flag()) item->bytes.clear();
        return;
      case 1:
        item->header.set_sent_bytes(answers_.Number(answers_.Flag() ? 8 : 2));
        return;
      case 4:
        item->header.clear_miss();
        item->bytes = ForeignBlock(block, answers_.Below(kForeignKinds));
        return;
      case 5:
        item->header.clear_miss();
        item->bytes = TrueForms(block)[answers_.Below(5)].bytes;
        return;
      case 6:
        return Damage(&item->bytes);
      default:
        if (answers_.Flag()) item->header.set_item(answers_.Byte());
        return;
    }
  }

  // Up to four bytes differ, or the end is missing: too little to make another block whose checksums hold.
  void Damage(std::string* bytes) {
    if (bytes->empty()) return;
    ++counts_.damaged;
    const uint8_t how = answers_.Byte();
    if ((how & 3) == 0) return bytes->resize(answers_.Number(2) % bytes->size());
    for (int i = how & 3; i >= 0; --i) {
      char& byte = (*bytes)[answers_.Number(2) % bytes->size()];
      byte = static_cast<char>(byte ^ answers_.Byte());
    }
  }

  absl::Status SendParts(const std::string& bytes, uint32_t number, bool odd, absl::Time deadline, GetSink* sink) {
    const size_t part_bytes = cluster_.options_.part_bytes;
    for (size_t sent = 0; sent < bytes.size();) {
      size_t size_bytes = std::min(part_bytes, bytes.size() - sent);
      uint64_t offset = sent;
      uint32_t item = number;
      const uint8_t how = odd ? answers_.Byte() : 0;
      if ((how & 3) == 1) offset = (how & 4) != 0 ? answers_.Number(8) : sent + answers_.Byte() - 64;
      if ((how & 3) == 2) size_bytes = std::min<size_t>(answers_.Number(2), bytes.size() - sent);
      if ((how & 24) == 8) item = answers_.Byte();
      if ((how & 24) == 16) break;  // the rest is left out
      if ((how & 96) == 32) {
        if (absl::Status wait = cluster_.Wait(absl::Milliseconds(answers_.Byte()), deadline); !wait.ok()) return wait;
      }
      const absl::StatusOr<absl::Span<uint8_t>> place = sink->OnPart(item, offset, size_bytes);
      if (!place.ok()) return place.status();
      KVIST_HOLDS(place->size() == size_bytes, "a place of ", place->size(), " for ", size_bytes, " bytes");
      std::memcpy(place->data(), bytes.data() + sent, size_bytes);
      sent += (how & 128) != 0 ? 0 : std::max<size_t>(size_bytes, 1);
    }
    return absl::OkStatus();
  }

  HostileCluster& cluster_;
  Input& answers_;
  HostileCluster::Counts& counts_;
  const size_t node_;
};

// What a Put sends is the true block.
class HostilePut final : public PutStream {
 public:
  HostilePut(HostileChannel* channel, size_t block, uint64_t reserved_bytes, absl::Time deadline)
      : cluster_(channel->cluster_), node_(channel->node_), block_(block), deadline_(deadline) {
    bytes_.resize(reserved_bytes);
  }

  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) override {
    KVIST_HOLDS(offset <= bytes_.size() && bytes.size() <= bytes_.size() - offset, "more than was reserved");
    std::memcpy(bytes_.data() + offset, bytes.data(), bytes.size());
    return cluster_.Answer(deadline_).status;
  }

  absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) override {
    KVIST_HOLDS(size_bytes <= bytes_.size(), "more than was reserved");
    bytes_.resize(size_bytes);
    CheckTrue();
    const HostileCluster::Turn turn = cluster_.Answer(deadline_);
    const bool broken = turn.twisted && cluster_.answers_->Flag();  // it was stored, but nobody hears of it
    if ((turn.status.ok() || broken) && cluster_.options_.own_floor) {
      cluster_.holds_[node_][block_] = cluster_.options_.put_form;
    }
    if (!turn.status.ok()) return turn.status;
    if (broken) return absl::UnavailableError("the connection broke");
    v1::PutResponse response;
    response.set_stored(!turn.twisted);
    response.set_view(turn.twisted ? cluster_.answers_->Byte() : 1);
    cluster_.counts_.commits += response.stored();
    return response;
  }

 private:
  void CheckTrue() const {
    const TrueForm& form = TrueForms(block_)[cluster_.options_.put_form];
    if (cluster_.options_.own_floor) {
      KVIST_HOLDS(bytes_ == form.bytes, "block ", block_, " is encoded otherwise");
      return;
    }
    const auto view = BlockView::Parse({reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()});
    KVIST_HOLDS(view.ok(), view.status().message());
    KVIST_HOLDS(view->Verify(0, view->shape().layers, 0).ok(), "a plane of what was sent is damaged");
    KVIST_HOLDS(view->identity().key == TrueChain()[block_].bytes, "another key");
  }

  HostileCluster& cluster_;
  const size_t node_, block_;
  const absl::Time deadline_;
  std::string bytes_;
};

absl::StatusOr<std::unique_ptr<PutStream>> HostileChannel::Put(const v1::PutReserve& reserve, absl::Time deadline) {
  const std::optional<size_t> block = BlockOf(reserve.key());
  KVIST_HOLDS(block.has_value() && *block < kTrueBlocks, "a key that nobody asked for");
  KVIST_HOLDS(BlockOf(reserve.segment_head()).has_value(), "a segment's head is a key of the chain");
  KVIST_HOLDS(reserve.namespace_digest().size() == 16 && !reserve.copy(), "what a worker reserves");
  KVIST_HOLDS(reserve.size_bytes() <= MaxBlockBytes(TrueNamespace().Shape(), Codec::kLadder) ||
                  reserve.size_bytes() <= MaxBlockBytes(TrueNamespace().Shape(), Codec::kRaw16),
              reserve.size_bytes());
  const Turn turn = Reach(deadline);
  ++counts_.puts;
  if (!turn.status.ok()) return turn.status;
  if (turn.twisted || holds().count(*block) > 0) {
    ++counts_.exists;
    return absl::AlreadyExistsError("the node has this block, or another is writing it");
  }
  return std::make_unique<HostilePut>(this, *block, reserve.size_bytes(), deadline);
}

std::unique_ptr<Channel> NewHostileChannel(HostileCluster* cluster, size_t node) {
  return std::make_unique<HostileChannel>(cluster, node);
}

}  // namespace kvist::fuzz
