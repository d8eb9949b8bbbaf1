#include "tests/services/cluster/store_cluster.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "services/cluster/ring.h"
#include "services/transport/miss_reason.h"
#include "services/transport/retry_hint.h"

namespace kvist::testing {
namespace {

constexpr size_t kNamespaceBytes = 16, kDigestBytes = 8;

std::string Flat(absl::Span<const absl::Span<const uint8_t>> pieces) {
  std::string bytes;
  for (const absl::Span<const uint8_t> piece : pieces) {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  return bytes;
}

Key KeyFrom(const std::string& bytes) {
  Key key;
  std::memcpy(key.bytes.data(), bytes.data(), Key::kBytes);
  return key;
}

absl::Span<const uint8_t> SpanOf(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

std::string Digest(const std::string& bytes) {
  const uint64_t hash = XXH3_64bits(bytes.data(), bytes.size());
  return std::string(reinterpret_cast<const char*>(&hash), sizeof(hash));
}

absl::Status Verify(const std::string& block, const Key& key, const std::string& namespace_digest) {
  if (block.size() < kNamespaceBytes + Key::kBytes + kDigestBytes) return absl::InvalidArgumentError("not a block");
  const size_t end = block.size() - kDigestBytes;
  if (Digest(block.substr(0, end)) != block.substr(end)) return absl::DataLossError("the digest does not hold");
  if (KeyFrom(block.substr(kNamespaceBytes)) != key) return absl::FailedPreconditionError("another key");
  if (!namespace_digest.empty() && block.substr(0, kNamespaceBytes) != namespace_digest) {
    return absl::FailedPreconditionError("another namespace");
  }
  return absl::OkStatus();
}

}  // namespace

Key NumberedKey(uint64_t number) {
  Key key;
  for (uint8_t& byte : key.bytes) {
    number = number * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<uint8_t>(number >> 56);
  }
  return key;
}

std::string NumberedBlock(const Key& key, size_t size_bytes, char fill, const std::string& namespace_digest) {
  std::string block = namespace_digest + std::string(key.bytes.begin(), key.bytes.end());
  block.resize(size_bytes - kDigestBytes, fill);
  return block + Digest(block);
}

BlockReading TestReading() {
  BlockReading reading;
  reading.verify = [](absl::Span<const uint8_t> bytes, const Key& key, const std::string& namespace_digest) {
    return Verify(std::string(bytes.begin(), bytes.end()), key, namespace_digest);
  };
  reading.namespace_of = [](absl::Span<const absl::Span<const uint8_t>> pieces) -> absl::StatusOr<std::string> {
    return Flat(pieces).substr(0, kNamespaceBytes);
  };
  return reading;
}

// One Put: a copy of a block that is there takes its parts and says at the end that it was not stored, as a node does.
class StorePut final : public PutStream {
 public:
  StorePut(StoreCluster* cluster, size_t node, v1::PutReserve reserve, std::unique_ptr<Reservation> reservation)
      : cluster_(cluster), node_(node), reserve_(std::move(reserve)), reservation_(std::move(reservation)) {}

  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) override;
  absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) override;

 private:
  StoreCluster* const cluster_;
  const size_t node_;
  const v1::PutReserve reserve_;
  const std::unique_ptr<Reservation> reservation_;
};

class StoreChannel final : public Channel {
 public:
  StoreChannel(StoreCluster* cluster, size_t node) : cluster_(cluster), node_(node) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest&, absl::Time) override { return Unused(); }
  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest&, absl::Time) override { return Unused(); }
  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest&, absl::Time) override { return Unused(); }
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time) override { return Unused(); }
  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest&, absl::Time) override { return Unused(); }
  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time) override { return Unused(); }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest&, absl::Time) override { return Unused(); }
  absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName&, absl::string_view, absl::Time) override {
    return Unused();
  }
  absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest&, absl::Time) override { return Unused(); }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest&, absl::Time) override { return Unused(); }

  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest& request, absl::Time deadline) override {
    if (absl::Status status = Reach(deadline); !status.ok()) return status;
    v1::ReportResponse response;
    const Key key = KeyFrom(request.keys());
    if (!Verify(cluster_->Bytes(node_, key), key, "").ok()) {
      response.set_damaged(cluster_->store(node_).Erase(key, MissReason::kDamaged).value_or(false));
    }
    return response;
  }

  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) override {
    if (absl::Status status = Reach(deadline); !status.ok()) return status;
    v1::ExplainResponse response;
    for (size_t at = 0; at < request.keys().size(); at += Key::kBytes) {
      const auto lookup = cluster_->store(node_).Get(KeyFrom(request.keys().substr(at)), /*touch=*/false);
      v1::BlockFate* const fate = response.add_fates();
      fate->set_miss(ToWire(lookup->miss));
      const absl::Time expires = lookup->traits.expires;
      if (expires != absl::InfiniteFuture()) fate->set_expires_unix_ms(absl::ToUnixMillis(expires));
    }
    return response;
  }

  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) override {
    if (absl::Status status = Reach(deadline); !status.ok()) return status;
    const auto lookup = cluster_->store(node_).Get(KeyFrom(request.keys()));
    v1::GetHeader header;
    header.set_miss(ToWire(lookup->miss));
    const std::string bytes = lookup->block == nullptr ? "" : Flat(lookup->block->pieces());
    header.set_block_bytes(bytes.size());
    header.set_sent_bytes(bytes.size());
    if (absl::Status status = sink->OnHeader(header); !status.ok()) return status;
    if (!bytes.empty()) {
      const absl::StatusOr<absl::Span<uint8_t>> place = sink->OnPart(0, 0, bytes.size());
      if (!place.ok()) return place.status();
      std::memcpy(place->data(), bytes.data(), bytes.size());
      std::lock_guard lock(cluster_->mutex_);
      int& damaged = cluster_->nodes_[node_]->faults.damaged_gets;
      if (damaged > 0) place->back() ^= 1;
      damaged -= damaged > 0;
    }
    return v1::GetTrailer();
  }

  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) override;

 private:
  static absl::Status Unused() { return absl::UnimplementedError("nodes do not call this"); }
  absl::Status Reach(absl::Time deadline);

  StoreCluster* const cluster_;
  const size_t node_;
};

absl::Status StoreChannel::Reach(absl::Time deadline) {
  std::unique_lock lock(cluster_->mutex_);
  const StoreCluster::TestNode& node = *cluster_->nodes_[node_];
  if (node.faults.stuck &&
      !cluster_->faults_changed_->WaitUntil(lock, deadline, [&] { return !node.faults.stuck || !node.alive; })) {
    return absl::DeadlineExceededError("the node does not answer");
  }
  return node.faults.down || !node.alive ? absl::UnavailableError("connection refused") : absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PutStream>> StoreChannel::Put(const v1::PutReserve& reserve, absl::Time deadline) {
  std::function<void()> on_put;
  {
    std::lock_guard lock(cluster_->mutex_);
    ++cluster_->nodes_[node_]->puts;
    on_put = cluster_->nodes_[node_]->faults.on_put;
  }
  if (on_put) on_put();
  if (absl::Status status = Reach(deadline); !status.ok()) return status;
  {
    std::lock_guard lock(cluster_->mutex_);
    if (const auto hint = cluster_->nodes_[node_]->faults.full) {
      return WithRetryHint(absl::ResourceExhaustedError("full"), *hint);
    }
    if (cluster_->nodes_[node_]->faults.draining) return absl::FailedPreconditionError("draining");
  }
  BlockTraits traits;
  traits.group = KeyFrom(reserve.segment_head());
  if (reserve.ttl_ms() > 0) traits.expires = RealRuntime()->Now() + absl::Milliseconds(reserve.ttl_ms());
  traits.spare = reserve.ttl_ms() > 0 && reserve.replicas() == 0;
  auto reservation = cluster_->store(node_).Reserve(KeyFrom(reserve.key()), reserve.size_bytes(), traits);
  if (!reservation.ok() && !absl::IsAlreadyExists(reservation.status())) return reservation.status();
  if (!reservation.ok() && !cluster_->Has(node_, KeyFrom(reserve.key()))) return absl::AbortedError("being written");
  return std::make_unique<StorePut>(cluster_, node_, reserve, reservation.ok() ? *std::move(reservation) : nullptr);
}

absl::Status StorePut::Write(uint64_t offset, absl::Span<const uint8_t> bytes) {
  {
    std::lock_guard lock(cluster_->mutex_);
    cluster_->nodes_[node_]->put_bytes += bytes.size();
  }
  return reservation_ == nullptr ? absl::OkStatus() : reservation_->Write(offset, bytes);
}

absl::StatusOr<v1::PutResponse> StorePut::Commit(uint64_t size_bytes) {
  v1::PutResponse response;
  if (reservation_ == nullptr) return response;
  const std::string bytes = Flat(reservation_->pieces()).substr(0, size_bytes);
  if (absl::Status status = Verify(bytes, KeyFrom(reserve_.key()), reserve_.namespace_digest()); !status.ok()) {
    return status;
  }
  if (absl::Status status = reservation_->Commit(size_bytes); !status.ok()) return status;
  if (reserve_.replicas() > 1) cluster_->replicator(node_).Copied(0, reserve_.namespace_digest(), reserve_.replicas());
  response.set_stored(true);
  return response;
}

StoreCluster::StoreCluster(size_t nodes, uint64_t capacity_bytes, std::function<void(ReplicatorOptions&)> tune)
    : capacity_bytes_(capacity_bytes), tune_(std::move(tune)), faults_changed_(RealRuntime()->NewCondition()) {
  View view{ViewNumber{1}, {}};
  for (size_t i = 0; i < nodes; ++i) {
    Node node;
    node.id = id(i);
    node.address = {node.id.value, 1};
    node.incarnation = 1;
    view.nodes.push_back(node);
    nodes_.push_back(std::make_unique<TestNode>());
  }
  view_ = std::make_shared<const View>(std::move(view));
  for (size_t i = 0; i < nodes; ++i) {
    HostTierOptions tier;
    tier.capacity_bytes = capacity_bytes_;
    tier.clock = RealRuntime()->clock();
    nodes_[i]->store = *HostTier::Create(tier);
  }
  for (size_t i = 0; i < nodes; ++i) Start(i);
  Holds([this] { return AllIdle(); });  // each has seen the view: later passes have a cause of the test's
}

StoreCluster::~StoreCluster() {
  for (size_t i = 0; i < nodes_.size(); ++i) Set(i, Faults{});
  for (const auto& node : nodes_) node->replicator.load()->Stop();
}

void StoreCluster::Start(size_t node) {
  ReplicatorOptions options;
  options.self = id(node);
  options.store = nodes_[node]->store.get();
  options.transport = this;
  options.runtime = RealRuntime();
  options.view = [this] { return view(); };
  options.reading = TestReading();
  options.capacity_bytes = capacity_bytes_;
  options.housekeeping = absl::Milliseconds(10);
  options.call_deadline = absl::Milliseconds(200);
  if (tune_) tune_(options);
  nodes_[node]->lives.push_back(std::make_unique<Replicator>(std::move(options)));
  nodes_[node]->replicator = nodes_[node]->lives.back().get();
}

std::unique_ptr<Channel> StoreCluster::Connect(const std::string& address) {
  return std::make_unique<StoreChannel>(this, NodeOf(NodeId{address.substr(0, address.find(':'))}));
}

std::shared_ptr<const View> StoreCluster::view() const {
  std::lock_guard lock(mutex_);
  return view_;
}

void StoreCluster::SetView(View view) {
  std::lock_guard lock(mutex_);
  view.number.value = view_->number.value + 1;
  view_ = std::make_shared<const View>(std::move(view));
}

void StoreCluster::Kill(size_t node) {
  {
    std::lock_guard lock(mutex_);
    nodes_[node]->alive = false;
    faults_changed_->NotifyAll();
  }
  replicator(node).Stop();
}

// The store is emptied and not replaced: a call that is late may still use it.
void StoreCluster::Restart(size_t node) {
  for (uint64_t cursor = 0;;) {
    const auto scanned = store(node).Scan(cursor, 256);
    for (const ScannedBlock& block : scanned->blocks) store(node).Erase(block.key, MissReason::kDamaged).value();
    if ((cursor = scanned->next) == 0) break;
  }
  View restarted = *view();
  for (Node& member : restarted.nodes) {
    if (member.id == id(node)) ++member.incarnation;
  }
  Start(node);
  {
    std::lock_guard lock(mutex_);
    nodes_[node]->alive = true;
  }
  SetView(std::move(restarted));
}

void StoreCluster::Leave(size_t node) {
  View without = *view();
  without.nodes.erase(std::remove_if(without.nodes.begin(), without.nodes.end(),
                                     [&](const Node& member) { return member.id == id(node); }),
                      without.nodes.end());
  SetView(std::move(without));
}

std::vector<size_t> StoreCluster::Holders(const Key& segment, size_t replicas) const {
  const std::shared_ptr<const View> view = this->view();
  std::vector<size_t> holders;
  for (const size_t node : Owners(segment, *view, replicas)) holders.push_back(NodeOf(view->nodes[node].id));
  return holders;
}

void StoreCluster::Set(size_t node, Faults faults) {
  std::lock_guard lock(mutex_);
  nodes_[node]->faults = std::move(faults);
  faults_changed_->NotifyAll();
}

uint64_t StoreCluster::puts(size_t node) const {
  std::lock_guard lock(mutex_);
  return nodes_[node]->puts;
}

uint64_t StoreCluster::parts(size_t node) const {
  std::lock_guard lock(mutex_);
  return nodes_[node]->put_bytes;
}

absl::Status StoreCluster::Put(size_t node, const Key& key, const Key& segment, uint32_t replicas,
                               const std::string& block, bool copy) {
  return Put(node, key, BlockTraits{segment}, replicas, block, copy);
}

absl::Status StoreCluster::Put(size_t node, const Key& key, const BlockTraits& traits, uint32_t replicas,
                               const std::string& block, bool copy) {
  auto reservation = store(node).Reserve(key, block.size(), traits);
  if (!reservation.ok()) return reservation.status();
  if (absl::Status status = (*reservation)->Write(0, SpanOf(block)); !status.ok()) return status;
  if (absl::Status status = (*reservation)->Commit(block.size()); !status.ok()) return status;
  if (!copy) replicator(node).Stored(key, traits, block.substr(0, kNamespaceBytes), replicas);
  return absl::OkStatus();
}

bool StoreCluster::Has(size_t node, const Key& key) { return store(node).Get(key, /*touch=*/false)->block != nullptr; }

std::string StoreCluster::Bytes(size_t node, const Key& key) {
  const auto lookup = store(node).Get(key, /*touch=*/false);
  return lookup->block == nullptr ? "" : Flat(lookup->block->pieces());
}

bool Holds(const std::function<bool()>& condition, absl::Duration limit) {
  Runtime* const runtime = RealRuntime();
  for (const absl::Time end = runtime->Now() + limit; runtime->Now() < end;) {
    if (condition()) return true;
    runtime->SleepUntil(runtime->Now() + absl::Milliseconds(2));
  }
  return condition();
}

bool StoreCluster::AllIdle() {
  return std::all_of(nodes_.begin(), nodes_.end(),
                     [](const auto& node) { return !node->alive || node->replicator.load()->Idle(); });
}

}  // namespace kvist::testing
