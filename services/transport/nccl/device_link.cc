#include "services/transport/nccl/device_link.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/transport/nccl/pending.h"

namespace kvist {
namespace {

using Stage = Communicator::Stage;

constexpr size_t kUuidBytes = sizeof(DeviceDescription::uuid);

// For another thread: two must not share a Status' count.
absl::Status Copy(const absl::Status& status) { return absl::Status(status.code(), status.message()); }

uint64_t Aligned(uint64_t size_bytes) {
  return (size_bytes + kLandingAlignment - 1) / kLandingAlignment * kLandingAlignment;
}

std::string Joined(absl::Span<const Key> keys) {
  std::string bytes;
  for (const Key& key : keys) bytes.append(reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size());
  return bytes;
}

uint64_t OfferedBytes(const v1::BlockOffer& offer) {
  uint64_t size = 0;
  for (const uint64_t extent : offer.extent_bytes()) size += extent;
  return size;
}

absl::Status CheckOffer(const v1::TransferResponse& response, size_t keys) {
  if (size_t(response.blocks_size()) != keys) {
    return absl::InternalError(absl::StrCat(response.blocks_size(), " offers for ", keys, " keys"));
  }
  constexpr uint64_t kMost = uint64_t{1} << 40;  // no sum of these wraps
  for (const v1::BlockOffer& offer : response.blocks()) {
    const bool here = offer.miss() == v1::MISS_REASON_UNSPECIFIED && !offer.elsewhere();
    if (here == offer.extent_bytes().empty()) return absl::InternalError("an offer without bytes, or a miss with some");
    for (const uint64_t extent : offer.extent_bytes()) {
      if (extent == 0 || extent > kMost) return absl::InternalError("an offer of an impossible size");
    }
  }
  return absl::OkStatus();
}

// Each block at its place from `at` on, and the extents that it will come in.
std::vector<FetchedBlock> Place(const v1::TransferResponse& response, DeviceAddress at,
                                std::vector<DeviceExtent>* extents) {
  std::vector<FetchedBlock> blocks;
  for (const v1::BlockOffer& offer : response.blocks()) {
    const uint64_t size = OfferedBytes(offer);
    blocks.push_back({offer.miss(), offer.elsewhere(), {at, size}});
    DeviceAddress within = at;
    for (const uint64_t extent_bytes : offer.extent_bytes()) {
      extents->push_back({within, extent_bytes});
      within = within + extent_bytes;
    }
    at = at + Aligned(size);
  }
  return blocks;
}

}  // namespace

struct DeviceLink::Core : std::enable_shared_from_this<DeviceLink::Core> {
  Core(Communicators* communicators_in, std::unique_ptr<TransferControl> control_in, ThreadPool* errands_in,
       DeviceLinkOptions options_in)
      : communicators(communicators_in),
        control(std::move(control_in)),
        errands(errands_in),
        options(std::move(options_in)) {}

  Communicators* const communicators;
  const std::unique_ptr<TransferControl> control;
  ThreadPool* const errands;
  const DeviceLinkOptions options;

  std::mutex mutex;
  State state ABSL_GUARDED_BY(mutex) = State::kClosed;
  Epoch epoch ABSL_GUARDED_BY(mutex);
  absl::Status why ABSL_GUARDED_BY(mutex);
  absl::Time pause_until ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
  int failures_in_row ABSL_GUARDED_BY(mutex) = 0;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  Counts counts ABSL_GUARDED_BY(mutex);

  void Open();
  void Failed(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Watch();
  void Tell(uint64_t number, absl::Status why_over);
};

// An errand: asks the node for an epoch and takes the seat in it.
void DeviceLink::Core::Open() {
  v1::OpenEpochRequest request;
  request.set_nccl_version(uint32_t(communicators->library().version));
  request.set_worker_id(options.worker_id);
  request.set_host_id(options.host_id);
  request.set_device_uuid(communicators->device()->description().uuid.data(), kUuidBytes);
  absl::StatusOr<v1::OpenEpochResponse> response = control->Open(request, absl::Now() + options.control_limit);
  if (response.ok() && response->unique_id().size() != nccl::kUniqueIdBytes) {
    response = absl::InternalError("the node's NCCL id is not 128 bytes");
  }
  Epoch opened;
  absl::Status status = response.status();
  if (response.ok()) {
    opened.number = response->epoch();
    nccl::UniqueId id;
    std::memcpy(id.bytes, response->unique_id().data(), sizeof(id.bytes));
    absl::StatusOr<std::shared_ptr<Communicator>> communicator = communicators->Open({1, 2, id, nullptr});
    status = communicator.status();
    if (communicator.ok()) opened.communicator = *std::move(communicator);
  }
  {
    const std::lock_guard lock(mutex);
    if (status.ok() && stopping) status = absl::CancelledError("the link has gone");
    if (status.ok()) {
      epoch = opened;  // Watch sees it become ready, or fail
      return;
    }
    Failed(status);
  }
  if (opened.communicator != nullptr) opened.communicator->Abort(Copy(status));
  if (opened.number != 0) Tell(opened.number, status);
}

void DeviceLink::Core::Failed(absl::Status status) {
  ++counts.failures;
  why = Copy(status);
  epoch = {};
  if (absl::IsFailedPrecondition(status)) {
    state = State::kRefused;
    pause_until = absl::Now() + options.refused_pause;
    return;
  }
  state = State::kBackingOff;
  const int doublings = std::min(failures_in_row++, 16);
  const absl::Duration pause = std::min(options.first_pause * (1 << doublings), options.longest_pause);
  // A half to one and a half: workers that lost one node do not come back to it together.
  pause_until = absl::Now() + pause * (0.5 + double(errands->runtime()->Random() >> 11) * 0x1p-53);
}

// On the watchdog: what became of the communicator.
void DeviceLink::Core::Watch() {
  const std::lock_guard lock(mutex);
  if (epoch.communicator == nullptr) return;
  const uint64_t number = epoch.number;
  switch (epoch.communicator->stage()) {
    case Stage::kOpening:
      return;
    case Stage::kReady:
      if (state == State::kOpening) {
        state = State::kOpen;
        ++counts.epochs;
      }
      return;
    case Stage::kBroken: {
      const absl::Status status = epoch.communicator->error();
      Failed(status);
      errands->Submit([self = shared_from_this(), number, status = Copy(status)] { self->Tell(number, status); });
      return;
    }
    case Stage::kClosing:
    case Stage::kClosed:
      state = State::kClosed;
      epoch = {};
      errands->Submit([self = shared_from_this(), number] { self->Tell(number, absl::OkStatus()); });
      return;
  }
}

// The node finds out without it, later.
void DeviceLink::Core::Tell(uint64_t number, absl::Status why_over) {
  const absl::Time deadline = absl::Now() + options.control_limit;
  if (why_over.ok()) {
    v1::CloseEpochRequest request;
    request.set_epoch(number);
    control->Close(request, deadline).IgnoreError();
    return;
  }
  v1::AbortRequest request;
  request.set_epoch(number);
  request.set_why(std::string(why_over.message()));
  control->Abort(request, deadline).IgnoreError();
}

DeviceLink::DeviceLink(Communicators* communicators, std::unique_ptr<TransferControl> control, ThreadPool* errands,
                       DeviceLinkOptions options)
    : core_(std::make_shared<Core>(communicators, std::move(control), errands, std::move(options))) {
  tick_ = communicators->AddTick([core = core_.get()](absl::Time) { core->Watch(); });
}

DeviceLink::~DeviceLink() {
  core_->communicators->RemoveTick(tick_);
  Epoch epoch;
  {
    const std::lock_guard lock(core_->mutex);
    core_->stopping = true;
    epoch = std::exchange(core_->epoch, {});
  }
  if (epoch.communicator == nullptr) return;
  const absl::Status why = absl::CancelledError("the link is closed");
  epoch.communicator->Abort(Copy(why));
  core_->errands->Submit([core = core_, number = epoch.number, why = Copy(why)] { core->Tell(number, why); });
}

absl::StatusOr<DeviceLink::Epoch> DeviceLink::OpenEpoch() {
  Core& core = *core_;
  const std::lock_guard lock(core.mutex);
  if (core.state == State::kOpen) return core.epoch;
  const bool may_open =
      core.state == State::kClosed || (core.state != State::kOpening && absl::Now() >= core.pause_until);
  if (may_open) {
    core.state = State::kOpening;
    core.errands->Submit([self = core_] { self->Open(); });
  }
  return absl::UnavailableError(
      absl::StrCat("no transfers from device to device now", core.why.ok() ? "" : ": ", core.why.message()));
}

absl::StatusOr<Fetched> DeviceLink::Fetch(absl::Span<const Key> keys, const TakeLanding& take, absl::Time deadline) {
  const absl::StatusOr<Epoch> epoch = OpenEpoch();
  if (!epoch.ok()) return epoch.status();
  const absl::Span<const Key> asked = keys.subspan(0, kMostTransferKeys);
  v1::TransferRequest request;
  request.set_epoch(epoch->number);
  request.set_operation(next_operation_++);
  request.set_keys(Joined(asked));
  request.set_deadline_ms(uint32_t(std::max<int64_t>(1, absl::ToInt64Milliseconds(deadline - absl::Now()))));
  const absl::StatusOr<v1::TransferResponse> offered = core_->control->Transfer(request, deadline);
  if (!offered.ok()) return Failed(*epoch, offered.status());
  if (absl::Status status = CheckOffer(*offered, asked.size()); !status.ok()) return Failed(*epoch, status);

  uint64_t total = 0;
  for (const v1::BlockOffer& offer : offered->blocks()) total += Aligned(OfferedBytes(offer));
  const absl::StatusOr<Landing> landing = total == 0 ? Landing() : take(total);
  if (!landing.ok()) {
    v1::AbortRequest abort;
    abort.set_epoch(epoch->number);
    abort.set_operation(request.operation());
    core_->control->Abort(abort, deadline).IgnoreError();  // or its deadline ends it
    return landing.status();
  }
  std::vector<DeviceExtent> extents;
  Fetched fetched;
  fetched.blocks = Place(*offered, landing->address, &extents);
  fetched.blocks.resize(keys.size(), FetchedBlock{v1::MISS_REASON_UNSPECIFIED, true, {}});
  fetched.hold = landing->hold;
  if (!extents.empty()) {
    const absl::Status status = Receive(*epoch, request.operation(), extents, landing->hold, deadline);
    if (!status.ok()) return Failed(*epoch, status);
  }
  const std::lock_guard lock(core_->mutex);
  core_->failures_in_row = 0;
  ++core_->counts.transfers;
  core_->counts.bytes += TotalBytes(extents);
  return fetched;
}

absl::Status DeviceLink::Receive(const Epoch& epoch, uint64_t operation, const std::vector<DeviceExtent>& extents,
                                 const std::shared_ptr<void>& hold, absl::Time deadline) {
  Pending pending;
  {
    std::unique_lock order(order_, std::defer_lock);
    if (!order.try_lock_until(absl::ToChronoTime(deadline))) {
      return absl::DeadlineExceededError("the node did not take up an earlier transfer in time");
    }
    v1::StartRequest request;
    request.set_epoch(epoch.number);
    request.set_operation(operation);
    const absl::StatusOr<v1::StartResponse> started = core_->control->Start(request, deadline);
    if (!started.ok()) return started.status();
    Operation receive;
    receive.kind = Operation::Kind::kReceive;
    receive.peer = 0;
    receive.extents = extents;
    receive.hold = hold;
    receive.deadline = deadline;
    receive.done = pending.Done();
    epoch.communicator->Submit(std::move(receive));
  }
  return pending.Wait(deadline);
}

// The epoch ends with its first failure: what either end has issued by then is not known to the other.
absl::Status DeviceLink::Failed(const Epoch& epoch, absl::Status why) {
  // The node is only busy, and nothing was issued.
  if (absl::IsResourceExhausted(why)) return why;
  const absl::Status reason =
      absl::UnavailableError(absl::StrCat("a transfer from device to device failed: ", why.message()));
  {
    const std::lock_guard lock(core_->mutex);
    if (core_->epoch.communicator == epoch.communicator) core_->Failed(reason);
  }
  epoch.communicator->Abort(Copy(reason));
  core_->errands->Submit([core = core_, number = epoch.number, why = Copy(reason)] { core->Tell(number, why); });
  return why;
}

DeviceLink::State DeviceLink::state() const {
  const std::lock_guard lock(core_->mutex);
  return core_->state;
}
absl::Status DeviceLink::why() const {
  const std::lock_guard lock(core_->mutex);
  return core_->state == State::kOpen ? absl::OkStatus() : Copy(core_->why);
}
DeviceLink::Counts DeviceLink::counts() const {
  const std::lock_guard lock(core_->mutex);
  return core_->counts;
}

}  // namespace kvist
