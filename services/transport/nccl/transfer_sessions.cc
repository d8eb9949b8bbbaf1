#include "services/transport/nccl/transfer_sessions.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/transport/miss_reason.h"

namespace kvist {
namespace {

using Stage = Communicator::Stage;

absl::Status Over(uint64_t epoch, const absl::Status& why) {
  return absl::AbortedError(absl::StrCat("epoch ", epoch, " is over", why.ok() ? "" : ": ", why.message()));
}

std::vector<Key> KeysOf(const std::string& bytes) {
  std::vector<Key> keys(bytes.size() / sizeof(Key::bytes));
  for (size_t i = 0; i < keys.size(); ++i) {
    std::memcpy(keys[i].bytes.data(), bytes.data() + i * sizeof(Key::bytes), sizeof(Key::bytes));
  }
  return keys;
}

}  // namespace

std::string HostId() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return absl::StrCat(name, "/", boot);  // containers of one machine have one boot id, and GPUs of their own
}

TransferSessions::TransferSessions(Communicators* communicators, DeviceBlocks* blocks, std::string host_id,
                                   TransferLimits limits)
    : communicators_(communicators),
      blocks_(blocks),
      host_id_(std::move(host_id)),
      limits_(limits),
      // No epoch of an earlier run of this node is taken for one of this.
      last_epoch_(uint64_t(absl::ToUnixMicros(absl::Now()))) {
  tick_ = communicators_->AddTick([this](absl::Time now) { Sweep(now); });
}

TransferSessions::~TransferSessions() {
  communicators_->RemoveTick(tick_);
  std::map<uint64_t, Session> sessions;
  {
    const std::lock_guard lock(mutex_);
    sessions.swap(sessions_);
  }
  for (auto& [epoch, session] : sessions) session.communicator->Abort(absl::CancelledError("the node stops"));
}

absl::Status TransferSessions::CheckWorker(const v1::OpenEpochRequest& request) {
  const int ours = communicators_->library().version;
  if (request.nccl_version() != uint32_t(ours)) {
    const std::lock_guard lock(tally_->mutex);
    ++tally_->counts.refused_versions;
    return absl::FailedPreconditionError(absl::StrCat("NCCL ", NcclVersionName(int(request.nccl_version())),
                                                      " at the worker, ", NcclVersionName(ours),
                                                      " at the node: both must load the same"));
  }
  if (request.worker_id().empty()) return absl::InvalidArgumentError("a worker without an id");
  const auto& uuid = communicators_->device()->description().uuid;
  const bool same_device = request.device_uuid().size() == uuid.size() &&
                           std::memcmp(request.device_uuid().data(), uuid.data(), uuid.size()) == 0;
  if (request.device_uuid().size() != uuid.size()) return absl::InvalidArgumentError("a device uuid is 16 bytes");
  if (same_device && request.host_id() == host_id_ && !limits_.one_gpu) {
    return absl::FailedPreconditionError("worker and node are on one GPU: NCCL does not join two ranks there");
  }
  return communicators_->device()->Health();
}

void TransferSessions::Open(const v1::OpenEpochRequest& request,
                            std::function<void(absl::StatusOr<v1::OpenEpochResponse>)> done) {
  if (absl::Status status = CheckWorker(request); !status.ok()) return done(status);
  std::vector<std::shared_ptr<Communicator>> former;
  uint64_t epoch;
  {
    const std::lock_guard lock(mutex_);
    epoch = ++last_epoch_;
    for (auto& [other, session] : sessions_) {
      if (session.worker_id == request.worker_id()) former.push_back(session.communicator);
    }
  }
  for (const auto& communicator : former) communicator->Abort(absl::AbortedError("the worker opens anew"));
  v1::OpenEpochResponse response;
  response.set_epoch(epoch);
  response.set_nccl_version(uint32_t(communicators_->library().version));
  response.set_open_ms(uint32_t(absl::ToInt64Milliseconds(communicators_->limits().open_limit)));
  // The id comes on the communicator's thread. Until the session stands, nobody can name its epoch.
  auto answer = [response, done](absl::StatusOr<nccl::UniqueId> id) mutable {
    if (!id.ok()) return done(id.status());
    response.set_unique_id(id->bytes, sizeof(id->bytes));
    done(std::move(response));
  };
  // Under the lock, so that the answer is not used before the session stands.
  std::unique_lock lock(mutex_);
  absl::StatusOr<std::shared_ptr<Communicator>> communicator =
      communicators_->Open({0, 2, std::nullopt, std::move(answer)});
  if (communicator.ok()) sessions_[epoch] = {request.worker_id(), *std::move(communicator), {}};
  lock.unlock();
  if (!communicator.ok()) done(communicator.status());
}

absl::StatusOr<TransferSessions::Session*> TransferSessions::FindLocked(uint64_t epoch) {
  const auto found = sessions_.find(epoch);
  if (found == sessions_.end()) return Over(epoch, absl::OkStatus());
  const Stage stage = found->second.communicator->stage();
  if (stage != Stage::kOpening && stage != Stage::kReady) return Over(epoch, found->second.communicator->error());
  return &found->second;
}

absl::Status TransferSessions::CheckTransfer(const v1::TransferRequest& request) const {
  const size_t size = request.keys().size();
  if (size == 0 || size % sizeof(Key::bytes) != 0 || size / sizeof(Key::bytes) > size_t(limits_.max_keys)) {
    return absl::InvalidArgumentError(absl::StrCat("keys are 1 to ", limits_.max_keys, " times 32 bytes, not ", size));
  }
  if (request.operation() == 0) return absl::InvalidArgumentError("operations are numbered from 1");
  return absl::OkStatus();
}

absl::StatusOr<TransferSessions::Offer> TransferSessions::MakeOffer(const v1::TransferRequest& request,
                                                                    v1::TransferResponse* response) {
  Offer offer;
  offer.pins = std::make_shared<Pins>();
  offer.deadline = absl::Now() + std::min(absl::Milliseconds(request.deadline_ms()), limits_.longest);
  for (const Key& key : KeysOf(request.keys())) {
    absl::StatusOr<DeviceLookup> lookup = blocks_->GetOnDevice(key);
    if (!lookup.ok()) return lookup.status();
    v1::BlockOffer& described = *response->add_blocks();
    described.set_miss(ToWire(lookup->miss));
    const bool fits = lookup->pin != nullptr && lookup->pin->size_bytes() <= limits_.max_bytes - offer.bytes;
    described.set_elsewhere(lookup->tier != Tier::kNone && !fits);
    if (!fits) continue;
    for (const DeviceExtent& extent : lookup->pin->extents()) {
      described.add_extent_bytes(extent.size_bytes);
      offer.extents.push_back(extent);
    }
    offer.bytes += lookup->pin->size_bytes();
    offer.pins->push_back(std::move(lookup->pin));
  }
  return offer;
}

absl::StatusOr<v1::TransferResponse> TransferSessions::Transfer(const v1::TransferRequest& request) {
  if (absl::Status status = CheckTransfer(request); !status.ok()) return status;
  {
    const std::lock_guard lock(mutex_);
    const absl::StatusOr<Session*> session = FindLocked(request.epoch());
    if (!session.ok()) return session.status();
    if ((*session)->offers.size() >= size_t(limits_.max_offered)) {
      return absl::ResourceExhaustedError(absl::StrCat(limits_.max_offered, " operations wait for their start"));
    }
  }
  v1::TransferResponse response;
  absl::StatusOr<Offer> offer = MakeOffer(request, &response);
  if (!offer.ok()) return offer.status();
  if (offer->bytes == 0) return response;
  const std::lock_guard lock(mutex_);
  const absl::StatusOr<Session*> session = FindLocked(request.epoch());
  if (!session.ok()) return session.status();
  if (!(*session)->offers.emplace(request.operation(), *std::move(offer)).second) {
    return absl::InvalidArgumentError(absl::StrCat("operation ", request.operation(), " is there already"));
  }
  return response;
}

absl::StatusOr<v1::StartResponse> TransferSessions::Start(const v1::StartRequest& request) {
  const std::lock_guard lock(mutex_);
  const absl::StatusOr<Session*> session = FindLocked(request.epoch());
  if (!session.ok()) return session.status();
  auto node = (*session)->offers.extract(request.operation());
  if (node.empty() || node.mapped().deadline <= absl::Now()) {
    return absl::AbortedError(absl::StrCat("operation ", request.operation(), " is over, or was never offered"));
  }
  Offer& offer = node.mapped();
  Operation operation;
  operation.kind = Operation::Kind::kSend;
  operation.peer = 1;
  operation.extents = std::move(offer.extents);
  operation.deadline = offer.deadline;
  operation.done = [tally = tally_, bytes = offer.bytes](absl::Status status) {
    const std::lock_guard tally_lock(tally->mutex);
    ++(status.ok() ? tally->counts.sent : tally->counts.failed);
    if (status.ok()) tally->counts.sent_bytes += bytes;
  };
  operation.hold = std::move(offer.pins);
  {
    const std::lock_guard tally_lock(tally_->mutex);
    ++tally_->counts.started;
  }
  // Under the lock: the order of Starts is the order of the sends.
  (*session)->communicator->Submit(std::move(operation));
  return v1::StartResponse();
}

absl::StatusOr<v1::AbortResponse> TransferSessions::Abort(const v1::AbortRequest& request) {
  std::shared_ptr<Communicator> communicator;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find(request.epoch());
    if (found == sessions_.end()) return v1::AbortResponse();
    if (request.operation() != 0) {
      found->second.offers.erase(request.operation());
      return v1::AbortResponse();
    }
    communicator = found->second.communicator;
  }
  communicator->Abort(absl::AbortedError(absl::StrCat("the worker gave up: ", request.why().substr(0, 200))));
  return v1::AbortResponse();
}

absl::StatusOr<v1::CloseEpochResponse> TransferSessions::Close(const v1::CloseEpochRequest& request) {
  std::shared_ptr<Communicator> communicator;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find(request.epoch());
    if (found == sessions_.end()) return v1::CloseEpochResponse();
    communicator = found->second.communicator;
    found->second.offers.clear();
  }
  communicator->Close();
  return v1::CloseEpochResponse();
}

void TransferSessions::Sweep(absl::Time now) {
  uint64_t expired = 0;
  {
    const std::lock_guard lock(mutex_);
    for (auto session = sessions_.begin(); session != sessions_.end();) {
      const Stage stage = session->second.communicator->stage();
      const bool over = stage == Stage::kClosed || stage == Stage::kBroken;
      expired += std::erase_if(session->second.offers,
                               [&](const auto& offer) { return over || offer.second.deadline <= now; });
      session = over ? sessions_.erase(session) : std::next(session);
    }
  }
  if (expired == 0) return;
  const std::lock_guard lock(tally_->mutex);
  tally_->counts.expired += expired;
}

TransferSessions::Counts TransferSessions::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts;
  {
    const std::lock_guard tally_lock(tally_->mutex);
    counts = tally_->counts;
  }
  counts.sessions = int(sessions_.size());
  for (const auto& [epoch, session] : sessions_) {
    for (const auto& [operation, offer] : session.offers) counts.offered_bytes += offer.bytes;
  }
  return counts;
}

}  // namespace kvist
