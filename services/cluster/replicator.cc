#include "services/cluster/replicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/transport/retry_hint.h"

namespace kvist {
namespace {

constexpr size_t kNamespaces = 1024;  // whose replica counts are remembered
constexpr size_t kScan = 256;         // blocks listed at once
constexpr absl::Duration kFirstPause = absl::Milliseconds(50), kLongestPause = absl::Seconds(5);
constexpr absl::Duration kHotMargin = absl::Seconds(5);  // readers are not sent to a copy that is about to expire
constexpr int kHandOverThreads = 4;

bool Again(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status) ||
         absl::IsAborted(status);
}

Key KeyAt(const std::string& keys, size_t i) {
  Key key;
  std::memcpy(key.bytes.data(), keys.data() + i * sizeof(Key), sizeof(Key));
  return key;
}

}  // namespace

Replicator::Replicator(ReplicatorOptions options)
    : options_(std::move(options)),
      peers_(options_.transport, options_.runtime),
      mover_(options_.store, options_.reading),
      heat_(options_.heat),
      changed_(options_.runtime->NewCondition()) {
  for (int i = 0; i < options_.copy_threads; ++i) {
    threads_.push_back(options_.runtime->Start([this] { Work(&sends_); }));
  }
  threads_.push_back(options_.runtime->Start([this] { Work(&fetches_); }));
  threads_.push_back(options_.runtime->Start([this] { KeepHouse(); }));
}

void Replicator::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_->NotifyAll();
  }
  threads_.clear();
}

bool Replicator::Stopping() const {
  std::lock_guard lock(mutex_);
  return stopping_;
}

// --- What comes in ---

void Replicator::Stored(const Key& key, const BlockTraits& traits, std::string_view namespace_digest,
                        uint32_t replicas) {
  if (replicas < 2) return;
  const std::shared_ptr<const View> view = options_.view();
  {
    std::lock_guard lock(mutex_);
    const std::string digest(namespace_digest);
    if (replicas_.size() < kNamespaces || replicas_.count(digest) > 0) replicas_[digest] = replicas;
  }
  if (view == nullptr || view->nodes.empty()) return;
  for (const size_t owner : Place(traits.group, *view, replicas).owners) {
    if (view->nodes[owner].id == options_.self) continue;
    Task task;
    task.key = key;
    task.peer = view->nodes[owner].id;
    Push(std::move(task));
  }
}

uint32_t Replicator::Adopt(const v1::AdoptRequest& request) {
  const std::shared_ptr<const View> view = options_.view();
  const NodeId from{request.from()};
  if (view == nullptr || view->Find(from) == nullptr || from == options_.self) return 0;
  uint32_t accepted = 0;
  for (size_t i = 0; i < request.keys().size() / sizeof(Key); ++i) {
    Task task;
    task.key = KeyAt(request.keys(), i);
    const absl::StatusOr<Lookup> here = options_.store->Get(task.key, /*touch=*/false);
    if (!here.ok() || here->block != nullptr) continue;
    task.group = KeyAt(request.segment_heads(), i);
    task.peer = from;
    task.fetch = true;
    task.namespace_digest = request.namespace_digest();
    {
      std::lock_guard lock(mutex_);
      if (fetches_.size() >= options_.queue_tasks || fetching_.contains(task.key)) continue;
    }
    ++accepted;
    Push(std::move(task));
  }
  return accepted;
}

void Replicator::Damaged(const Key& key, const BlockTraits& traits) {
  const std::shared_ptr<const View> view = options_.view();
  if (view == nullptr || view->nodes.empty()) return;
  const SegmentNodes nodes = Place(traits.group, *view, 2);
  std::vector<size_t> holders = nodes.owners;
  if (nodes.previous) holders.push_back(*nodes.previous);
  for (const size_t holder : holders) {
    if (view->nodes[holder].id == options_.self) continue;
    Task task;
    task.key = key;
    task.group = traits.group;
    task.peer = view->nodes[holder].id;
    task.fetch = task.refetch = true;
    Push(std::move(task));
    return;
  }
}

void Replicator::Push(Task task) {
  task.not_before = absl::InfinitePast();
  task.give_up = options_.runtime->Now() + options_.give_up;
  std::lock_guard lock(mutex_);
  std::deque<Task>& queue = task.fetch ? fetches_ : sends_;
  if (queue.size() >= options_.queue_tasks || (task.fetch && !fetching_.insert(task.key).second)) {
    ++counters_.dropped;
    return;
  }
  ++counters_.queued;
  queue.push_back(std::move(task));
  changed_->NotifyAll();
}

// --- The workers ---

std::optional<Replicator::Task> Replicator::Next(std::deque<Task>* queue) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (stopping_) return std::nullopt;
    const absl::Time now = options_.runtime->Now();
    absl::Time due = absl::InfiniteFuture();
    for (auto task = queue->begin(); task != queue->end(); ++task) {
      if (task->not_before > now) {
        due = std::min(due, task->not_before);
        continue;
      }
      Task next = std::move(*task);
      queue->erase(task);
      return next;
    }
    changed_->WaitUntil(lock, due);
  }
}

void Replicator::Work(std::deque<Task>* queue) {
  while (std::optional<Task> task = Next(queue)) {
    const absl::StatusOr<uint64_t> done = Do(*task);
    Settle(*std::move(task), done, queue);
  }
}

absl::StatusOr<uint64_t> Replicator::Do(const Task& task) {
  const std::shared_ptr<const View> view = options_.view();
  if (view == nullptr || view->Find(task.peer) == nullptr) return absl::NotFoundError("the peer has left");
  const std::shared_ptr<Channel> channel = peers_.Find(task.peer, *view);
  if (channel == nullptr) return absl::UnavailableError("the peer does not answer");
  const absl::Time deadline = std::min(task.give_up, options_.runtime->Now() + options_.call_deadline);
  absl::StatusOr<uint64_t> done =
      task.fetch
          ? mover_.Fetch(task.key, task.group, task.namespace_digest, channel.get(), view->number.value, deadline)
          : mover_.Send(task.key, channel.get(), view->number.value, absl::InfiniteDuration(), deadline);
  if (absl::IsUnavailable(done.status()) || absl::IsDeadlineExceeded(done.status())) peers_.Failed(task.peer);
  return done;
}

void Replicator::Settle(Task task, const absl::StatusOr<uint64_t>& done, std::deque<Task>* queue) {
  const absl::Time now = options_.runtime->Now();
  absl::Duration pause = std::min(kLongestPause, kFirstPause * (1 << std::min(task.attempts, 10)));
  if (const std::optional<absl::Duration> hint = RetryHint(done.status())) pause = std::max(pause, *hint);
  pause *= 0.5 + static_cast<double>(options_.runtime->Random() >> 11) * 0x1p-53;
  std::lock_guard lock(mutex_);
  if (!done.ok() && Again(done.status()) && now + pause < task.give_up) {
    ++task.attempts;
    task.not_before = now + pause;
    queue->push_back(std::move(task));
    changed_->NotifyAll();
    return;
  }
  if (task.fetch) fetching_.erase(task.key);
  if (!done.ok()) {
    ++counters_.failed;
  } else if (!task.fetch) {
    counters_.copied_blocks += *done > 0;
    counters_.copied_bytes += *done;
  } else if (*done > 0) {
    ++(task.refetch ? counters_.refetched_blocks : counters_.adopted_blocks);
    counters_.adopted_bytes += *done;
  }
}

// --- Housekeeping: hot segments, and copies after a member has gone ---

void Replicator::KeepHouse() {
  std::shared_ptr<const View> known;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      const absl::Time until = options_.runtime->Now() + options_.housekeeping;
      while (!stopping_ && changed_->WaitUntil(lock, until)) {
      }
      if (stopping_) return;
    }
    const std::shared_ptr<const View> view = options_.view();
    if (view == nullptr || view->nodes.empty()) continue;
    if (known != nullptr && known->number != view->number) RepairAfter(*known, *view);
    known = view;
    RefreshHot();
  }
}

bool Replicator::ForEachBlock(const std::function<bool(const ScannedBlock&)>& act) {
  uint64_t cursor = 0;
  do {
    const absl::StatusOr<BlockStore::ScanResult> scanned = options_.store->Scan(cursor, kScan);
    if (!scanned.ok() || Stopping()) return false;
    for (const ScannedBlock& block : scanned->blocks) {
      if (!act(block)) return false;
    }
    cursor = scanned->next;
  } while (cursor != 0);
  return true;
}

void Replicator::RepairAfter(const View& before, const View& now) {
  const bool lost = std::any_of(before.nodes.begin(), before.nodes.end(),
                                [&](const Node& node) { return now.Find(node.id) == nullptr; });
  std::map<std::string, uint32_t> replicas;
  {
    std::lock_guard lock(mutex_);
    replicas = replicas_;
  }
  const bool wanted = std::any_of(replicas.begin(), replicas.end(), [](const auto& entry) { return entry.second > 1; });
  if (!lost || !wanted) return;
  ForEachBlock([&](const ScannedBlock& block) {
    if (block.traits.expires != absl::InfiniteFuture()) return true;  // an extra copy of a hot segment
    const absl::StatusOr<Lookup> found = options_.store->Get(block.key, /*touch=*/false);
    if (!found.ok() || found->block == nullptr) return true;
    const absl::StatusOr<std::string> digest = options_.reading.namespace_of(found->block->pieces());
    const auto count = digest.ok() ? replicas.find(*digest) : replicas.end();
    if (count == replicas.end()) return true;
    std::set<NodeId> had;
    for (const size_t owner : Place(block.traits.group, before, count->second).owners)
      had.insert(before.nodes[owner].id);
    std::optional<NodeId> sender;
    std::vector<NodeId> lacking;
    for (const size_t owner : Place(block.traits.group, now, count->second).owners) {
      const NodeId& id = now.nodes[owner].id;
      if (had.count(id) == 0) {
        lacking.push_back(id);
      } else if (!sender) {
        sender = id;
      }
    }
    if (sender != options_.self) return true;
    for (const NodeId& id : lacking) {
      Task task;
      task.key = block.key;
      task.peer = id;
      Push(std::move(task));
    }
    return true;
  });
}

std::vector<NodeId> Replicator::HotNodes(const Key& group) {
  std::lock_guard lock(mutex_);
  if (hot_.empty()) return {};
  const auto found = hot_.find(group);
  if (found == hot_.end() || options_.runtime->Now() >= found->second.until) return {};
  return found->second.nodes;
}

void Replicator::RefreshHot() {
  const absl::Time now = options_.runtime->Now();
  const std::vector<Heat::Hot> hot = heat_.Tick(now);
  const std::shared_ptr<const View> view = options_.view();
  std::vector<Heat::Hot> lacking;
  {
    std::lock_guard lock(mutex_);
    for (auto entry = hot_.begin(); entry != hot_.end();) {
      entry = now >= entry->second.until + kHotMargin ? hot_.erase(entry) : std::next(entry);
    }
    counters_.hot_segments = hot_.size();
    for (const Heat::Hot& segment : hot) {
      if (segment.segment != Key{} && hot_.count(segment.segment) == 0) lacking.push_back(segment);
    }
  }
  std::map<Key, std::vector<ScannedBlock>> blocks;
  for (const Heat::Hot& segment : lacking) {
    const std::vector<size_t> owner = Owners(segment.segment, *view, 1);
    if (!owner.empty() && view->nodes[owner[0]].id == options_.self) blocks[segment.segment];
  }
  if (blocks.empty()) return;
  const bool listed = ForEachBlock([&](const ScannedBlock& block) {
    const auto group = blocks.find(block.traits.group);
    if (group != blocks.end() && block.traits.expires == absl::InfiniteFuture()) group->second.push_back(block);
    return true;
  });
  if (!listed) return;
  for (const Heat::Hot& segment : lacking) {
    const auto group = blocks.find(segment.segment);
    if (group != blocks.end() && !group->second.empty()) CopyHot(segment, *view, group->second);
  }
}

// Sends a segment's blocks to the next nodes of the ring; a node counts once it has them all.
void Replicator::CopyHot(const Heat::Hot& hot, const View& view, const std::vector<ScannedBlock>& blocks) {
  uint64_t bytes = 0, standing = 0;
  for (const ScannedBlock& block : blocks) bytes += block.size_bytes;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [segment, copies] : hot_) standing += copies.bytes;
  }
  const auto limit = static_cast<uint64_t>(options_.hot_fraction * static_cast<double>(options_.capacity_bytes));
  const absl::Time until = options_.runtime->Now() + options_.hot_ttl - kHotMargin;
  const size_t wanted = std::min(options_.hot_copies, static_cast<size_t>(1 + hot.times));
  HotCopies copies{{}, until, 0};
  for (const size_t node : Owners(hot.segment, view, 1 + options_.hot_copies)) {
    const NodeId& id = view.nodes[node].id;
    if (id == options_.self || copies.nodes.size() == wanted || standing + copies.bytes + bytes > limit) continue;
    const std::shared_ptr<Channel> channel = peers_.Find(id, view);
    bool all = channel != nullptr;
    for (size_t i = 0; all && i < blocks.size(); ++i) {
      const absl::StatusOr<uint64_t> sent =
          mover_.Send(blocks[i].key, channel.get(), view.number.value, options_.hot_ttl,
                      options_.runtime->Now() + options_.call_deadline);
      all = sent.ok();
      if (absl::IsUnavailable(sent.status()) || absl::IsDeadlineExceeded(sent.status())) peers_.Failed(id);
      std::lock_guard lock(mutex_);
      if (stopping_) return;
      if (!all) ++counters_.failed;
      if (all) counters_.copied_blocks += *sent > 0;
      if (all) counters_.copied_bytes += *sent;
    }
    if (!all) continue;
    copies.nodes.push_back(id);
    copies.bytes += bytes;
    std::lock_guard lock(mutex_);
    hot_[hot.segment] = copies;  // readers may use each as soon as it stands
    counters_.hot_segments = hot_.size();
  }
}

// --- Draining ---

View Replicator::ViewWithoutSelf(const View& view) const {
  View without{view.number, {}};
  for (const Node& node : view.nodes) {
    if (node.id != options_.self) without.nodes.push_back(node);
  }
  return without;
}

void Replicator::PlanHandOver(absl::Time deadline, uint64_t budget_bytes) {
  std::vector<ScannedBlock> blocks;
  ForEachBlock([&](const ScannedBlock& block) {
    if (block.traits.expires == absl::InfiniteFuture()) blocks.push_back(block);
    return true;
  });
  std::sort(blocks.begin(), blocks.end(), [](const ScannedBlock& a, const ScannedBlock& b) {
    return a.gets != b.gets ? a.gets > b.gets : a.last_used > b.last_used;
  });
  uint64_t bytes = 0;
  size_t fit = 0;
  while (fit < blocks.size() && bytes + blocks[fit].size_bytes <= budget_bytes) bytes += blocks[fit++].size_bytes;
  blocks.resize(fit);
  std::lock_guard lock(mutex_);
  drain_.Clear();
  drain_.set_phase(v1::DrainResponse::PHASE_HANDING_OVER);
  drain_.set_blocks(blocks.size());
  drain_.set_bytes(bytes);
  drain_deadline_ = deadline;
  plan_ = std::move(blocks);
  next_planned_ = 0;
}

void Replicator::HandOver() {
  std::vector<std::unique_ptr<Thread>> senders;
  for (int i = 0; i < kHandOverThreads; ++i) senders.push_back(options_.runtime->Start([this] { SendPlanned(); }));
  senders.clear();  // joins; each ends by the deadline
}

void Replicator::SendPlanned() {
  for (;;) {
    ScannedBlock block;
    absl::Time deadline;
    {
      std::lock_guard lock(mutex_);
      deadline = drain_deadline_;
      if (stopping_ || next_planned_ == plan_.size() || options_.runtime->Now() >= deadline) return;
      block = plan_[next_planned_++];
    }
    const absl::StatusOr<uint64_t> sent = SendToHeir(block, deadline);
    std::lock_guard lock(mutex_);
    if (sent.ok()) {
      drain_.set_sent_blocks(drain_.sent_blocks() + 1);
      drain_.set_sent_bytes(drain_.sent_bytes() + block.size_bytes);
    } else {
      drain_.set_failed_blocks(drain_.failed_blocks() + 1);
    }
  }
}

absl::StatusOr<uint64_t> Replicator::SendToHeir(const ScannedBlock& block, absl::Time deadline) {
  absl::StatusOr<uint64_t> sent = absl::UnavailableError("no other node");
  while (options_.runtime->Now() < deadline && !Stopping()) {
    const std::shared_ptr<const View> view = options_.view();
    const View others = view == nullptr ? View() : ViewWithoutSelf(*view);
    if (others.nodes.empty()) return sent;
    const NodeId& heir = others.nodes[Owners(block.traits.group, others, 1).front()].id;
    const std::shared_ptr<Channel> channel = peers_.Find(heir, others);
    sent = channel == nullptr ? absl::StatusOr<uint64_t>(absl::UnavailableError("the next owner does not answer"))
                              : mover_.Send(block.key, channel.get(), others.number.value, absl::InfiniteDuration(),
                                            std::min(deadline, options_.runtime->Now() + options_.call_deadline));
    if (absl::IsUnavailable(sent.status()) || absl::IsDeadlineExceeded(sent.status())) peers_.Failed(heir);
    if (sent.ok() || !Again(sent.status())) return sent;
    const absl::Duration pause = RetryHint(sent.status()).value_or(kFirstPause * 4);
    options_.runtime->SleepUntil(std::min(deadline, options_.runtime->Now() + pause));
  }
  return sent;
}

v1::DrainResponse Replicator::progress() const {
  std::lock_guard lock(mutex_);
  v1::DrainResponse progress = drain_;
  if (progress.phase() == v1::DrainResponse::PHASE_HANDING_OVER) {
    const absl::Duration left = drain_deadline_ - options_.runtime->Now();
    progress.set_left_ms(std::max<int64_t>(0, absl::ToInt64Milliseconds(left)));
  }
  return progress;
}

ReplicatorCounters Replicator::counters() const {
  std::lock_guard lock(mutex_);
  return counters_;
}

}  // namespace kvist
