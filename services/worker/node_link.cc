#include "services/worker/node_link.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/runtime/trace.h"

namespace kvist {

constexpr absl::Duration kLoadKept = absl::Seconds(1);
constexpr uint64_t kMostLoad = uint64_t{1} << 50;

NodeLink::NodeLink(Node node, std::unique_ptr<Channel> channel, Uses uses)
    : node_(std::move(node)),
      channel_(std::move(channel)),
      uses_(std::move(uses)),
      breaker_(uses_.breaker, uses_.runtime),
      buffers_(uses_.runtime, uses_.buffers) {}

absl::Status NodeLink::Refusal() {
  if (channel_ == nullptr) {
    return absl::UnavailableError(absl::StrCat("the address of node ", id(), " is not known: it has published none"));
  }
  if (absl::Status refusal = breaker_.Refusal(); !refusal.ok()) return refusal;
  std::lock_guard lock(mutex_);
  return FullNow();
}

absl::Status NodeLink::FullNow() const {
  if (tasks_.size() < kLinkQueued) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(kLinkQueued, " calls of this worker wait for the node already"));
}

NodeLink::Wait::Wait(NodeLink* link) : link_(link) {
  refusal_ = link->channel_ == nullptr ? link->Refusal() : link->breaker_.Begin();
  waiting_ = refusal_.ok();
  began_ = link->uses_.runtime->Now();
}

NodeLink::Wait::~Wait() { Pause(); }

void NodeLink::Wait::Alive() { link_->breaker_.Alive(); }

void NodeLink::Wait::Pause() {
  if (waiting_) link_->breaker_.End(absl::OkStatus(), began_, /*judged=*/false);
  waiting_ = false;
}

void NodeLink::Wait::Resume() {
  began_ = link_->uses_.runtime->Now();
  waiting_ = link_->breaker_.Begin().ok();
}

void NodeLink::Wait::End(const absl::Status& status) {
  if (!waiting_) return;
  waiting_ = false;
  if (link_->breaker_.End(status, began_, /*judged=*/true) && link_->uses_.opened) {
    link_->uses_.opened(link_->shared_from_this());
  }
}

absl::Status NodeLink::Submit(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (absl::Status full = FullNow(); !full.ok()) return full;
    tasks_.push_back(InCurrentTrace(std::move(task)));
    if (running_ == kLinkCalls) return absl::OkStatus();
    ++running_;
    ++scheduled_;
  }
  uses_.callers->Submit([self = shared_from_this()] { self->RunTask(); });
  return absl::OkStatus();
}

// One task, then back into the pool's queue: links share its threads fairly.
void NodeLink::RunTask() {
  std::unique_lock lock(mutex_);
  --scheduled_;
  std::function<void()> task = std::move(tasks_.front());
  tasks_.pop_front();
  lock.unlock();
  task();
  task = nullptr;
  lock.lock();
  if (tasks_.size() == scheduled_) {
    --running_;
    return;
  }
  ++scheduled_;
  lock.unlock();
  uses_.callers->Submit([self = shared_from_this()] { self->RunTask(); });
}

uint64_t NodeLink::Busy() {
  const absl::Time now = uses_.runtime->Now();
  const int64_t expected = std::max<int64_t>(0, expected_bytes_);
  std::lock_guard lock(mutex_);
  return static_cast<uint64_t>(expected) + (now - heard_ < kLoadKept ? queued_bytes_ : 0);
}

void NodeLink::HeardLoad(const v1::Load& load) {
  const absl::Time now = uses_.runtime->Now();
  std::lock_guard lock(mutex_);
  queued_bytes_ = std::min(load.queued_bytes(), kMostLoad);  // sums of loads stay sums
  heard_ = now;
}

std::optional<size_t> LinkedView::Position(const std::string& id) const {
  for (size_t i = 0; i < view.nodes.size(); ++i) {
    if (view.nodes[i].id.value == id) return i;
  }
  return std::nullopt;
}

}  // namespace kvist
