#include "services/transport/nccl/communicator.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace kvist {
namespace {

constexpr absl::Duration kPollPause = absl::Milliseconds(1);
constexpr absl::Duration kIdlePollPause = absl::Milliseconds(100);  // a peer that dies while nothing moves

// By the system clock: waits by others are not understood by every sanitizer.
bool WaitFor(std::condition_variable* condition, std::unique_lock<std::mutex>* lock, absl::Duration pause) {
  return condition->wait_until(*lock, absl::ToChronoTime(absl::Now() + pause)) == std::cv_status::no_timeout;
}

}  // namespace

void WakeUp::Notify() {
  {
    const std::lock_guard lock(mutex_);
    pending_ = true;
  }
  notified_.notify_one();
}
void WakeUp::WaitUntil(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  notified_.wait_until(lock, absl::ToChronoTime(deadline), [this] { return pending_; });
  pending_ = false;
}

Communicator::Communicator(CommunicatorOptions options, std::unique_ptr<Stream> stream)
    : options_(std::move(options)), stream_(std::move(stream)), inside_(1), id_owed_(!options_.id.has_value()) {}

std::shared_ptr<Communicator> Communicator::Start(CommunicatorOptions options, std::unique_ptr<Stream> stream) {
  std::shared_ptr<Communicator> self(new Communicator(std::move(options), std::move(stream)));
  // Detached: a thread that hangs in a library can be joined by nobody. It keeps what it needs alive.
  std::thread([self] { self->Run(); }).detach();
  return self;
}

void Communicator::Submit(Operation operation) {
  absl::Status refused;
  {
    const std::lock_guard lock(mutex_);
    if (stage_ == Stage::kOpening || stage_ == Stage::kReady) {
      queued_.push_back(std::make_shared<Active>(Active{std::move(operation), nullptr}));
    } else {
      refused = stage_ == Stage::kBroken ? error_ : absl::UnavailableError("the communicator is closed");
    }
  }
  if (!refused.ok()) return operation.done(refused);
  wake_.notify_one();
  options_.wake_up->Notify();
}

void Communicator::Close() {
  {
    const std::lock_guard lock(mutex_);
    if (stage_ == Stage::kOpening) {
      BreakLocked(absl::CancelledError("closed before it was open"));
    } else if (stage_ == Stage::kReady) {
      stage_ = Stage::kClosing;
      close_deadline_ = absl::Now() + options_.close_limit;
    }
  }
  wake_.notify_one();
  options_.wake_up->Notify();
  RunReports();
}

void Communicator::Abort(absl::Status why) { Break(std::move(why)); }

Communicator::Stage Communicator::stage() const {
  const std::lock_guard lock(mutex_);
  return stage_;
}
absl::Status Communicator::error() const {
  const std::lock_guard lock(mutex_);
  return absl::Status(error_.code(), error_.message());  // whole: two threads must not share a Status' count
}
bool Communicator::busy() const {
  const std::lock_guard lock(mutex_);
  return BusyLocked();
}
bool Communicator::BusyLocked() const { return !queued_.empty() || issuing_ != nullptr || !in_flight_.empty(); }
absl::Time Communicator::idle_since() const {
  const std::lock_guard lock(mutex_);
  return BusyLocked() ? absl::InfiniteFuture() : idle_since_;
}
bool Communicator::gone() const {
  const std::lock_guard lock(mutex_);
  return inside_ == 0 && (stage_ == Stage::kClosed || (stage_ == Stage::kBroken && drained_));
}
int Communicator::left_behind() const {
  const std::lock_guard lock(mutex_);
  return given_up_ ? inside_ : 0;
}

// --- The communicator's thread.

void Communicator::Run() {
  absl::Status status = Open();
  while (status.ok()) {
    switch (Next()) {
      case Step::kIssue:
        status = Issue();
        break;
      case Step::kAskError:
        status = AskError();
        break;
      case Step::kFinalize:
        status = Finalize();
        if (status.ok()) return Leave();
        break;
      case Step::kStop:
        status = error();
        break;
    }
  }
  Break(status);
  AbortOnce();
  Leave();
}

absl::Status Communicator::Open() {
  if (absl::Status status = options_.device->MakeCurrent(); !status.ok()) return status;
  const absl::StatusOr<nccl::UniqueId> id = options_.id ? *options_.id : Id();
  if (!id.ok()) return id.status();
  nccl::Config config;
  config.blocking = 0;
  config.min_ctas = 1;
  config.max_ctas = options_.max_ctas;
  nccl::Comm* comm = nullptr;
  const int result = Call(options_.library->comm_init_rank_config, &comm, options_.ranks, *id, options_.rank, &config);
  {
    const std::lock_guard lock(mutex_);
    comm_ = comm;
  }
  if (result != nccl::kSuccess && result != nccl::kInProgress) return Failed("ncclCommInitRankConfig", result);
  if (absl::Status status = WaitWhileInProgress("ncclCommInitRankConfig"); !status.ok()) return status;
  const std::lock_guard lock(mutex_);
  if (stage_ == Stage::kBroken) return error_;
  stage_ = Stage::kReady;
  idle_since_ = absl::Now();
  options_.wake_up->Notify();
  return absl::OkStatus();
}

absl::StatusOr<nccl::UniqueId> Communicator::Id() {
  nccl::UniqueId id;
  if (const int result = Call(options_.library->get_unique_id, &id); result != nccl::kSuccess) {
    return Failed("ncclGetUniqueId", result);
  }
  {
    const std::lock_guard lock(mutex_);
    if (stage_ == Stage::kBroken) return error_;
    id_owed_ = false;
  }
  if (options_.on_id) options_.on_id(id);
  return id;
}

Communicator::Step Communicator::Next() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (stage_ == Stage::kBroken) return Step::kStop;
    if (!queued_.empty()) return Step::kIssue;
    if (stage_ == Stage::kClosing && in_flight_.empty()) return Step::kFinalize;
    if (!WaitFor(&wake_, &lock, in_flight_.empty() ? kIdlePollPause : kPollPause)) return Step::kAskError;
  }
}

absl::Status Communicator::Issue() {
  std::shared_ptr<Active> active;
  {
    const std::lock_guard lock(mutex_);
    if (stage_ == Stage::kBroken) return error_;
    active = issuing_ = std::move(queued_.front());
    queued_.pop_front();
  }
  const Operation& operation = active->operation;
  if (operation.after != nullptr) {
    if (absl::Status status = stream_->WaitFor(*operation.after); !status.ok()) return status;
  }
  const int result = IssueGroup(operation);
  if (result != nccl::kSuccess && result != nccl::kInProgress) return Failed("a group", result);
  // Kernels are launched in the background; an event is behind them only if it is recorded after that.
  if (absl::Status status = WaitWhileInProgress("a group"); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<DeviceEvent>> event = stream_->Record();
  if (!event.ok()) return event.status();
  const std::lock_guard lock(mutex_);
  if (stage_ == Stage::kBroken) return error_;
  active->event = *std::move(event);
  in_flight_.push_back(std::move(issuing_));
  options_.wake_up->Notify();
  return absl::OkStatus();
}

// The group is ended whatever happens inside it: what is open belongs to the thread.
int Communicator::IssueGroup(const Operation& operation) {
  const NcclLibrary& nccl = *options_.library;
  nccl::Comm* comm;
  {
    const std::lock_guard lock(mutex_);
    comm = comm_;
  }
  void* const stream = stream_->native();
  int result = Call(nccl.group_start);
  if (result != nccl::kSuccess) return result;
  for (const DeviceExtent& extent : operation.extents) {
    void* const at = extent.address.pointer();
    switch (operation.kind) {
      case Operation::Kind::kSend:
        result = Call(nccl.send, at, extent.size_bytes, nccl::kUint8, operation.peer, comm, stream);
        break;
      case Operation::Kind::kReceive:
        result = Call(nccl.recv, at, extent.size_bytes, nccl::kUint8, operation.peer, comm, stream);
        break;
      case Operation::Kind::kBroadcast:
        result = Call(nccl.broadcast, at, at, extent.size_bytes, nccl::kUint8, operation.peer, comm, stream);
        break;
    }
    if (result != nccl::kSuccess && result != nccl::kInProgress) break;
  }
  const int ended = Call(nccl.group_end);
  return result != nccl::kSuccess && result != nccl::kInProgress ? result : ended;
}

absl::Status Communicator::AskError() {
  nccl::Comm* comm;
  {
    const std::lock_guard lock(mutex_);
    comm = comm_;
  }
  int state = nccl::kSuccess;
  if (const int result = Call(options_.library->comm_get_async_error, comm, &state); result != nccl::kSuccess) {
    return Failed("ncclCommGetAsyncError", result);
  }
  if (state != nccl::kSuccess && state != nccl::kInProgress) return Failed("the communicator", state);
  return absl::OkStatus();
}

absl::Status Communicator::WaitWhileInProgress(const char* what) {
  while (true) {
    int state = nccl::kSuccess;
    std::unique_lock lock(mutex_);
    if (stage_ == Stage::kBroken) return error_;
    nccl::Comm* const comm = comm_;
    lock.unlock();
    const int result = Call(options_.library->comm_get_async_error, comm, &state);
    if (result != nccl::kSuccess) return Failed("ncclCommGetAsyncError", result);
    if (state == nccl::kSuccess) return absl::OkStatus();
    if (state != nccl::kInProgress) return Failed(what, state);
    lock.lock();
    if (stage_ == Stage::kBroken) return error_;
    WaitFor(&wake_, &lock, kPollPause);
  }
}

absl::Status Communicator::Finalize() {
  nccl::Comm* comm;
  {
    const std::lock_guard lock(mutex_);
    comm = comm_;
  }
  const int result = Call(options_.library->comm_finalize, comm);
  if (result != nccl::kSuccess && result != nccl::kInProgress) return Failed("ncclCommFinalize", result);
  if (absl::Status status = WaitWhileInProgress("ncclCommFinalize"); !status.ok()) return status;
  {
    // From here on the handle may be gone: nobody may abort it.
    const std::lock_guard lock(mutex_);
    if (stage_ == Stage::kBroken) return error_;
    abort_begun_ = true;
    comm_ = nullptr;
  }
  if (const int destroyed = Call(options_.library->comm_destroy, comm); destroyed != nccl::kSuccess) {
    return absl::InternalError(absl::StrCat("ncclCommDestroy: ", options_.library->get_error_string(destroyed)));
  }
  const std::lock_guard lock(mutex_);
  if (stage_ == Stage::kBroken) return error_;
  stage_ = Stage::kClosed;
  return absl::OkStatus();
}

absl::Status Communicator::Failed(const char* what, int result) {
  std::string text = absl::StrCat("NCCL: ", what, ": ", options_.library->get_error_string(result));
  std::unique_lock lock(mutex_);
  if (stage_ == Stage::kBroken) return error_;  // what came first is the reason
  nccl::Comm* const comm = comm_;
  lock.unlock();
  const char* last = nullptr;
  if (EnterCall()) {
    last = options_.library->get_last_error(comm);
    LeaveCall();
  }
  if (last != nullptr && *last != '\0') absl::StrAppend(&text, " (", last, ")");
  return absl::UnavailableError(text);
}

template <typename Function, typename... Arguments>
int Communicator::Call(Function* function, Arguments... arguments) {
  if (!EnterCall()) return nccl::kInternalError;
  const int result = function(arguments...);
  LeaveCall();
  return result;
}

bool Communicator::EnterCall() {
  const std::lock_guard lock(mutex_);
  if (given_up_) return false;
  call_since_ = absl::Now();
  return true;
}
void Communicator::LeaveCall() {
  const std::lock_guard lock(mutex_);
  call_since_ = absl::InfiniteFuture();
}

// By the communicator's own thread, or by another in its place: whoever comes first.
void Communicator::AbortOnce() {
  nccl::Comm* comm;
  {
    const std::lock_guard lock(mutex_);
    if (abort_begun_ || comm_ == nullptr) return;
    abort_begun_ = true;
    comm = comm_;
    call_since_ = absl::Now();
  }
  options_.library->comm_abort(comm);
  LeaveCall();
}

void Communicator::Leave() {
  {
    const std::lock_guard lock(mutex_);
    --inside_;
  }
  options_.wake_up->Notify();
}

// --- Failure.

void Communicator::Break(absl::Status why) {
  {
    const std::lock_guard lock(mutex_);
    BreakLocked(std::move(why));
  }
  RunReports();
}

void Communicator::BreakLocked(absl::Status why) {
  if (stage_ == Stage::kBroken || stage_ == Stage::kClosed) return;
  stage_ = Stage::kBroken;
  error_ = std::move(why);
  if (issuing_ != nullptr) in_flight_.push_back(std::move(issuing_));
  for (std::deque<std::shared_ptr<Active>>* list : {&in_flight_, &queued_}) {
    for (std::shared_ptr<Active>& active : *list) {
      reports_.emplace_back(std::move(active->operation.done), error_);
      doomed_.push_back(std::move(active));
    }
    list->clear();
  }
  if (std::exchange(id_owed_, false) && options_.on_id) {
    reports_.emplace_back([on_id = options_.on_id](absl::Status status) { on_id(status); }, error_);
  }
  wake_.notify_all();
  options_.wake_up->Notify();
}

void Communicator::RunReports() {
  Reports reports;
  {
    const std::lock_guard lock(mutex_);
    reports.swap(reports_);
  }
  for (auto& [done, status] : reports) done(status);
}

// The thread is stuck inside a call. An abort makes most calls return; one that does not return itself is left as well.
void Communicator::GiveUpLocked() {
  given_up_ = true;
  BreakLocked(absl::UnavailableError(
      absl::StrCat("a call of NCCL has not returned in ", absl::FormatDuration(options_.call_limit))));
  if (abort_begun_ || comm_ == nullptr) return;
  abort_begun_ = true;
  ++inside_;
  std::thread([self = shared_from_this(), comm = comm_] {
    self->options_.library->comm_abort(comm);
    self->Leave();
  }).detach();
}

// --- The watchdog.

bool Communicator::Tick(absl::Time now) {
  std::vector<std::shared_ptr<Active>> drained;
  bool soon;
  {
    const std::lock_guard lock(mutex_);
    EndDoneLocked(now);
    CheckTimesLocked(now);
    drained = DrainLocked();
    soon = !in_flight_.empty() || passed_ != nullptr;
  }
  RunReports();
  return soon;
}

void Communicator::EndDoneLocked(absl::Time now) {
  while (!in_flight_.empty()) {
    const absl::StatusOr<bool> done = in_flight_.front()->event->Done();
    if (!done.ok()) return BreakLocked(done.status());
    if (!*done) return;
    reports_.emplace_back(std::move(in_flight_.front()->operation.done), absl::OkStatus());
    in_flight_.pop_front();
    idle_since_ = now;
    wake_.notify_one();
  }
}

void Communicator::CheckTimesLocked(absl::Time now) {
  if (stage_ == Stage::kOpening && now >= options_.open_deadline) {
    BreakLocked(absl::DeadlineExceededError("NCCL: the communicator was not up in time"));
  }
  if (stage_ == Stage::kClosing && now >= close_deadline_) {
    BreakLocked(absl::DeadlineExceededError("NCCL: the communicator was not finalized in time"));
  }
  const auto late = [now](const std::shared_ptr<Active>& active) {
    return active != nullptr && active->operation.deadline <= now;
  };
  if (late(issuing_) || std::any_of(queued_.begin(), queued_.end(), late) ||
      std::any_of(in_flight_.begin(), in_flight_.end(), late)) {
    BreakLocked(absl::DeadlineExceededError("NCCL: a transfer was not done in time"));
  }
  if (!given_up_ && now - call_since_ >= options_.call_limit) GiveUpLocked();
}

// What the operations held, once nothing can touch it any more.
std::vector<std::shared_ptr<Communicator::Active>> Communicator::DrainLocked() {
  if (stage_ != Stage::kBroken || inside_ > 0 || drained_) return {};
  if (passed_ == nullptr) {
    absl::StatusOr<std::unique_ptr<DeviceEvent>> passed = stream_->Record();
    if (passed.ok()) passed_ = *std::move(passed);
  }
  if (passed_ != nullptr) {
    // A device that has failed runs nothing more.
    if (const absl::StatusOr<bool> done = passed_->Done(); done.ok() && !*done) return {};
  }
  passed_ = nullptr;
  drained_ = true;
  return std::exchange(doomed_, {});
}

}  // namespace kvist
