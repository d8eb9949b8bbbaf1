#include "services/cluster/replica_repair.h"

#include <algorithm>

#include "services/cluster/ring.h"

namespace kvist {
namespace {

constexpr size_t kScan = 256;  // blocks listed at once

// Whether both views place every block on the same lives of the same nodes.
bool PlacesAlike(const View& a, const View& b) {
  return std::equal(a.nodes.begin(), a.nodes.end(), b.nodes.begin(), b.nodes.end(), [](const Node& x, const Node& y) {
    return x.id == y.id && x.incarnation == y.incarnation && PlacementWeight(x) == PlacementWeight(y);
  });
}

}  // namespace

void ReplicaRepair::Learn(TenantId tenant, std::string_view namespace_digest, uint32_t replicas) {
  const std::pair ns(tenant, std::string(namespace_digest));
  std::lock_guard lock(mutex_);
  const auto known = replicas_.find(ns);
  if (known != replicas_.end()) {
    known->second = std::max(1u, replicas);
  } else if (replicas > 1 && replicas_.size() < kNamespaces) {
    replicas_[ns] = replicas;
  }
}

uint32_t ReplicaRepair::ReplicasOf(TenantId tenant, const std::string& namespace_digest) const {
  std::lock_guard lock(mutex_);
  const auto known = replicas_.find({tenant, namespace_digest});
  return known == replicas_.end() ? 1 : known->second;
}

uint32_t ReplicaRepair::MostReplicas() const {
  std::lock_guard lock(mutex_);
  uint32_t most = 1;
  for (const auto& [ns, replicas] : replicas_) most = std::max(most, replicas);
  return most;
}

void ReplicaRepair::SetView(const View& view, absl::Time now) {
  std::lock_guard lock(mutex_);
  const bool same = PlacesAlike(view_, view);
  view_ = view;
  if (same) return;
  due_ = std::min(due_, now);
  pause_ = first_pause_;
}

void ReplicaRepair::CopyLost(absl::Time now) {
  std::lock_guard lock(mutex_);
  if (due_ != absl::InfiniteFuture()) return;
  due_ = now + pause_;
  pause_ = std::min(pause_ * 2, kLongestPause);
}

bool ReplicaRepair::wanted(absl::Time now) const {
  std::lock_guard lock(mutex_);
  return passing_ || due_ <= now;
}

bool ReplicaRepair::Begin(absl::Time now) {
  std::lock_guard lock(mutex_);
  if (passing_) return true;
  if (due_ > now) return false;
  due_ = absl::InfiniteFuture();
  passing_ = true;
  return true;
}

std::vector<ReplicaRepair::Check> ReplicaRepair::Step(const View& view, absl::Time now, size_t blocks) {
  std::vector<Check> checks;
  if (!Begin(now)) return checks;
  const bool replicated = MostReplicas() > 1;
  for (size_t looked = 0; looked < blocks;) {
    const absl::StatusOr<BlockStore::ScanResult> scanned = store_->Scan(cursor_, kScan);
    if (!scanned.ok()) return checks;  // the next step tries again
    for (const ScannedBlock& block : scanned->blocks) Look(block, view, replicated, &checks);
    looked += std::max<size_t>(1, scanned->blocks.size());
    cursor_ = scanned->next;
    if (cursor_ != 0) continue;
    for (auto& [to, keys] : batches_) checks.push_back({to.first, to.second, std::move(keys)});
    batches_.clear();
    std::lock_guard lock(mutex_);
    passing_ = false;
    break;
  }
  return checks;
}

// `replicated`: some namespace wants more than one; if none does, only spare copies are looked at.
void ReplicaRepair::Look(const ScannedBlock& block, const View& view, bool replicated, std::vector<Check>* full) {
  if (!replicated && !block.traits.spare) return;
  const absl::StatusOr<std::string> digest = mover_->NamespaceOf(block.key);
  if (!digest.ok()) return;
  const uint32_t replicas = ReplicasOf(block.key.tenant, *digest);
  const std::vector<size_t> owners = Owners(block.traits.group, view, replicas);
  if (block.traits.spare) {
    const auto ours = [&](size_t owner) { return view.nodes[owner].id == self_; };
    if (std::none_of(owners.begin(), owners.end(), ours)) return;
    mover_->Keep(block.key);
  }
  if (replicas < 2) return;
  for (const size_t owner : owners) {
    const NodeId& peer = view.nodes[owner].id;
    if (peer == self_) continue;
    std::vector<Key>& keys = batches_[{peer, replicas}];
    keys.push_back(block.key);
    if (keys.size() < kCheck) continue;
    full->push_back({peer, replicas, std::move(keys)});
    keys.clear();
  }
}

}  // namespace kvist
