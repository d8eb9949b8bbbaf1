#include "services/cluster/etcd_registration.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cluster/records.h"

namespace kvist {
namespace {

constexpr absl::Duration kRivalPoll = absl::Milliseconds(250);
constexpr absl::Duration kRetry = absl::Seconds(1);  // after etcd answered that it will not

bool EndsConversation(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status);
}

bool ForGood(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status) || absl::IsInvalidArgument(status) ||
         absl::IsFailedPrecondition(status);
}

}  // namespace

EtcdRegistration::EtcdRegistration(const EtcdOptions& options, EtcdClient* client, EtcdMembers* members,
                                   Runtime* runtime)
    : options_(options), client_(client), members_(members), runtime_(runtime) {}

void EtcdRegistration::Want(const Node& node, uint64_t generation) {
  wanted_ = node;
  wanted_generation_ = generation;
  retry_at_ = absl::InfinitePast();
}

absl::Time EtcdRegistration::Next() const {
  absl::Time next = lease_ != 0 ? renew_at_ : absl::InfiniteFuture();
  const bool done = stands_ && written_generation_ == wanted_generation_ && !members_->own_record_is_gone();
  if (wanted_ && !done) next = std::min(next, retry_at_);
  return next;
}

absl::Status EtcdRegistration::Step() {
  const absl::Time now = runtime_->Now();
  if (lease_ != 0 && now >= renew_at_) return Renew();
  if (stands_ && members_->own_record_is_gone()) Lose();
  if (!wanted_ || now < retry_at_) return absl::OkStatus();
  if (!stands_) return Register();
  return written_generation_ == wanted_generation_ ? absl::OkStatus() : Rewrite();
}

absl::Status EtcdRegistration::Renew() {
  const absl::Time asked = runtime_->Now();
  const absl::StatusOr<absl::Duration> left = client_->KeepAlive(lease_);
  if (!left.ok()) {
    renew_at_ = asked + kRetry;
    return Retry(left.status());
  }
  if (*left <= absl::ZeroDuration()) {
    Lose();
    return absl::OkStatus();
  }
  lease_ends_ = asked + options_.lease * 0.8;
  renew_at_ = asked + options_.lease / 3;
  return absl::OkStatus();
}

void EtcdRegistration::Lose() {
  stands_ = false;
  lease_ = 0;
  retry_at_ = absl::InfinitePast();
}

absl::Status EtcdRegistration::Register() {
  const EtcdKeyValue* there = members_->Entry(wanted_->id);
  std::string address;
  if (there != nullptr && !IsOurs(*there, &address)) return WatchRival(*there, address);
  rival_.reset();
  if (absl::Status leased = ObtainLease(); !leased.ok() || lease_ == 0) return leased;
  Node self = *wanted_;
  const int64_t now_ms = absl::ToUnixMillis(runtime_->Now());
  self.incarnation = std::max({static_cast<uint64_t>(std::max<int64_t>(1, now_ms)),
                               members_->GreatestIncarnation(self.id) + 1, incarnation_ + 1});
  const EtcdCondition condition = there == nullptr
                                      ? EtcdCondition{EtcdCondition::Kind::kAbsent, 0}
                                      : EtcdCondition{EtcdCondition::Kind::kModRevision, there->mod_revision};
  const absl::StatusOr<EtcdPut> put = client_->PutIf(members_->NodeKey(self.id), condition, RecordToJson(self), lease_);
  if (absl::IsNotFound(put.status())) Lose();  // the lease ended meanwhile
  if (!put.ok()) return Retry(put.status());
  if (!put->done) return RetryIn(kRivalPoll, "another wrote our record at the same time");
  incarnation_ = self.incarnation;
  stands_ = stood_ = true;
  ++registrations_;
  written_generation_ = wanted_generation_;
  written_revision_ = put->revision;
  members_->SetSelf(self, put->revision);
  problem_.clear();
  return absl::OkStatus();
}

absl::Status EtcdRegistration::ObtainLease() {
  if (lease_ != 0) return absl::OkStatus();
  const absl::Time asked = runtime_->Now();
  const absl::StatusOr<int64_t> lease = client_->GrantLease(options_.lease);
  if (!lease.ok()) return Retry(lease.status());
  lease_ = *lease;
  lease_ends_ = asked + options_.lease * 0.8;
  renew_at_ = asked + options_.lease / 3;
  return absl::OkStatus();
}

// Whether the record under our key may be written over: it stands under no lease, is no record, or has our address. The
// address is the other node's if not.
bool EtcdRegistration::IsOurs(const EtcdKeyValue& there, std::string* address) const {
  if (there.lease == 0 || there.lease == lease_) return true;
  const absl::StatusOr<Node> other = RecordFromJson(there.value);
  if (absl::IsFailedPrecondition(other.status())) {
    *address = "an address that only a later protocol can tell";
    return false;
  }
  if (!other.ok() || other->address == wanted_->address) return true;
  *address = other->address.ToString();
  return false;
}

absl::Status EtcdRegistration::WatchRival(const EtcdKeyValue& there, const std::string& address) {
  const absl::Time asked = runtime_->Now();
  const absl::StatusOr<absl::Duration> left = client_->TimeToLive(there.lease);
  if (!left.ok()) return Retry(left.status());
  const std::string who = absl::StrCat("the id \"", wanted_->id.value, "\" is taken by a node at ", address);
  if (!rival_ || rival_->lease != there.lease) {
    rival_ = Rival{there.lease, there.mod_revision, *left, runtime_->Now()};
  }
  // Etcd tells whole seconds, rounded down: without a renewal less than this would be left, or nothing.
  const absl::Duration bound = rival_->left + absl::Seconds(1) - (asked - rival_->asked);
  const bool renewed = *left > absl::ZeroDuration() && *left >= bound;
  if (renewed || there.mod_revision != rival_->mod_revision) {
    absl::Status refusal =
        absl::AlreadyExistsError(absl::StrCat(who, ", which lives: give this node another id, or stop that one"));
    if (!stood_) {
      Refuse(std::move(refusal));
      return absl::OkStatus();
    }
    return RetryIn(kRetry, std::string(refusal.message()));
  }
  return RetryIn(kRivalPoll, absl::StrCat(who, "; it lives, or its lease ends in ", absl::FormatDuration(*left)));
}

absl::Status EtcdRegistration::Rewrite() {
  Node self = *wanted_;
  self.incarnation = incarnation_;
  const absl::StatusOr<EtcdPut> put =
      client_->PutIf(members_->NodeKey(self.id), {EtcdCondition::Kind::kLease, lease_}, RecordToJson(self), lease_);
  if (!put.ok()) return Retry(put.status());
  if (!put->done) {  // it is not under our lease any more
    Lose();
    return absl::OkStatus();
  }
  written_generation_ = wanted_generation_;
  written_revision_ = put->revision;
  members_->SetSelf(self, put->revision);
  problem_.clear();
  return absl::OkStatus();
}

absl::Status EtcdRegistration::Leave() {
  const bool may_stand = lease_ != 0 && runtime_->Now() < lease_ends_ + options_.lease;
  if (may_stand) {
    absl::Status revoked = client_->Revoke(lease_);
    if (!revoked.ok()) return revoked;
  }
  Lose();
  wanted_.reset();
  rival_.reset();
  stood_ = false;
  problem_.clear();
  members_->ForgetSelf();
  return absl::OkStatus();
}

void EtcdRegistration::Refuse(absl::Status status) {
  problem_ = std::string(status.message());
  refusal_ = std::move(status);
  wanted_.reset();
  Lose();  // a lease without a record
}

absl::Status EtcdRegistration::TakeRefusal() { return std::exchange(refusal_, absl::OkStatus()); }

absl::Status EtcdRegistration::Retry(const absl::Status& status) {
  if (EndsConversation(status)) return status;
  if (ForGood(status) && !stood_) {
    Refuse(absl::FailedPreconditionError(status.message()));
    return absl::OkStatus();
  }
  return RetryIn(kRetry, std::string(status.message()));
}

absl::Status EtcdRegistration::RetryIn(absl::Duration pause, std::string problem) {
  problem_ = std::move(problem);
  retry_at_ = runtime_->Now() + pause;
  return absl::OkStatus();
}

}  // namespace kvist
