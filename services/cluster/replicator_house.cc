// The replicator's own thread: what a change of the view and the heat of segments call for.
#include <algorithm>
#include <map>
#include <utility>

#include "services/cluster/replicator.h"
#include "services/cluster/ring.h"

namespace kvist {
namespace {

constexpr size_t kScan = 256;         // blocks listed at once
constexpr size_t kRepairTasks = 256;  // that wait; a pass over the store goes on below it

}  // namespace

void Replicator::KeepHouse() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      const absl::Time until = options_.runtime->Now() + options_.housekeeping;
      if (stopped_->WaitUntil(lock, until, [this] { return stopping_; })) return;
    }
    const std::shared_ptr<const View> view = options_.view();
    if (view == nullptr || view->nodes.empty()) {
      heat_.Tick(options_.runtime->Now(), {});  // there is nobody to copy to, but people look
      continue;
    }
    repair_.SetView(*view, options_.runtime->Now());
    StepRepair(*view);
    RefreshHot(*view);
    std::lock_guard lock(mutex_);
    seen_view_ = view->number.value;
  }
}

void Replicator::StepRepair(const View& view) {
  {
    std::lock_guard lock(mutex_);
    if (lanes_.waiting(kRepair) >= kRepairTasks) return;
  }
  const double blocks = static_cast<double>(options_.scan_rate) * absl::ToDoubleSeconds(options_.housekeeping);
  for (ReplicaRepair::Check& check : repair_.Step(view, options_.runtime->Now(), static_cast<size_t>(blocks))) {
    Task task;
    task.replicas = check.replicas;
    task.check = std::move(check.keys);
    Push(kRepair, check.peer, std::move(task));
  }
}

void Replicator::RefreshHot(const View& view) {
  std::vector<Heat::Hot> hot = heat_.Tick(options_.runtime->Now(), hot_.Tick(view));
  const auto not_ours = [&](const Heat::Hot& segment) {
    return segment.segment == Key{} || view.nodes[Owner(segment.segment, view)].id != options_.self;
  };
  hot.erase(std::remove_if(hot.begin(), hot.end(), not_ours), hot.end());
  std::vector<Key> segments;
  for (const Heat::Hot& segment : hot) segments.push_back(segment.segment);
  ListHot(hot_.Unlisted(segments));
  for (const Heat::Hot& segment : hot) {
    const size_t wanted = std::min<size_t>(options_.hot_copies, segment.times < 2 ? 1 : segment.times < 4 ? 2 : 3);
    std::vector<NodeId> ranked;
    for (const size_t node : Owners(segment.segment, view, view.nodes.size())) ranked.push_back(view.nodes[node].id);
    for (HotCopies::Order& order : hot_.Plan(segment.segment, ranked, wanted)) {
      Task task;
      task.key = order.block;
      const NodeId to = order.to;
      task.order = std::move(order);
      Push(kHot, to, std::move(task));
    }
  }
}

void Replicator::ListHot(const std::vector<Key>& segments) {
  if (segments.empty()) return;
  std::map<Key, std::vector<ScannedBlock>> blocks;
  for (const Key& segment : segments) blocks[segment];
  uint64_t cursor = 0;
  do {
    const absl::StatusOr<BlockStore::ScanResult> scanned = options_.store->Scan(cursor, kScan);
    if (!scanned.ok()) return;
    for (const ScannedBlock& block : scanned->blocks) {
      const auto segment = blocks.find(block.traits.group);
      if (segment == blocks.end() || block.traits.expires != absl::InfiniteFuture()) continue;
      segment->second.push_back(block);
    }
    cursor = scanned->next;
  } while (cursor != 0);
  for (auto& [segment, listed] : blocks) {
    uint32_t replicas = 1;
    if (!listed.empty()) {
      const absl::StatusOr<std::string> digest = mover_.NamespaceOf(listed.front().key);
      if (digest.ok()) replicas = repair_.ReplicasOf(listed.front().key.tenant, *digest);
    }
    hot_.List(segment, replicas, std::move(listed));
  }
}

}  // namespace kvist
