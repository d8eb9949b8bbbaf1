// Membership over etcd. Two threads: one lists and watches, one keeps our record and its lease; both go through
// EtcdMembers, under one mutex, and hand views to the watchers in order.
#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cluster/etcd_client.h"
#include "services/cluster/etcd_members.h"
#include "services/cluster/membership.h"
#include "services/cluster/records.h"

namespace kvist {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(100), kLongestPause = absl::Seconds(2);
constexpr absl::Duration kLivingPoll = absl::Milliseconds(500);  // while we find out whether a record's node lives

bool ForGood(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

class EtcdMembership final : public Membership {
 public:
  EtcdMembership(EtcdOptions options, std::unique_ptr<EtcdClient> client, Runtime* runtime)
      : options_(std::move(options)),
        client_(std::move(client)),
        runtime_(runtime),
        changed_(runtime->NewCondition()),
        members_(options_.cluster, options_.hold) {
    problem_ = absl::StrCat("etcd at ", absl::StrJoin(options_.endpoints, ", "), " has not answered yet");
    watching_ = runtime_->Start([this] { ListAndWatch(); });
    keeping_ = runtime_->Start([this] { KeepRecord(); });
  }

  ~EtcdMembership() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_->NotifyAll();
    }
    client_->Cancel();
    watching_.reset();
    keeping_.reset();
  }

  std::shared_ptr<const View> view() const override {
    std::lock_guard lock(mutex_);
    return view_;
  }

  void Watch(std::function<void(std::shared_ptr<const View>)> watcher) override {
    std::lock_guard lock(mutex_);
    watchers_.push_back(std::move(watcher));
  }

  absl::Status Register(const Node& self, absl::Time deadline) override {
    std::unique_lock lock(mutex_);
    wanted_ = self;
    refusal_ = absl::OkStatus();
    dirty_ = true;
    changed_->NotifyAll();
    const bool done = changed_->WaitUntil(lock, deadline, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return stopping_ || !refusal_.ok() || (registered_ && InView());
    });
    if (!refusal_.ok()) {
      wanted_.reset();
      return std::exchange(refusal_, absl::OkStatus());
    }
    if (done && !stopping_) return absl::OkStatus();
    return absl::DeadlineExceededError(absl::StrCat(
        "node \"", self.id.value, "\" is not registered yet: ", problem_.empty() ? "no answer" : problem_));
  }

  absl::Status Update(const Node& self, absl::Time deadline) override {
    std::unique_lock lock(mutex_);
    if (!wanted_) return absl::FailedPreconditionError("Update before Register");
    const NodeId id = wanted_->id;
    wanted_ = self;
    wanted_->id = id;
    dirty_ = true;
    changed_->NotifyAll();
    const bool done = changed_->WaitUntil(
        lock, deadline, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || (registered_ && !dirty_); });
    if (done) return absl::OkStatus();
    return absl::DeadlineExceededError(absl::StrCat("the record is not changed yet: ", problem_));
  }

  absl::Status Leave(absl::Time deadline) override {
    std::unique_lock lock(mutex_);
    if (!wanted_) return absl::OkStatus();
    wanted_.reset();
    leaving_ = true;
    changed_->NotifyAll();
    const bool done =
        changed_->WaitUntil(lock, deadline, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || !leaving_; });
    if (done) return absl::OkStatus();
    return absl::DeadlineExceededError("etcd did not answer; the record ends with its lease");
  }

  MembershipHealth health() const override {
    std::lock_guard lock(mutex_);
    MembershipHealth health;
    health.connected = problem_.empty();
    health.registered = registered_ && runtime_->Now() < lease_ends_;
    health.registrations = registrations_;
    health.last_answer = last_answer_;
    health.problem = problem_;
    const std::string left_out = members_.Problems();
    if (!left_out.empty()) absl::StrAppend(&health.problem, health.problem.empty() ? "" : "; ", left_out);
    return health;
  }

 private:
  // --- The watching thread ---

  void ListAndWatch() {
    absl::Duration pause = kFirstPause;
    while (!Stopping()) {
      absl::Status ended = ListOnce();
      if (ended.ok()) {
        pause = kFirstPause;
        ended = WatchOn();
      }
      Answered(ended);
      Sleep(Jittered(pause));
      pause = std::min(kLongestPause, pause * 2);
    }
  }

  absl::Status ListOnce() {
    const absl::StatusOr<EtcdListing> listing = client_->List(members_.prefix());
    if (!listing.ok()) return listing.status();
    Answered(absl::OkStatus());
    std::unique_lock lock(mutex_);
    members_.Apply(*listing, runtime_->Now());
    Publish(lock);
    return absl::OkStatus();
  }

  absl::Status WatchOn() {
    int64_t from = 0;
    {
      std::lock_guard lock(mutex_);
      from = members_.revision() + 1;
    }
    return client_->Watch(members_.prefix(), from, [this](const EtcdChange& change) {
      Answered(absl::OkStatus());
      if (change.compacted) return false;  // list again
      std::unique_lock lock(mutex_);
      members_.Apply(change, runtime_->Now());
      Publish(lock);
      return !stopping_;
    });
  }

  // Hands a view that has changed to the watchers. Releases the lock meanwhile; one thread at a time does it, and goes
  // on with what came while it was busy.
  void Publish(std::unique_lock<std::mutex>& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    changed_->NotifyAll();  // the keeper may have to register again, or to raise the base
    if (publishing_) return;
    publishing_ = true;
    while (std::optional<View> view = members_.TakeView()) {
      view_ = std::make_shared<const View>(*std::move(view));
      changed_->NotifyAll();
      const auto watchers = watchers_;
      const std::shared_ptr<const View> current = view_;
      lock.unlock();
      for (const auto& watcher : watchers) watcher(current);
      lock.lock();
    }
    publishing_ = false;
  }

  // --- The keeping thread ---

  void KeepRecord() {
    absl::Duration pause = kFirstPause;
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      members_.Tick(runtime_->Now());
      Publish(lock);
      if (!HasWork()) {
        changed_->WaitUntil(lock, std::min(members_.NextTick(), NextRenewal()));
        continue;
      }
      lock.unlock();
      const absl::Status done = WorkOnce();
      Answered(done);
      lock.lock();
      if (done.ok()) {
        pause = kFirstPause;
        continue;
      }
      if (ForGood(done) || absl::IsAlreadyExists(done)) {
        refusal_ = registered_once_ ? absl::OkStatus() : Refusal(done);
        changed_->NotifyAll();
      }
      const absl::Time until = runtime_->Now() + Jittered(pause);
      pause = std::min(kLongestPause, pause * 2);
      while (!stopping_ && changed_->WaitUntil(lock, until)) {
      }
    }
  }

  static absl::Status Refusal(const absl::Status& status) {
    if (absl::IsAlreadyExists(status)) return absl::Status(status);
    return absl::FailedPreconditionError(status.message());
  }

  absl::Time NextRenewal() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return lease_ != 0 && wanted_ ? renew_at_ : absl::InfiniteFuture();
  }
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (leaving_) return true;
    if (members_.WantedBase() != 0) return true;
    if (!wanted_) return false;
    return !registered_ || dirty_ || members_.own_record_is_gone() || runtime_->Now() >= renew_at_;
  }

  absl::Status WorkOnce() {
    std::unique_lock lock(mutex_);
    if (leaving_) return TakeRecordAway(lock);
    if (const uint64_t base = members_.WantedBase(); base != 0) return RaiseBase(base, lock);
    if (lease_ != 0 && runtime_->Now() >= renew_at_) return Renew(lock);
    if (registered_ && members_.own_record_is_gone()) Lost();
    if (!registered_) return RegisterNow(lock);
    return Rewrite(lock);
  }

  absl::Status TakeRecordAway(std::unique_lock<std::mutex>& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const int64_t lease = std::exchange(lease_, 0);
    registered_ = false;
    members_.ForgetSelf();
    lock.unlock();
    const absl::Status revoked = lease == 0 ? absl::OkStatus() : client_->Revoke(lease);
    lock.lock();
    leaving_ = false;  // in any case: a record that could not be taken away ends with its lease
    changed_->NotifyAll();
    return revoked;
  }

  absl::Status RaiseBase(uint64_t base, std::unique_lock<std::mutex>& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const int64_t known = members_.base_mod_revision();
    lock.unlock();
    const EtcdCondition condition = known == 0 ? EtcdCondition{EtcdCondition::Kind::kAbsent, 0}
                                               : EtcdCondition{EtcdCondition::Kind::kModRevision, known};
    const absl::StatusOr<bool> put = client_->PutIf(members_.BaseKey(), condition, absl::StrCat(base), 0);
    if (!put.ok()) return put.status();
    return ListOnce();  // whoever won: what stands is read
  }

  absl::Status Renew(std::unique_lock<std::mutex>& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const int64_t lease = lease_;
    lock.unlock();
    const absl::Time asked = runtime_->Now();
    const absl::StatusOr<absl::Duration> left = client_->KeepAlive(lease);
    lock.lock();
    if (lease_ != lease) return absl::OkStatus();
    if (!left.ok()) return left.status();
    if (*left <= absl::ZeroDuration()) {
      Lost();
      return absl::OkStatus();
    }
    lease_ends_ = asked + options_.lease * 0.8;
    renew_at_ = asked + options_.lease / 3;
    return absl::OkStatus();
  }

  void Lost() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    registered_ = false;
    lease_ = 0;
  }

  absl::Status RegisterNow(std::unique_lock<std::mutex>& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Node self = *wanted_;
    dirty_ = false;
    lock.unlock();
    absl::Status way = ListOnce();
    if (way.ok())
      way = WaitForOurKey(self, lock);
    else
      lock.lock();
    // REQUIRES: the lock is held from here on.
    if (!way.ok()) return way;
    const EtcdKeyValue* there = members_.Entry(self.id);
    const EtcdCondition condition = there == nullptr
                                        ? EtcdCondition{EtcdCondition::Kind::kAbsent, 0}
                                        : EtcdCondition{EtcdCondition::Kind::kModRevision, there->mod_revision};
    self.incarnation = std::max<uint64_t>(
        {absl::ToUnixMillis(runtime_->Now()) > 0 ? static_cast<uint64_t>(absl::ToUnixMillis(runtime_->Now())) : 1,
         members_.GreatestIncarnation(self.id) + 1, incarnation_ + 1});
    lock.unlock();
    const absl::Time asked = runtime_->Now();
    const absl::StatusOr<int64_t> lease = client_->GrantLease(options_.lease);
    absl::StatusOr<bool> put = false;
    if (lease.ok()) put = client_->PutIf(members_.NodeKey(self.id), condition, RecordToJson(self), *lease);
    lock.lock();
    if (!lease.ok()) return lease.status();
    if (!put.ok()) return put.status();
    if (!*put) return absl::AbortedError("another wrote the record meanwhile; trying again");
    lease_ = *lease;
    lease_ends_ = asked + options_.lease * 0.8;
    renew_at_ = asked + options_.lease / 3;
    incarnation_ = self.incarnation;
    registered_ = registered_once_ = true;
    ++registrations_;
    members_.SetSelf(self);
    changed_->NotifyAll();
    lock.unlock();
    const absl::Status seen = ListOnce();
    lock.lock();
    return seen;
  }

  // Our key may be free, or hold an earlier life of ours: one with our address, or one whose lease nobody renews. A
  // lease that grows is a living node's. Returns with the lock held.
  absl::Status WaitForOurKey(const Node& self, std::unique_lock<std::mutex>& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    absl::Duration least = absl::InfiniteDuration();
    for (const absl::Time give_up = runtime_->Now() + options_.lease + absl::Seconds(5);;) {
      lock.lock();
      const EtcdKeyValue* there = members_.Entry(self.id);
      if (there == nullptr || there->lease == 0 || stopping_) return absl::OkStatus();
      const absl::StatusOr<Node> other = RecordFromJson(there->value);
      if (!other.ok() || other->address == self.address || other->incarnation == incarnation_) return absl::OkStatus();
      const int64_t lease = there->lease;
      lock.unlock();
      const absl::StatusOr<absl::Duration> left = client_->TimeToLive(lease);
      if (!left.ok()) {
        lock.lock();
        return left.status();
      }
      if (*left > least || runtime_->Now() >= give_up) {
        lock.lock();
        return absl::AlreadyExistsError(absl::StrCat("a living node at ", other->address.ToString(), " has the id \"",
                                                     self.id.value, "\": give this one another, or stop that one"));
      }
      least = std::min(least, *left);
      Sleep(kLivingPoll);
      if (absl::Status listed = ListOnce(); !listed.ok()) {
        lock.lock();
        return listed;
      }
    }
  }

  absl::Status Rewrite(std::unique_lock<std::mutex>& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Node self = *wanted_;
    self.incarnation = incarnation_;
    dirty_ = false;
    const int64_t lease = lease_;
    lock.unlock();
    const absl::StatusOr<bool> put =
        client_->PutIf(members_.NodeKey(self.id), {EtcdCondition::Kind::kLease, lease}, RecordToJson(self), lease);
    lock.lock();
    if (put.ok() && *put) {
      members_.SetSelf(self);
      changed_->NotifyAll();
      return absl::OkStatus();
    }
    dirty_ = true;
    if (put.ok()) Lost();  // the record is not under our lease any more
    return put.status();
  }

  // --- Both ---

  bool InView() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!wanted_ || view_ == nullptr) return false;
    const Node* node = view_->Find(wanted_->id);
    return node != nullptr && node->incarnation == incarnation_;
  }
  bool Stopping() const {
    std::lock_guard lock(mutex_);
    return stopping_;
  }
  void Answered(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    if (status.ok() || absl::IsAborted(status)) {
      last_answer_ = runtime_->Now();
      problem_.clear();
    } else if (!absl::IsCancelled(status)) {
      problem_ = std::string(status.message());
    }
  }
  absl::Duration Jittered(absl::Duration pause) {
    return pause * (0.5 + static_cast<double>(runtime_->Random() >> 11) * 0x1p-53);
  }
  void Sleep(absl::Duration pause) {
    std::unique_lock lock(mutex_);
    const absl::Time until = runtime_->Now() + pause;
    while (!stopping_ && changed_->WaitUntil(lock, until)) {
    }
  }

  const EtcdOptions options_;
  const std::unique_ptr<EtcdClient> client_;
  Runtime* const runtime_;
  const std::unique_ptr<Condition> changed_;

  mutable std::mutex mutex_;
  EtcdMembers members_ ABSL_GUARDED_BY(mutex_);  // its keys are constant and read without
  std::shared_ptr<const View> view_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void(std::shared_ptr<const View>)>> watchers_ ABSL_GUARDED_BY(mutex_);
  std::optional<Node> wanted_ ABSL_GUARDED_BY(mutex_);  // our record as it should stand
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);        // why Register cannot succeed
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false, publishing_ ABSL_GUARDED_BY(mutex_) = false;
  bool dirty_ ABSL_GUARDED_BY(mutex_) = false, leaving_ ABSL_GUARDED_BY(mutex_) = false;
  bool registered_ ABSL_GUARDED_BY(mutex_) = false, registered_once_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t lease_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time lease_ends_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // for us: 0.8 of it after the last renewal
  absl::Time renew_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  uint64_t incarnation_ ABSL_GUARDED_BY(mutex_) = 0, registrations_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time last_answer_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::string problem_ ABSL_GUARDED_BY(mutex_);

  std::unique_ptr<Thread> watching_, keeping_;  // last: they use all of the above
};

}  // namespace

absl::StatusOr<std::unique_ptr<Membership>> NewEtcdMembership(EtcdOptions options, Runtime* runtime) {
  absl::StatusOr<std::unique_ptr<EtcdClient>> client = NewEtcdClient(options);
  if (!client.ok()) return client.status();
  return std::unique_ptr<Membership>(std::make_unique<EtcdMembership>(std::move(options), *std::move(client), runtime));
}

}  // namespace kvist
