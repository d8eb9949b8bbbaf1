#include "services/cluster/replicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "services/cluster/call_policy.h"
#include "services/cluster/ring.h"
#include "services/transport/retry_hint.h"

namespace kvist {
namespace {

constexpr int kPeerWidth = 2;                 // calls to one peer
constexpr int kMostDamaged = 4;               // tries of a fetch whose bytes came damaged, beside the first
constexpr uint64_t kUnknownBytes = 32 << 20;  // taken as a block's size for the deadline of a fetch
constexpr absl::Duration kWritten = absl::Milliseconds(100);  // until a block that another writes is tried again

Key KeyAt(const std::string& keys, size_t i, TenantId tenant) {
  Key key;
  key.tenant = tenant;
  std::memcpy(key.bytes.data(), keys.data() + i * Key::kBytes, Key::kBytes);
  return key;
}

BlockMoverOptions MoverOptions(const ReplicatorOptions& options) {
  BlockMoverOptions mover;
  mover.store = options.store;
  mover.runtime = options.runtime;
  mover.reading = options.reading;
  mover.max_block_bytes = std::min(mover.max_block_bytes, options.capacity_bytes);
  mover.damaged = options.damaged;
  mover.tenant_name = options.tenant_name;
  return mover;
}

bool Drains(const View& view, const NodeId& id) {
  const Node* const node = view.Find(id);
  return node != nullptr && node->state == NodeState::kDraining;
}

}  // namespace

Replicator::Replicator(ReplicatorOptions options)
    : options_(std::move(options)),
      peers_(options_.transport, options_.runtime),
      mover_(MoverOptions(options_)),
      heat_(options_.heat),
      hot_({static_cast<uint64_t>(options_.hot_fraction * static_cast<double>(options_.capacity_bytes)),
            options_.hot_ttl},
           options_.runtime),
      repair_(options_.self, options_.store, &mover_, options_.repair_pause),
      handover_({options_.self, options_.store, &mover_, &peers_, options_.runtime, options_.view,
                 [this](TenantId tenant, const std::string& digest) { return repair_.ReplicasOf(tenant, digest); }}),
      changed_(options_.runtime->NewCondition()),
      stopped_(options_.runtime->NewCondition()),
      lanes_(/*lane_width=*/1, kPeerWidth) {
  for (int i = 0; i < options_.threads; ++i) threads_.push_back(options_.runtime->Start([this] { Work(); }));
  threads_.push_back(options_.runtime->Start([this] { KeepHouse(); }));
}

void Replicator::Stop() {
  handover_.Stop();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_->NotifyAll();
    stopped_->NotifyAll();
  }
  threads_.clear();
}

bool Replicator::Idle() {
  const std::shared_ptr<const View> view = options_.view();
  const absl::Time now = options_.runtime->Now();
  std::lock_guard lock(mutex_);
  return lanes_.empty() && concluding_ == 0 && !repair_.wanted(now) &&
         (view == nullptr || view->number.value == seen_view_);
}

ReplicatorCounters Replicator::counters() const {
  std::lock_guard lock(mutex_);
  ReplicatorCounters counters = counters_;
  counters.hot_segments = hot_.segments();
  return counters;
}

// --- What comes in ---

void Replicator::Copied(TenantId tenant, std::string_view namespace_digest, uint32_t replicas) {
  repair_.Learn(tenant, namespace_digest, replicas);
}

void Replicator::Stored(const Key& key, const BlockTraits& traits, std::string_view namespace_digest,
                        uint32_t replicas) {
  repair_.Learn(key.tenant, namespace_digest, replicas);
  if (replicas > 1) Spread(key, traits.group, replicas);
}

// Also if this node is not among the holders (the writer's view was old): then all of them lack the block.
void Replicator::Spread(const Key& key, const Key& group, uint32_t replicas) {
  const std::shared_ptr<const View> view = options_.view();
  if (view == nullptr || view->nodes.empty()) return;
  const absl::StatusOr<Lookup> found = options_.store->Get(key, /*touch=*/false);
  if (!found.ok() || found->block == nullptr || found->traits.spare) return;
  for (const size_t owner : Owners(group, *view, replicas)) {
    if (view->nodes[owner].id == options_.self) continue;
    Task task;
    task.key = key;
    task.size_bytes = found->block->size_bytes();
    task.replicas = replicas;
    if (!Push(kCopy, view->nodes[owner].id, std::move(task))) repair_.CopyLost(options_.runtime->Now());
  }
}

uint32_t Replicator::Adopt(TenantId tenant, const v1::AdoptRequest& request) {
  const std::shared_ptr<const View> view = options_.view();
  const NodeId from{request.from()};
  if (view == nullptr || view->Find(from) == nullptr || from == options_.self) return 0;
  if (Drains(*view, options_.self)) return 0;
  uint32_t accepted = 0;
  for (size_t i = 0; i < request.keys().size() / Key::kBytes; ++i) {
    Task task;
    task.key = KeyAt(request.keys(), i, tenant);
    const absl::StatusOr<Lookup> here = options_.store->Get(task.key, /*touch=*/false);
    if (here.ok() && here->traits.spare) mover_.Keep(task.key);
    if (!here.ok() || here->block != nullptr) continue;
    task.traits.group = KeyAt(request.segment_heads(), i, tenant);
    task.namespace_digest = request.namespace_digest();
    accepted += Push(kFetch, from, std::move(task));
  }
  return accepted;
}

void Replicator::Damaged(const Key& key, const BlockTraits& traits) {
  const std::shared_ptr<const View> view = options_.view();
  if (view == nullptr || view->nodes.empty() || Drains(*view, options_.self)) return;
  const SegmentNodes nodes = Place(traits.group, *view, repair_.MostReplicas());
  std::vector<NodeId> holders;
  const auto add = [&](const NodeId& id) {
    if (id != options_.self && std::find(holders.begin(), holders.end(), id) == holders.end()) holders.push_back(id);
  };
  for (const size_t owner : nodes.owners) add(view->nodes[owner].id);
  if (nodes.previous) add(view->nodes[*nodes.previous].id);
  for (const NodeId& id : hot_.Nodes(traits.group)) add(id);
  if (holders.empty()) return;
  Task task;
  task.key = key;
  task.traits = traits;
  task.refetch = true;
  task.others.assign(holders.begin() + 1, holders.end());
  Push(kFetch, holders.front(), std::move(task));
}

// No peer may take more than half of what there is room for: one that is dead would leave none for the copies to others.
bool Replicator::Fits(const LaneId& lane, const Task& task) const {
  const bool fits_in_number =
      lanes_.waiting(lane.kind) < options_.queue_blocks && lanes_.waiting(lane) < (options_.queue_blocks + 1) / 2;
  switch (static_cast<Kind>(lane.kind)) {
    case kCopy: {
      uint64_t bytes = task.size_bytes, lane_bytes = task.size_bytes;
      for (const auto& [peer, waiting_bytes] : copy_bytes_) {
        bytes += waiting_bytes;
        if (peer == lane.peer) lane_bytes += waiting_bytes;
      }
      return fits_in_number && bytes <= options_.queue_bytes && lane_bytes <= (options_.queue_bytes + 1) / 2;
    }
    case kFetch:
      return fits_in_number && !fetching_.contains(task.key);
    case kRepair:
    case kHot:
      return true;  // bounded where they come from
  }
  return false;
}

bool Replicator::Push(Kind kind, const NodeId& peer, Task task) {
  task.give_up = options_.runtime->Now() + options_.give_up;
  std::lock_guard lock(mutex_);
  if (!Fits({kind, peer}, task)) {
    ++counters_.dropped;
    return false;
  }
  if (kind == kCopy) copy_bytes_[peer] += task.size_bytes;
  if (kind == kFetch) fetching_.insert(task.key);
  ++counters_.queued;
  lanes_.Push({kind, peer}, std::move(task));
  changed_->NotifyOne();
  return true;
}

// --- The workers ---

std::optional<Replicator::Lanes::Taken> Replicator::Next() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (stopping_) return std::nullopt;
    absl::Time wake;
    if (std::optional<Lanes::Taken> taken = lanes_.Take(options_.runtime->Now(), &wake)) return taken;
    changed_->WaitUntil(lock, wake);
  }
}

void Replicator::Work() {
  while (std::optional<Lanes::Taken> taken = Next()) {
    const absl::Time began = options_.runtime->Now();
    const absl::StatusOr<uint64_t> done = Do(taken->lane, taken->task);
    Settle(*std::move(taken), began, done);
  }
}

absl::StatusOr<uint64_t> Replicator::Do(const LaneId& lane, const Task& task) {
  const std::shared_ptr<const View> view = options_.view();
  if (view == nullptr) return absl::UnavailableError("there is no view");
  const absl::StatusOr<std::shared_ptr<Channel>> channel = peers_.Connect(lane.peer, *view);
  if (!channel.ok()) return channel.status();
  // A spare copy that comes after its node has looked through its store for a new view would expire though it is kept.
  if (task.order && view->nodes[Owner(task.order->segment, *view)].id != options_.self) {
    return absl::FailedPreconditionError("the segment has another owner by now");
  }
  const uint64_t number = view->number.value;
  const absl::Time deadline = CallDeadline(options_.runtime->Now(), options_.call_deadline,
                                           lane.kind == kFetch ? kUnknownBytes : task.size_bytes);
  absl::StatusOr<uint64_t> done;
  if (lane.kind == kFetch) {
    done = mover_.Fetch(task.key, task.traits, task.namespace_digest, channel->get(), number, deadline);
  } else if (!task.check.empty()) {
    done = CheckPeer(task, lane.peer, channel->get(), number);
  } else {
    const absl::Duration ttl = task.order ? task.order->ttl : absl::InfiniteDuration();
    done = mover_.Send(task.key, channel->get(), {number, task.replicas, ttl}, deadline);
  }
  peers_.Report(lane.peer, *channel, done.status());
  if (lane.kind == kFetch && absl::IsDataLoss(done.status())) {
    v1::ReportRequest report;  // it shall look at its copy
    report.set_keys(task.key.bytes.data(), Key::kBytes);
    if (options_.tenant_name) report.set_tenant(options_.tenant_name(task.key.tenant));
    (*channel)->Report(report, options_.runtime->Now() + options_.call_deadline).status().IgnoreError();
  }
  return done;
}

// Queues what the peer lacks. OK: it answered.
absl::StatusOr<uint64_t> Replicator::CheckPeer(const Task& task, const NodeId& peer, Channel* channel, uint64_t view) {
  const absl::StatusOr<std::vector<bool>> lacks =
      mover_.Lacks(task.check, channel, view, options_.runtime->Now() + options_.call_deadline);
  if (!lacks.ok()) return lacks.status();
  for (size_t i = 0; i < task.check.size(); ++i) {
    if (!(*lacks)[i]) continue;
    const absl::StatusOr<Lookup> found = options_.store->Get(task.check[i], /*touch=*/false);
    if (!found.ok() || found->block == nullptr) continue;
    Task send;
    send.key = task.check[i];
    send.size_bytes = found->block->size_bytes();
    send.replicas = task.replicas;
    Push(kRepair, peer, std::move(send));
  }
  return 0;
}

void Replicator::Settle(Lanes::Taken taken, absl::Time began, const absl::StatusOr<uint64_t>& done) {
  if (const std::optional<absl::Duration> hint = RetryHint(done.status());
      hint && !absl::IsUnavailable(done.status())) {
    const absl::Time now = options_.runtime->Now();
    std::lock_guard lock(mutex_);
    lanes_.RestPeer(taken.lane.peer, now, now + *hint);
  }
  if (!done.ok() && TryAgain(&taken, done.status())) return;
  const absl::Time now = options_.runtime->Now();
  {
    std::lock_guard lock(mutex_);
    lanes_.Done(taken.lane, WorthAnotherTry(done.status()));
    ++concluding_;
    if (taken.lane.kind == kCopy && (copy_bytes_[taken.lane.peer] -= taken.task.size_bytes) == 0) {
      copy_bytes_.erase(taken.lane.peer);
    }
    if (taken.lane.kind == kFetch) fetching_.erase(taken.task.key);
    if (done.ok() && taken.lane.kind != kCopy) {
      const double seconds = static_cast<double>(*done) / static_cast<double>(options_.background_rate);
      lanes_.RestKind(taken.lane.kind, now + absl::Seconds(seconds));
    }
    changed_->NotifyAll();
  }
  Conclude(taken.lane, std::move(taken.task), began, done);
  std::lock_guard lock(mutex_);
  --concluding_;
}

// A hot copy is not tried again: HotCopies orders it anew if it is still wanted.
bool Replicator::TryAgain(Lanes::Taken* taken, const absl::Status& status) {
  if (taken->task.order || !WorthAnotherTry(status)) return false;
  const absl::Time now = options_.runtime->Now();
  const double chance = static_cast<double>(options_.runtime->Random() >> 11) * 0x1p-53;
  std::lock_guard lock(mutex_);
  if (absl::IsAborted(status) && now + kWritten < taken->task.give_up) {
    lanes_.Postpone(taken->lane, std::move(taken->task), now + kWritten);
    changed_->NotifyAll();
    return true;
  }
  const absl::Time next = now + PauseAfter(status, lanes_.failures(taken->lane), chance);
  if (next >= taken->task.give_up) return false;
  lanes_.Retry(taken->lane, std::move(taken->task), now, next);
  changed_->NotifyAll();
  return true;
}

void Replicator::Conclude(const LaneId& lane, Task task, absl::Time began, const absl::StatusOr<uint64_t>& done) {
  if (lane.kind == kFetch) return ConcludeFetch(lane.peer, std::move(task), done);
  if (task.order) {
    if (done.ok()) {
      hot_.Sent(*task.order, began);
    } else if (absl::IsNotFound(done.status())) {
      hot_.Gone(*task.order);
    } else {
      hot_.Failed(*task.order);
    }
  }
  // The peer says that the bytes are wrong: they may be wrong here, or have been damaged on their way.
  bool lost = WorthAnotherTry(done.status());
  if (absl::IsDataLoss(done.status()) && task.check.empty()) {
    const absl::StatusOr<Lookup> found = options_.store->Get(task.key, /*touch=*/false);
    if (found.ok() && found->block != nullptr && mover_.DropIfDamaged(task.key)) {
      Damaged(task.key, found->traits);
      std::lock_guard lock(mutex_);
      ++counters_.damaged_blocks;
    } else {
      lost = true;
    }
  }
  if (lost && !task.order) repair_.CopyLost(options_.runtime->Now());
  std::lock_guard lock(mutex_);
  counters_.failed += !done.ok();
  if (done.ok() && *done > 0) {
    ++counters_.copied_blocks;
    counters_.copied_bytes += *done;
  }
}

void Replicator::ConcludeFetch(const NodeId& peer, Task task, const absl::StatusOr<uint64_t>& done) {
  if (done.ok() && *done > 0) {
    const absl::StatusOr<std::string> digest = mover_.NamespaceOf(task.key);
    const uint32_t replicas = digest.ok() ? repair_.ReplicasOf(task.key.tenant, *digest) : 1;
    if (replicas > 1) Spread(task.key, task.traits.group, replicas);
  }
  {
    std::lock_guard lock(mutex_);
    counters_.failed += !done.ok();
    if (done.ok() && *done > 0) {
      ++(task.refetch ? counters_.refetched_blocks : counters_.adopted_blocks);
      counters_.adopted_bytes += *done;
    }
  }
  // Damaged on its way, or at the peer: that was told, and by now has no copy that is damaged. After the others it is
  // asked again.
  if (absl::IsDataLoss(done.status()) && task.came_damaged++ < kMostDamaged) task.others.push_back(peer);
  if (done.ok() || task.others.empty()) return;
  const NodeId next = task.others.front();
  task.others.erase(task.others.begin());
  Push(kFetch, next, std::move(task));
}

}  // namespace kvist
