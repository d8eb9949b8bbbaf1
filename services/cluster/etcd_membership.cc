// Membership over etcd. One thread, the keeper, holds the conversation: it lists, applies what the watch brings, keeps
// our record and writes. A second reads the watch, and a third tells the watchers, who may take their time.
#include "services/cluster/etcd_membership.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cluster/etcd_members.h"
#include "services/cluster/etcd_registration.h"

namespace kvist {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(100), kLongestPause = absl::Seconds(2);
constexpr absl::Duration kBaseRetry = absl::Milliseconds(500);
constexpr absl::Duration kSettled = absl::Seconds(5);  // a conversation this long: the next loss pauses briefly again
constexpr size_t kMaxInbox = 4096;

// What the watch brought and the keeper has not applied yet. Of one watch.
struct Inbox {
  std::vector<EtcdEvent> events;
  absl::Time heard = absl::InfinitePast();
  bool compacted = false, overflowed = false, ended = false;
  absl::Status end;
};

class EtcdMembership final : public Membership {
 public:
  EtcdMembership(EtcdOptions options, std::unique_ptr<EtcdClient> client, Runtime* runtime)
      : options_(std::move(options)),
        client_(std::move(client)),
        runtime_(runtime),
        work_(runtime->NewCondition()),
        done_(runtime->NewCondition()),
        told_(runtime->NewCondition()),
        members_(options_.cluster, options_.hold),
        registration_(options_, client_.get(), &members_, runtime) {
    connection_problem_ = absl::StrCat("etcd at ", absl::StrJoin(options_.endpoints, ", "), " has not answered yet");
    telling_ = runtime_->Start([this] { Tell(); });
    keeping_ = runtime_->Start([this] { Keep(); });
  }

  ~EtcdMembership() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      work_->NotifyAll();
      done_->NotifyAll();
      told_->NotifyAll();
    }
    client_->Cancel();
    keeping_.reset();
    telling_.reset();
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
    if (absl::Status valid = Check(self); !valid.ok()) return valid;
    std::unique_lock lock(mutex_);
    if (wanted_ && wanted_->id != self.id) {
      return absl::FailedPreconditionError(
          absl::StrCat("node \"", wanted_->id.value, "\" is registered here: Leave first"));
    }
    return Settle(self, deadline, lock);
  }

  absl::Status Update(const Node& self, absl::Time deadline) override {
    if (absl::Status valid = Check(self); !valid.ok()) return valid;
    std::unique_lock lock(mutex_);
    if (!wanted_) return absl::FailedPreconditionError("Update before Register");
    if (wanted_->id != self.id) return absl::FailedPreconditionError("Update cannot change the id");
    return Settle(self, deadline, lock);
  }

  absl::Status Leave(absl::Time deadline) override {
    std::unique_lock lock(mutex_);
    if (!wanted_ && !leaving_) return absl::OkStatus();
    wanted_.reset();
    leaving_ = true;
    Wake();
    done_->WaitUntil(lock, deadline, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || !leaving_; });
    if (!leaving_) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrCat("etcd could not be told; a record of ours ends with its lease: ", Problem()));
  }

  MembershipHealth health() const override {
    std::lock_guard lock(mutex_);
    MembershipHealth health;
    health.connected = connected_;
    health.registered = stands_ && runtime_->Now() < lease_ends_;
    health.registrations = registrations_;
    health.last_answer = last_answer_;
    health.problem = Problem();
    return health;
  }

 private:
  // --- Callers ---

  static absl::Status Check(const Node& self) {
    absl::Status valid = ValidateView({ViewNumber{1}, {self}});
    if (valid.ok() && self.address.port == 0) {
      valid = absl::InvalidArgumentError(
          absl::StrCat("node \"", self.id.value, "\": its address has port 0: bind before you register"));
    }
    return valid;
  }

  // Waits until `self` stands and was seen.
  absl::Status Settle(const Node& self, absl::Time deadline,
                      std::unique_lock<std::mutex>& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    wanted_ = self;
    const uint64_t generation = ++generation_;
    Wake();
    done_->WaitUntil(lock, deadline, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return stopping_ || settled_ >= generation || refused_ >= generation || !wanted_;
    });
    if (settled_ >= generation) return absl::OkStatus();
    if (refused_ >= generation) return absl::Status(refusal_code_, refusal_);
    if (stopping_ || !wanted_) return absl::CancelledError("the node leaves");
    return absl::DeadlineExceededError(absl::StrCat(
        "node \"", self.id.value, "\" is not registered yet: ", Problem().empty() ? "etcd is slow" : Problem()));
  }

  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    woken_ = true;
    work_->NotifyAll();
  }

  std::string Problem() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<std::string> sentences;
    for (const std::string* each : {&connection_problem_, &registration_problem_, &members_problem_}) {
      if (!each->empty()) sentences.push_back(*each);
    }
    return absl::StrJoin(sentences, "; ");
  }

  // --- The telling thread ---

  void Tell() {
    std::unique_lock lock(mutex_);
    for (std::shared_ptr<const View> last; !stopping_;) {
      if (view_ == last) {
        told_->WaitUntil(lock, absl::InfiniteFuture());
        continue;
      }
      last = view_;
      const auto watchers = watchers_;
      lock.unlock();
      for (const auto& watcher : watchers) watcher(last);
      lock.lock();
    }
  }

  // --- The keeping thread: everything below ---

  void Keep() {
    for (size_t failures = 0; !Stopping();) {
      const absl::Time began = runtime_->Now();
      const absl::Status ended = Converse();
      Disconnected(ended);
      failures = runtime_->Now() - began > kSettled ? 0 : failures + 1;
      Pause(failures / options_.endpoints.size());
    }
  }

  // Why it ended.
  absl::Status Converse() {
    const absl::StatusOr<EtcdListing> listing = client_->List(members_.prefix());
    if (!listing.ok()) return listing.status();
    members_.Apply(*listing, runtime_->Now());
    {
      std::lock_guard lock(mutex_);
      inbox_ = Inbox();
      connected_ = true;
      last_answer_ = runtime_->Now();
      connection_problem_.clear();
    }
    const std::unique_ptr<EtcdWatch> watch = client_->Watch(members_.prefix(), members_.revision() + 1);
    std::unique_ptr<Thread> reading = runtime_->Start([this, &watch] { Read(watch.get()); });
    absl::Status ended = Serve(watch.get());
    watch->Cancel();
    reading.reset();
    return ended;
  }

  // On a thread of its own.
  void Read(EtcdWatch* watch) {
    absl::Status end = watch->Run([this](const EtcdChange& change) {
      std::lock_guard lock(mutex_);
      inbox_.heard = last_answer_ = runtime_->Now();
      inbox_.compacted = change.compacted;
      inbox_.overflowed = inbox_.events.size() + change.events.size() > kMaxInbox;
      if (!inbox_.overflowed) inbox_.events.insert(inbox_.events.end(), change.events.begin(), change.events.end());
      work_->NotifyAll();
      return !stopping_ && !inbox_.overflowed;
    });
    std::lock_guard lock(mutex_);
    inbox_.ended = true;
    inbox_.end = std::move(end);
    work_->NotifyAll();
  }

  absl::Status Serve(EtcdWatch* watch) {
    const absl::Duration tick = options_.lease / 3;
    absl::Time asked = runtime_->Now();  // by creating it: etcd says when it stands
    for (;;) {
      if (absl::Status lives = TakeInbox(); !lives.ok()) return lives;
      const absl::Time now = runtime_->Now();
      const bool answered = heard_ >= asked;
      if (!answered && now >= asked + options_.call_deadline) return WatchIsSilent();
      if (answered && now >= asked + tick) {
        asked = now;
        watch->Ask();
      }
      members_.Tick(runtime_->Now());
      Publish();
      if (absl::Status done = Work(); !done.ok()) return done;
      Publish();
      if (!Wait(asked + (heard_ >= asked ? tick : options_.call_deadline))) return absl::CancelledError("stopping");
    }
  }

  absl::Status WatchIsSilent() const {
    return absl::UnavailableError(
        absl::StrCat("etcd's watch said nothing within ", absl::FormatDuration(options_.call_deadline)));
  }

  // Applies what came. An error if no more will.
  absl::Status TakeInbox() {
    Inbox taken;
    {
      std::lock_guard lock(mutex_);
      taken = std::exchange(inbox_, Inbox());
    }
    heard_ = std::max(heard_, taken.heard);
    members_.Apply(taken.events, runtime_->Now());
    if (taken.compacted || taken.overflowed) {
      return absl::AbortedError("what happened meanwhile is lost to the watch: listing again");
    }
    if (taken.ended) return std::move(taken.end);
    return absl::OkStatus();
  }

  // One thing that is due. An error if the conversation is over.
  absl::Status Work() {
    std::optional<Node> wanted;
    uint64_t generation = 0;
    bool leaving = false, unwanted = false;
    {
      std::lock_guard lock(mutex_);
      woken_ = false;
      leaving = leaving_;
      unwanted = !wanted_;
      if (wanted_ && generation_ != taken_) wanted = wanted_;
      generation = taken_ = generation_;
    }
    if (leaving) {
      if (absl::Status left = registration_.Leave(); !left.ok()) return left;
      std::lock_guard lock(mutex_);
      leaving_ = false;
      taken_ = 0;  // a Register may have come since
      woken_ = true;
      done_->NotifyAll();
      return absl::OkStatus();
    }
    if (unwanted) registration_.Forget();  // it was refused
    if (wanted) registration_.Want(*wanted, generation);
    if (absl::Status done = registration_.Step(); !done.ok()) return done;
    return RaiseBase();
  }

  absl::Status RaiseBase() {
    const std::optional<uint64_t> base = members_.WantedBase();
    if (!base || runtime_->Now() < base_retry_) return absl::OkStatus();
    base_retry_ = runtime_->Now() + Jittered(kBaseRetry);
    const int64_t known = members_.base_mod_revision();
    const EtcdCondition condition = known == 0 ? EtcdCondition{EtcdCondition::Kind::kAbsent, 0}
                                               : EtcdCondition{EtcdCondition::Kind::kModRevision, known};
    const absl::StatusOr<EtcdPut> put = client_->PutIf(members_.BaseKey(), condition, absl::StrCat(*base), 0);
    base_problem_ = put.ok() ? ""
                             : absl::StrCat("a newer view waits for ", members_.BaseKey(), ": ",
                                            std::string(put.status().message()));
    const bool over =
        absl::IsUnavailable(put.status()) || absl::IsDeadlineExceeded(put.status()) || absl::IsCancelled(put.status());
    return over ? put.status() : absl::OkStatus();
  }

  // Hands out what has changed: the view, and how our record stands.
  void Publish() {
    std::optional<View> view = members_.TakeView();
    absl::Status refusal = registration_.TakeRefusal();
    std::lock_guard lock(mutex_);
    if (view) {
      view_ = std::make_shared<const View>(*std::move(view));
      told_->NotifyAll();
    }
    stands_ = registration_.stands();
    lease_ends_ = registration_.lease_ends();
    registrations_ = registration_.registrations();
    registration_problem_ = base_problem_.empty() ? registration_.problem() : base_problem_;
    members_problem_ = members_.Problems();
    if (!refusal.ok()) {
      refused_ = taken_;
      refusal_code_ = refusal.code();
      refusal_ = std::string(refusal.message());
      if (generation_ == taken_) wanted_.reset();  // or a caller wants another since
    }
    if (InView()) settled_ = std::max(settled_, registration_.written_generation());
    done_->NotifyAll();
  }

  bool InView() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!wanted_ || view_ == nullptr || members_.revision() < registration_.written_revision()) return false;
    const Node* node = view_->Find(wanted_->id);
    return node != nullptr && node->incarnation == registration_.incarnation();
  }

  // False: to stop.
  bool Wait(absl::Time next) {
    next = std::min({next, members_.NextTick(), registration_.Next()});
    if (members_.WantedBase()) next = std::min(next, base_retry_);
    std::unique_lock lock(mutex_);
    work_->WaitUntil(lock, next, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return stopping_ || woken_ || inbox_.ended || inbox_.compacted || !inbox_.events.empty();
    });
    return !stopping_;
  }

  void Disconnected(const absl::Status& ended) {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    connected_ = absl::IsAborted(ended);  // it answered
    connection_problem_ = connected_ ? "" : std::string(ended.message());
    if (!connected_ && ForGood(ended) && wanted_ && !stands_) {
      refused_ = generation_;
      refusal_code_ = absl::StatusCode::kFailedPrecondition;
      refusal_ = connection_problem_;
      wanted_.reset();
    }
    done_->NotifyAll();
  }

  static bool ForGood(const absl::Status& status) {
    return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status) || absl::IsInvalidArgument(status) ||
           absl::IsFailedPrecondition(status);
  }

  void Pause(size_t rounds) {
    const absl::Duration pause = std::min(kLongestPause, kFirstPause * (uint64_t{1} << std::min<size_t>(rounds, 10)));
    const absl::Time until = runtime_->Now() + Jittered(pause);
    std::unique_lock lock(mutex_);
    work_->WaitUntil(lock, until, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; });
  }
  absl::Duration Jittered(absl::Duration pause) {
    return pause * (0.5 + static_cast<double>(runtime_->Random() >> 11) * 0x1p-53);
  }
  bool Stopping() const {
    std::lock_guard lock(mutex_);
    return stopping_;
  }

  const EtcdOptions options_;
  const std::unique_ptr<EtcdClient> client_;
  Runtime* const runtime_;
  const std::unique_ptr<Condition> work_, done_, told_;  // for the keeper, for callers, for the teller

  // The keeper's own.
  EtcdMembers members_;
  EtcdRegistration registration_;
  absl::Time base_retry_ = absl::InfinitePast();
  absl::Time heard_ = absl::InfinitePast();  // of the watch
  std::string base_problem_;

  mutable std::mutex mutex_;
  Inbox inbox_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false, woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<const View> view_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void(std::shared_ptr<const View>)>> watchers_ ABSL_GUARDED_BY(mutex_);
  std::optional<Node> wanted_ ABSL_GUARDED_BY(mutex_);  // our record as it should stand
  // Of wanted_: the last that a caller gave, that the keeper took, that stands and was seen, that was refused.
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0, taken_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t settled_ ABSL_GUARDED_BY(mutex_) = 0, refused_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::StatusCode refusal_code_ ABSL_GUARDED_BY(mutex_) = absl::StatusCode::kOk;
  std::string refusal_ ABSL_GUARDED_BY(mutex_);
  bool connected_ ABSL_GUARDED_BY(mutex_) = false, stands_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time lease_ends_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time last_answer_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  uint64_t registrations_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string connection_problem_ ABSL_GUARDED_BY(mutex_), registration_problem_ ABSL_GUARDED_BY(mutex_);
  std::string members_problem_ ABSL_GUARDED_BY(mutex_);

  std::unique_ptr<Thread> telling_, keeping_;  // last: they use all of the above
};

}  // namespace

std::unique_ptr<Membership> NewMembershipOver(std::unique_ptr<EtcdClient> client, EtcdOptions options,
                                              Runtime* runtime) {
  return std::make_unique<EtcdMembership>(std::move(options), std::move(client), runtime);
}

}  // namespace kvist
