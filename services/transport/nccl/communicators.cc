#include "services/transport/nccl/communicators.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/transport/retry_hint.h"

namespace kvist {
namespace {

using Stage = Communicator::Stage;

constexpr absl::Duration kBusyPause = absl::Microseconds(100);  // a block of 1 MiB takes some 50 us over 200 Gbit/s
constexpr absl::Duration kCalmPause = absl::Milliseconds(5);

}  // namespace

Communicators::Communicators(std::shared_ptr<const NcclLibrary> library, Device* device, NcclLimits limits)
    : library_(std::move(library)), device_(device), limits_(limits), watchdog_([this] { Watch(); }) {}

Communicators::~Communicators() {
  std::vector<std::shared_ptr<Communicator>> open;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    stop_by_ = absl::Now() + limits_.close_limit;
    for (const Place& place : places_) open.push_back(place.communicator);
  }
  for (const auto& communicator : open) communicator->Abort(absl::CancelledError("the process stops"));
  wake_up_->Notify();
  watchdog_.join();
}

absl::StatusOr<std::shared_ptr<Communicator>> Communicators::Open(Seat seat) {
  if (device_->description().mig) {
    return absl::FailedPreconditionError("NCCL does not serve a slice of a GPU (MIG)");
  }
  absl::StatusOr<std::unique_ptr<Stream>> stream = device_->NewStream();
  if (!stream.ok()) return stream.status();
  CommunicatorOptions options;
  options.library = library_;
  options.device = device_;
  options.wake_up = wake_up_;
  options.rank = seat.rank;
  options.ranks = seat.ranks;
  options.id = seat.id;
  options.on_id = std::move(seat.on_id);
  options.max_ctas = limits_.max_ctas;
  options.open_deadline = absl::Now() + limits_.open_limit;
  options.call_limit = limits_.call_limit;
  options.close_limit = limits_.close_limit;
  const std::lock_guard lock(mutex_);
  if (absl::Status status = RoomLocked(absl::Now()); !status.ok()) return status;
  places_.push_back({Communicator::Start(std::move(options), *std::move(stream))});
  return places_.back().communicator;
}

absl::Status Communicators::RoomLocked(absl::Time now) {
  if (stopping_) return absl::UnavailableError("the process stops");
  if (const int left = LeftBehindLocked(); left >= limits_.max_left_behind) {
    return absl::UnavailableError(
        absl::StrCat(left, " threads are stuck inside NCCL: it is not used until they return"));
  }
  if (int(places_.size()) < limits_.max_communicators) return absl::OkStatus();
  Place* idlest = nullptr;
  // One that is on its way out makes the room: a caller that tries again must not send out a second for it.
  bool one_goes = false;
  for (Place& place : places_) {
    one_goes |= place.idle_close;
    if (place.communicator->stage() != Stage::kReady) continue;
    if (now - place.communicator->idle_since() < limits_.least_idle) continue;
    if (idlest == nullptr || place.communicator->idle_since() < idlest->communicator->idle_since()) idlest = &place;
  }
  if (idlest != nullptr && !one_goes) {
    idlest->idle_close = true;
    idlest->communicator->Close();
    one_goes = true;
  }
  return WithRetryHint(absl::ResourceExhaustedError(
                           absl::StrCat("all ", limits_.max_communicators, " communicators of this device are taken")),
                       one_goes ? absl::Milliseconds(50) : limits_.least_idle);
}

int Communicators::LeftBehindLocked() const {
  int left = 0;
  for (const Place& place : places_) left += place.communicator->left_behind();
  return left;
}

int Communicators::AddTick(std::function<void(absl::Time now)> tick) {
  const std::lock_guard lock(ticks_mutex_);
  ticks_.push_back({next_tick_, std::move(tick)});
  return next_tick_++;
}
void Communicators::RemoveTick(int id) {
  const std::lock_guard lock(ticks_mutex_);
  std::erase_if(ticks_, [id](const Tick& tick) { return tick.id == id; });
}

Communicators::Counts Communicators::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts = counts_;
  counts.live = int(places_.size());
  counts.left_behind = LeftBehindLocked();
  return counts;
}

void Communicators::Watch() {
  while (!StoppedAndEmpty(absl::Now())) {
    const bool soon = WatchOnce(absl::Now());
    wake_up_->WaitUntil(absl::Now() + (soon ? kBusyPause : kCalmPause));
  }
}

bool Communicators::StoppedAndEmpty(absl::Time now) const {
  const std::lock_guard lock(mutex_);
  return stopping_ && (places_.empty() || now >= stop_by_);
}

bool Communicators::WatchOnce(absl::Time now) {
  std::vector<std::shared_ptr<Communicator>> watched;
  {
    const std::lock_guard lock(mutex_);
    for (const Place& place : places_) watched.push_back(place.communicator);
  }
  bool soon = false;
  for (const auto& communicator : watched) soon |= communicator->Tick(now);
  {
    const std::lock_guard lock(mutex_);
    // Asked once a round: what is gone is counted and taken out in one step.
    std::erase_if(places_, [this](Place& place) { return CountLocked(&place); });
    for (Place& place : places_) {
      if (place.communicator->stage() == Stage::kReady && !place.communicator->busy() &&
          now - place.communicator->idle_since() >= limits_.idle_limit) {
        place.idle_close = true;
        place.communicator->Close();
      }
    }
  }
  const std::lock_guard lock(ticks_mutex_);
  for (const Tick& tick : ticks_) tick.run(now);
  return soon;
}

// Once for readiness, once for the end. True at the end.
bool Communicators::CountLocked(Place* place) {
  const bool gone = place->communicator->gone();
  const Stage stage = place->communicator->stage();
  if (!place->counted && (stage == Stage::kReady || stage == Stage::kClosing || stage == Stage::kClosed)) {
    place->counted = true;
    ++counts_.opened;
  }
  if (!gone) return false;
  ++(stage == Stage::kClosed ? counts_.closed : counts_.broken);
  if (place->idle_close) ++counts_.closed_idle;
  if (stage == Stage::kBroken) counts_.last_failure = std::string(place->communicator->error().message());
  return true;
}

}  // namespace kvist
