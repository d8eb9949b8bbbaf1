#include "services/cluster/handover.h"

#include <algorithm>
#include <utility>

#include "services/cluster/call_policy.h"
#include "services/cluster/ring.h"

namespace kvist {
namespace {

constexpr size_t kScan = 256;  // blocks listed at once
constexpr absl::Duration kAge = absl::Seconds(60);
constexpr int kPeerWidth = 2;                                 // streams to one heir
constexpr absl::Duration kLook = absl::Milliseconds(20);      // for Puts that are still open
constexpr absl::Duration kLongLook = absl::Seconds(1);        // what the others stored meanwhile is sent after it
constexpr absl::Duration kWritten = absl::Milliseconds(100);  // until a block that another writes there is tried again

}  // namespace

Handover::Handover(HandoverOptions options)
    : options_(std::move(options)), changed_(options_.runtime->NewCondition()), lanes_(kPeerWidth, kPeerWidth) {}

// --- What is handed over, and to whom ---

std::vector<Handover::Choice> Handover::Choose(uint64_t budget_bytes) const {
  const absl::Time now = options_.runtime->Now();
  std::vector<Choice> choices;
  uint64_t bytes = 0, cursor = 0;
  const auto keep_hottest = [&] {
    std::sort(choices.begin(), choices.end(),
              [](const Choice& a, const Choice& b) { return a.heat != b.heat ? a.heat > b.heat : a.key < b.key; });
    size_t fit = 0;
    for (bytes = 0; fit < choices.size() && bytes + choices[fit].size_bytes <= budget_bytes; ++fit) {
      bytes += choices[fit].size_bytes;
    }
    choices.resize(fit);
  };
  do {
    const absl::StatusOr<BlockStore::ScanResult> scanned = options_.store->Scan(cursor, kScan);
    if (!scanned.ok()) break;
    for (const ScannedBlock& block : scanned->blocks) {
      if (block.traits.spare || Settled(block.key)) continue;
      const absl::Duration idle = std::max(absl::ZeroDuration(), now - block.last_used) + kAge;
      const double heat = static_cast<double>(block.gets + 1) / absl::ToDoubleSeconds(idle);
      choices.push_back({block.key, block.traits.group, block.size_bytes, heat});
      bytes += block.size_bytes;
    }
    if (bytes / 2 > budget_bytes) keep_hottest();
    cursor = scanned->next;
  } while (cursor != 0);
  keep_hottest();
  return choices;
}

Handover::Around Handover::ViewsAround() const {
  Around around;
  const std::shared_ptr<const View> view = options_.view();
  if (view == nullptr) return around;
  around.with = *view;
  for (Node& node : around.with.nodes) {
    if (node.id == options_.self) {
      node.state = NodeState::kServing;
    } else {
      around.without.nodes.push_back(node);
    }
  }
  return around;
}

std::optional<NodeId> Handover::Heir(const Around& around, const Key& group, uint32_t replicas) const {
  const auto& [with, without] = around;
  if (without.nodes.empty()) return std::nullopt;
  const std::vector<size_t> after = Owners(group, without, replicas), before = Owners(group, with, replicas);
  const auto held = [&](const NodeId& id) {
    return std::any_of(before.begin(), before.end(), [&](size_t node) { return around.with.nodes[node].id == id; });
  };
  for (const size_t node : after) {
    if (!held(without.nodes[node].id)) return without.nodes[node].id;
  }
  // Nobody becomes a holder. If we should not have held it in the first place, its owner may lack it.
  if (held(options_.self)) return std::nullopt;
  return without.nodes[after.front()].id;
}

void Handover::Plan(absl::Time deadline, uint64_t budget_bytes) {
  {
    std::lock_guard lock(mutex_);
    progress_.set_phase(v1::DrainResponse::PHASE_HANDING_OVER);
    progress_.set_blocks(progress_.sent_blocks());
    progress_.set_bytes(progress_.sent_bytes());
    progress_.set_failed_blocks(0);
    failed_.clear();
    deadline_ = deadline;
    budget_bytes_ = budget_bytes;
  }
  AddChosen();
}

bool Handover::Settled(const Key& key) const {
  std::lock_guard lock(mutex_);
  return sent_.contains(key) || failed_.contains(key);
}

// The hottest of what has not been chosen yet, as far as the budget goes.
void Handover::AddChosen() {
  uint64_t budget_bytes = 0;
  const absl::StatusOr<StoreStats> stats = options_.store->Stats();  // before the scan, which may miss what they commit
  {
    std::lock_guard lock(mutex_);
    puts_open_ = stats.ok() && stats->reserved_bytes > 0;
    budget_bytes = budget_bytes_ - std::min(budget_bytes_, progress_.bytes());
  }
  const std::vector<Choice> choices = Choose(budget_bytes);
  const Around around = ViewsAround();
  std::vector<std::pair<NodeId, Task>> tasks;
  uint64_t blocks = 0, bytes = 0;
  for (const Choice& choice : choices) {
    const absl::StatusOr<std::string> digest = options_.mover->NamespaceOf(choice.key);
    if (!digest.ok()) continue;  // gone meanwhile, or damaged
    const uint32_t replicas = std::max(1u, options_.replicas_of(choice.key.tenant, *digest));
    const std::optional<NodeId> heir = Heir(around, choice.group, replicas);
    if (heir) tasks.emplace_back(*heir, Task{choice.key, choice.group, choice.size_bytes, replicas});
    if (heir) ++blocks, bytes += choice.size_bytes;
  }
  std::lock_guard lock(mutex_);
  progress_.set_blocks(progress_.blocks() + blocks);
  progress_.set_bytes(progress_.bytes() + bytes);
  for (auto& [heir, task] : tasks) lanes_.Push({0, heir}, std::move(task));
}

v1::DrainResponse Handover::progress() const {
  std::lock_guard lock(mutex_);
  v1::DrainResponse progress = progress_;
  if (progress.phase() == v1::DrainResponse::PHASE_HANDING_OVER) {
    const absl::Duration left = deadline_ - options_.runtime->Now();
    progress.set_left_ms(std::max<int64_t>(0, absl::ToInt64Milliseconds(left)));
  }
  return progress;
}

// --- Sending ---

void Handover::Run() {
  SendAll();
  while (AwaitPuts()) {
    AddChosen();
    SendAll();
  }
  std::lock_guard lock(mutex_);
  progress_.set_phase(v1::DrainResponse::PHASE_UNSPECIFIED);
}

// True: a Put was open when the store was looked through, and may have stored something since.
bool Handover::AwaitPuts() {
  const absl::Time look_until = options_.runtime->Now() + kLongLook;
  for (;;) {
    const absl::StatusOr<StoreStats> stats = options_.store->Stats();
    const bool open = stats.ok() && stats->reserved_bytes > 0;
    std::unique_lock lock(mutex_);
    const absl::Time now = options_.runtime->Now();
    if (!puts_open_ || stopping_ || now >= deadline_) return false;
    // Also if none is open any more: a block that has no reservation left may not be published yet.
    changed_->WaitUntil(lock, std::min(now + kLook, deadline_));
    if (!open || now >= look_until) return !stopping_;
  }
}

void Handover::SendAll() {
  std::vector<std::unique_ptr<Thread>> streams;
  for (int i = 0; i < options_.streams; ++i) streams.push_back(options_.runtime->Start([this] { Send(); }));
  streams.clear();  // joins
  std::lock_guard lock(mutex_);
  for (const LaneId& lane : lanes_.ids()) {
    for (const Task& task : lanes_.Drop(lane)) Count(task, /*sent=*/false);
  }
}

void Handover::Stop() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_->NotifyAll();
}

std::optional<Handover::Lanes::Taken> Handover::Next() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const absl::Time now = options_.runtime->Now();
    if (stopping_ || now >= deadline_ || lanes_.empty()) return std::nullopt;
    absl::Time wake;
    if (std::optional<Lanes::Taken> taken = lanes_.Take(now, &wake)) return taken;
    changed_->WaitUntil(lock, std::min(wake, deadline_));
  }
}

void Handover::Send() {
  while (std::optional<Lanes::Taken> taken = Next()) {
    const absl::StatusOr<uint64_t> sent = SendTo(taken->lane.peer, taken->task);
    Settle(*std::move(taken), sent);
  }
}

absl::StatusOr<uint64_t> Handover::SendTo(const NodeId& heir, const Task& task) {
  const std::shared_ptr<const View> view = options_.view();
  if (view == nullptr) return absl::UnavailableError("there is no view");
  const absl::StatusOr<std::shared_ptr<Channel>> channel = options_.peers->Connect(heir, *view);
  if (!channel.ok()) return channel.status();
  const absl::Time deadline = CallDeadline(options_.runtime->Now(), options_.call_deadline, task.size_bytes);
  absl::StatusOr<uint64_t> sent = options_.mover->Send(task.key, channel->get(), {view->number.value, task.replicas},
                                                       std::min(deadline, this->deadline()));
  options_.peers->Report(heir, *channel, sent.status());
  return sent;
}

absl::Time Handover::deadline() const {
  std::lock_guard lock(mutex_);
  return deadline_;
}

void Handover::Settle(Lanes::Taken taken, const absl::StatusOr<uint64_t>& sent) {
  if (absl::IsDataLoss(sent.status())) options_.mover->DropIfDamaged(taken.task.key);
  std::optional<NodeId> heir;
  if (!sent.ok()) heir = Heir(ViewsAround(), taken.task.group, taken.task.replicas);
  const absl::Time now = options_.runtime->Now();
  const double chance = static_cast<double>(options_.runtime->Random() >> 11) * 0x1p-53;
  std::lock_guard lock(mutex_);
  changed_->NotifyAll();
  if (heir && *heir != taken.lane.peer) {  // the view has changed
    lanes_.Push({0, *heir}, std::move(taken.task));
    return lanes_.Done(taken.lane, /*failed=*/true);
  }
  if (absl::IsAborted(sent.status())) return lanes_.Postpone(taken.lane, std::move(taken.task), now + kWritten);
  if (!WorthAnotherTry(sent.status())) {
    lanes_.Done(taken.lane, /*failed=*/false);
    return Count(taken.task, sent.ok());
  }
  const absl::Duration pause = PauseAfter(sent.status(), lanes_.failures(taken.lane), chance);
  lanes_.Retry(taken.lane, std::move(taken.task), now, now + pause);
  if (now - lanes_.failing_since(taken.lane) < options_.patience) return;
  for (const Task& task : lanes_.Drop(taken.lane)) Count(task, /*sent=*/false);
}

void Handover::Count(const Task& task, bool sent) {
  if (!sent) {
    failed_.insert(task.key);
    return progress_.set_failed_blocks(progress_.failed_blocks() + 1);
  }
  sent_.insert(task.key);
  progress_.set_sent_blocks(progress_.sent_blocks() + 1);
  progress_.set_sent_bytes(progress_.sent_bytes() + task.size_bytes);
}

}  // namespace kvist
