#include "services/node/member.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/node/log.h"

namespace kvist {
namespace {

constexpr int kRampSteps = 10;
constexpr absl::Duration kAttempt = absl::Seconds(2);        // of one call to the source
constexpr absl::Duration kRetry = absl::Seconds(1);          // between two of them
constexpr absl::Duration kPoll = absl::Milliseconds(100);    // of a hand-over
constexpr absl::Duration kLogDrain = absl::Seconds(5);       // between two lines of its progress
constexpr absl::Duration kLinger = absl::Seconds(1);         // after leaving, so that whoever follows the drain sees it
constexpr absl::Duration kHandOverGrace = absl::Seconds(1);  // for the last blocks on the wire

}  // namespace

Member::Member(MemberOptions options, Runtime* runtime, Membership* membership)
    : options_(std::move(options)),
      runtime_(runtime),
      membership_(membership),
      changed_(runtime->NewCondition()),
      self_(options_.self) {
  if (membership_ == nullptr) return;
  self_.state = NodeState::kJoining;
  self_.ramp = 0;
}

Member::~Member() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_->NotifyAll();
  thread_ = nullptr;
}

void Member::Start(const Address& data, const Address& http) {
  {
    std::lock_guard lock(mutex_);
    started_ = true;
    self_.address = data;
    self_.http = http;
    self_.incarnation = static_cast<uint64_t>(absl::ToUnixMicros(runtime_->Now()));
    if (membership_ == nullptr) {
      registered_ = true;
      problem_.clear();
    }
  }
  thread_ = runtime_->Start([this] { Run(); });
}

void Member::Run() {
  if (membership_ != nullptr && Register()) Join();
  {
    std::unique_lock lock(mutex_);
    while (!stopped_ && !draining_) {
      if (!unpublished_) {
        changed_->WaitUntil(lock, runtime_->Now() + absl::Hours(1));
        continue;
      }
      lock.unlock();
      if (WaitUntil(runtime_->Now() + kRetry)) Publish();
      lock.lock();
    }
    if (!draining_) return;
  }
  LeaveCluster();
}

bool Member::Register() {
  bool first = true;
  while (true) {
    Node self;
    {
      std::lock_guard lock(mutex_);
      if (stopped_ || draining_) return false;
      const bool seen = membership_->view() != nullptr;
      self_.state = seen && !OthersHoldBlocks() ? NodeState::kServing : NodeState::kJoining;
      self_.ramp = self_.state == NodeState::kServing ? 1 : 1.0 / kRampSteps;
      self = self_;
    }
    const absl::Status status = membership_->Register(self, runtime_->Now() + kAttempt);
    if (status.ok()) break;
    std::string problem(status.message());
    {
      std::lock_guard lock(mutex_);
      if (!first && problem == problem_) problem.clear();
      if (!problem.empty()) problem_ = problem;
    }
    first = false;
    if (!problem.empty()) Log(LogLevel::kWarning, "no member yet; trying on", {{"problem", problem}});
    if (!WaitUntil(runtime_->Now() + kRetry)) return false;
  }
  const std::shared_ptr<const View> view = membership_->view();
  std::lock_guard lock(mutex_);
  const Node* record = view == nullptr ? nullptr : view->Find(self_.id);
  keeps_states_ = self_.state == NodeState::kServing || record == nullptr || record->state == self_.state;
  registered_ = true;
  problem_.clear();
  Log(LogLevel::kInfo, "member",
      {{"view", absl::StrCat(view == nullptr ? 0 : view->number.value)}, {"address", self_.address.ToString()}});
  return true;
}

bool Member::OthersHoldBlocks() const {
  const std::shared_ptr<const View> view = membership_->view();
  if (view == nullptr) return false;
  return std::any_of(view->nodes.begin(), view->nodes.end(), [this](const Node& node) {
    return node.id != options_.self.id && node.state != NodeState::kJoining;
  });
}

void Member::Join() {
  if (self().state == NodeState::kServing) return;
  bool ramps;
  {
    std::lock_guard lock(mutex_);
    ramps = keeps_states_;
  }
  if (ramps && OthersHoldBlocks()) {
    const absl::Time begin = runtime_->Now();
    for (int step = 1; step <= kRampSteps; ++step) {
      if (step > 1) Become(NodeState::kJoining, static_cast<double>(step) / kRampSteps);
      if (!WaitUntil(begin + options_.join_ramp * step / kRampSteps)) return;
    }
    if (!WaitUntil(begin + options_.join_ramp + options_.join_window)) return;
  }
  Become(NodeState::kServing, 1);
}

void Member::Become(NodeState state, double ramp) {
  {
    std::lock_guard lock(mutex_);
    self_.state = state;
    self_.ramp = ramp;
    unpublished_ = true;
  }
  Log(LogLevel::kInfo, "state", {{"state", std::string(NodeStateName(state))}, {"ramp", absl::StrCat(ramp)}});
  Publish();
}

void Member::Publish() {
  Node self;
  {
    std::lock_guard lock(mutex_);
    if (!keeps_states_) unpublished_ = false;
    if (!unpublished_) return;
    self = self_;
  }
  const absl::Status status = membership_->Update(self, runtime_->Now() + kAttempt);
  std::lock_guard lock(mutex_);
  if (status.ok()) unpublished_ = false;
  if (!status.ok())
    Log(LogLevel::kWarning, "the others do not know our state yet", {{"problem", std::string(status.message())}});
}

bool Member::WaitUntil(absl::Time time, bool while_draining) {
  std::unique_lock lock(mutex_);
  const auto told = [&] { return stopped_ || (draining_ && !while_draining); };
  return !changed_->WaitUntil(lock, time, told);
}

absl::StatusOr<v1::DrainResponse> Member::Drain(const v1::DrainRequest& request) {
  if (request.start()) {
    {
      std::lock_guard lock(mutex_);
      if (membership_ == nullptr) {
        return absl::FailedPreconditionError(
            "this node is by itself: there is nobody to hand its blocks to; just stop it");
      }
      if (!registered_) return absl::FailedPreconditionError(absl::StrCat("no member yet: ", problem_));
      if (!keeps_states_) {
        return absl::FailedPreconditionError(
            "the members stand in a file, and nobody would learn that this node drains: take it out of the file, then "
            "stop it");
      }
    }
    BeginDrain(
        request.deadline_ms() == 0
            ? options_.drain_deadline
            : absl::Milliseconds(static_cast<int64_t>(std::min<uint64_t>(request.deadline_ms(), 24 * 3'600'000))),
        request.budget_bytes() == 0 ? options_.drain_budget_bytes : request.budget_bytes(), /*by_rpc=*/true);
  }
  std::lock_guard lock(mutex_);
  return Progress();
}

void Member::BeginDrain(absl::Duration deadline, uint64_t budget_bytes, bool by_rpc) {
  {
    std::lock_guard lock(mutex_);
    if (draining_) return;
    draining_ = true;
    by_rpc_ = by_rpc;
    drain_until_ = runtime_->Now() + deadline;
    drain_budget_bytes_ = budget_bytes;
  }
  changed_->NotifyAll();
}

v1::DrainResponse Member::Progress() const {
  v1::DrainResponse progress = progress_;
  progress.set_phase(left_       ? v1::DrainResponse::PHASE_LEFT
                     : draining_ ? v1::DrainResponse::PHASE_HANDING_OVER
                                 : v1::DrainResponse::PHASE_UNSPECIFIED);
  const absl::Duration rest = draining_ && !left_ ? drain_until_ - runtime_->Now() : absl::ZeroDuration();
  progress.set_left_ms(static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Milliseconds(rest))));
  return progress;
}

void Member::LeaveCluster() {
  bool listed, seen;
  absl::Time until;
  {
    std::lock_guard lock(mutex_);
    listed = membership_ != nullptr;
    seen = registered_ && keeps_states_;
    until = drain_until_;
  }
  if (listed && seen) {
    Become(NodeState::kDraining, 1);
    HandOver(until);
    std::lock_guard lock(mutex_);
    if (stopped_) return;  // our record ends with its lease
  }
  if (listed) {
    const absl::Status status = membership_->Leave(runtime_->Now() + kAttempt);
    if (!status.ok()) Log(LogLevel::kWarning, "left without a word", {{"problem", std::string(status.message())}});
  }
  bool by_rpc;
  {
    std::lock_guard lock(mutex_);
    left_ = true;
    by_rpc = by_rpc_;
  }
  changed_->NotifyAll();
  if (listed) Log(LogLevel::kInfo, "left");
  if (!by_rpc || !WaitUntil(runtime_->Now() + kLinger, /*while_draining=*/true)) return;
  std::function<void()> act;
  {
    std::lock_guard lock(mutex_);
    act = std::exchange(on_left_, nullptr);
  }
  if (act) act();
}

void Member::HandOver(absl::Time until) {
  if (!options_.hand_over) return;
  v1::DrainRequest request;
  request.set_start(true);
  request.set_deadline_ms(
      static_cast<uint64_t>(std::max<int64_t>(1, absl::ToInt64Milliseconds(until - runtime_->Now()))));
  {
    std::lock_guard lock(mutex_);
    request.set_budget_bytes(drain_budget_bytes_);
  }
  v1::DrainResponse progress;
  absl::Time log_at = absl::InfinitePast();
  std::string_view end;
  while (end.empty()) {
    absl::StatusOr<v1::DrainResponse> told = options_.hand_over(request);
    if (!told.ok()) {
      return Log(LogLevel::kWarning, "nothing handed over", {{"problem", std::string(told.status().message())}});
    }
    progress = *std::move(told);
    request.set_start(false);
    {
      std::lock_guard lock(mutex_);
      progress_ = progress;
    }
    if (runtime_->Now() >= log_at) {
      LogDrain("handing over", progress);
      log_at = runtime_->Now() + kLogDrain;
    }
    if (progress.phase() != v1::DrainResponse::PHASE_HANDING_OVER) {
      end = "handed over";
    } else if (runtime_->Now() >= until + kHandOverGrace) {
      end = "the hand-over did not end in time";
    } else if (!WaitUntil(runtime_->Now() + kPoll, /*while_draining=*/true)) {
      end = "the hand-over was interrupted";
    }
  }
  LogDrain(end, progress);
}

void Member::LogDrain(std::string_view event, const v1::DrainResponse& progress) const {
  const auto text = [](uint64_t figure) { return absl::StrCat(figure); };
  Log(LogLevel::kInfo, event,
      {{"blocks", text(progress.blocks())},
       {"sent_blocks", text(progress.sent_blocks())},
       {"failed_blocks", text(progress.failed_blocks())},
       {"sent_bytes", text(progress.sent_bytes())}});
}

void Member::DrainAndLeave(absl::Time deadline) {
  BeginDrain(std::min(options_.drain_deadline, deadline - runtime_->Now()), options_.drain_budget_bytes,
             /*by_rpc=*/false);
  std::unique_lock lock(mutex_);
  if (!started_) return;
  changed_->WaitUntil(lock, deadline, [this] { return left_ || stopped_; });
}

void Member::OnLeft(std::function<void()> act) {
  std::lock_guard lock(mutex_);
  on_left_ = std::move(act);
}

Node Member::self() const {
  std::lock_guard lock(mutex_);
  return self_;
}
bool Member::registered() const {
  std::lock_guard lock(mutex_);
  return registered_;
}
bool Member::draining() const {
  std::lock_guard lock(mutex_);
  return draining_;
}
bool Member::left() const {
  std::lock_guard lock(mutex_);
  return left_;
}
v1::DrainResponse Member::drain_progress() const {
  std::lock_guard lock(mutex_);
  return Progress();
}
std::string Member::problem() const {
  std::lock_guard lock(mutex_);
  return problem_;
}

}  // namespace kvist
