// An etcd in memory behind the seam of its client: revisions, leases, conditions, watches; and faults: a call that is
// never made, one whose answer is lost, one that is refused.
//
// Threads  any; with a ManualRuntime one, and no watches.
#ifndef KVIST_TESTS_SERVICES_CLUSTER_FAKE_ETCD_H_
#define KVIST_TESTS_SERVICES_CLUSTER_FAKE_ETCD_H_

#include <condition_variable>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "services/cluster/etcd_client.h"
#include "services/runtime/runtime.h"

namespace kvist::testing {

// A clock that only the test turns. Has no threads.
class ManualRuntime final : public Runtime {
 public:
  absl::Time Now() override { return now; }
  uint64_t Random() override { return random_ = random_ * 6364136223846793005u + 1442695040888963407u; }
  std::unique_ptr<Thread> Start(std::function<void()>) override { std::abort(); }
  std::unique_ptr<Condition> NewCondition() override { std::abort(); }
  void SleepUntil(absl::Time time) override { now = std::max(now, time); }

  absl::Time now = absl::FromUnixSeconds(1'000'000);

 private:
  uint64_t random_ = 1;
};

class FakeEtcd final : public EtcdClient {
 public:
  explicit FakeEtcd(Runtime* runtime) : runtime_(runtime) {}

  enum class Fault { kNone, kNotMade, kAnswerLost, kRefused };
  // Of one call: the next but `calls`.
  void FailOnce(Fault fault, int calls = 0) {
    std::lock_guard lock(mutex_);
    next_fault_ = fault;
    calls_before_fault_ = calls;
  }
  // Ends all watches, as a connection that breaks.
  void BreakWatches() {
    std::lock_guard lock(mutex_);
    ++connections_;
    changed_.notify_all();
  }
  absl::Status refusal = absl::PermissionDeniedError("etcdserver: permission denied");

  // What happened after `revision`, and leases that ended since, which is when it happens.
  std::vector<EtcdEvent> EventsSince(int64_t revision) {
    std::lock_guard lock(mutex_);
    return NewEvents(revision);
  }
  void Write(const std::string& key, const std::string& value, int64_t lease) {
    std::lock_guard lock(mutex_);
    Store(key, value, lease);
  }
  void Delete(const std::string& key) {
    std::lock_guard lock(mutex_);
    Remove(key);
  }
  int64_t NewLease(absl::Duration ttl) {
    std::lock_guard lock(mutex_);
    return Grant(ttl);
  }
  void Renew(int64_t lease) {
    std::lock_guard lock(mutex_);
    Prolong(lease);
  }
  void Wipe() {
    std::lock_guard lock(mutex_);
    store_.clear();
    history_.clear();
    leases_.clear();
    revision_ = 1;
    ++connections_;
    changed_.notify_all();
  }
  std::optional<EtcdKeyValue> Find(const std::string& key) {
    std::lock_guard lock(mutex_);
    ExpireLeases();
    const auto found = store_.find(key);
    return found == store_.end() ? std::nullopt : std::optional(found->second);
  }
  size_t leases() const {
    std::lock_guard lock(mutex_);
    return leases_.size();
  }

  absl::StatusOr<EtcdListing> List(const std::string& prefix) override {
    EtcdListing listing;
    absl::Status status = Do([&] {
      listing = {revision_, 1, {}};
      for (const auto& [key, entry] : store_) {
        if (key.compare(0, prefix.size(), prefix) == 0) listing.entries.push_back(entry);
      }
    });
    if (!status.ok()) return status;
    return listing;
  }

  absl::StatusOr<EtcdPut> PutIf(const std::string& key, const EtcdCondition& condition, const std::string& value,
                                int64_t lease) override {
    EtcdPut put;
    bool leased = true;
    absl::Status status = Do([&] {
      leased = lease == 0 || leases_.count(lease) != 0;
      const auto there = store_.find(key);
      const bool absent = there == store_.end();
      switch (condition.kind) {
        case EtcdCondition::Kind::kAbsent:
          put.done = absent;
          break;
        case EtcdCondition::Kind::kModRevision:
          put.done = !absent && there->second.mod_revision == condition.value;
          break;
        case EtcdCondition::Kind::kLease:
          put.done = !absent && there->second.lease == condition.value;
          break;
      }
      if (put.done && leased) Store(key, value, lease);
      put.revision = revision_;
    });
    if (!status.ok()) return status;
    if (put.done && !leased) return absl::NotFoundError("etcdserver: requested lease not found");
    return put;
  }

  absl::StatusOr<int64_t> GrantLease(absl::Duration ttl) override {
    int64_t lease = 0;
    absl::Status status = Do([&] { lease = Grant(ttl); });
    if (!status.ok()) return status;
    return lease;
  }
  absl::StatusOr<absl::Duration> KeepAlive(int64_t lease) override {
    absl::Duration left;
    absl::Status status = Do([&] {
      Prolong(lease);
      left = Left(lease);
    });
    if (!status.ok()) return status;
    return left;
  }
  absl::StatusOr<absl::Duration> TimeToLive(int64_t lease) override {
    absl::Duration left;
    absl::Status status = Do([&] { left = Left(lease); });
    if (!status.ok()) return status;
    return left;
  }
  absl::Status Revoke(int64_t lease) override {
    return Do([&] {
      if (const auto found = leases_.find(lease); found != leases_.end()) found->second.first = absl::InfinitePast();
      ExpireLeases();
    });
  }
  std::unique_ptr<EtcdWatch> Watch(const std::string&, int64_t revision) override {
    return std::make_unique<FakeWatch>(this, revision);
  }
  void Cancel() override { BreakWatches(); }

 private:
  class FakeWatch final : public EtcdWatch {
   public:
    FakeWatch(FakeEtcd* etcd, int64_t revision) : etcd_(etcd), known_(revision - 1) {}
    absl::Status Run(const std::function<bool(const EtcdChange&)>& sink) override {
      std::unique_lock lock(etcd_->mutex_);
      const int connection = etcd_->connections_;
      for (asked_ = true;;) {
        EtcdChange change{false, etcd_->NewEvents(known_)};
        if (asked_ || !change.events.empty()) {
          asked_ = false;
          if (!change.events.empty()) known_ = change.events.back().entry.mod_revision;
          lock.unlock();
          const bool more = sink(change);
          lock.lock();
          if (!more) return absl::CancelledError("enough");
        }
        if (cancelled_) return absl::CancelledError("cancelled");
        if (etcd_->connections_ != connection) return absl::UnavailableError("the connection broke");
        etcd_->changed_.wait_for(lock, std::chrono::milliseconds(5));  // leases end in silence
      }
    }
    void Ask() override { Set(&asked_); }
    void Cancel() override { Set(&cancelled_); }

   private:
    void Set(bool* flag) {
      std::lock_guard lock(etcd_->mutex_);
      *flag = true;
      etcd_->changed_.notify_all();
    }
    FakeEtcd* const etcd_;
    int64_t known_;
    bool asked_ = false, cancelled_ = false;
  };

  std::vector<EtcdEvent> NewEvents(int64_t revision) {
    ExpireLeases();
    std::vector<EtcdEvent> events;
    for (const EtcdEvent& event : history_) {
      if (event.entry.mod_revision > revision) events.push_back(event);
    }
    return events;
  }
  void Store(const std::string& key, const std::string& value, int64_t lease) {
    history_.push_back({false, EtcdKeyValue{key, value, ++revision_, lease}});
    store_[key] = history_.back().entry;
    changed_.notify_all();
  }
  void Remove(const std::string& key) {
    if (store_.erase(key) == 0) return;
    history_.push_back({true, EtcdKeyValue{key, "", ++revision_, 0}});
    changed_.notify_all();
  }
  int64_t Grant(absl::Duration ttl) {
    leases_[++last_lease_] = {runtime_->Now() + ttl, ttl};
    return last_lease_;
  }
  void Prolong(int64_t lease) {
    if (const auto found = leases_.find(lease); found != leases_.end()) {
      found->second.first = runtime_->Now() + found->second.second;
    }
  }
  template <typename Act>
  absl::Status Do(Act act) {
    std::lock_guard lock(mutex_);
    ExpireLeases();
    const bool now = calls_before_fault_ == 0 || --calls_before_fault_ < 0;
    const Fault fault = now ? std::exchange(next_fault_, Fault::kNone) : Fault::kNone;
    if (fault == Fault::kRefused) return absl::Status(refusal);
    if (fault != Fault::kNotMade) act();
    return fault == Fault::kNone ? absl::OkStatus() : absl::UnavailableError("the connection broke");
  }
  // In whole seconds, rounded down, as etcd says it.
  absl::Duration Left(int64_t lease) const {
    const auto found = leases_.find(lease);
    if (found == leases_.end()) return absl::ZeroDuration();
    return absl::Floor(found->second.first - runtime_->Now(), absl::Seconds(1));
  }
  void ExpireLeases() {
    for (auto each = leases_.begin(); each != leases_.end();) {
      if (each->second.first > runtime_->Now()) {
        ++each;
        continue;
      }
      std::vector<std::string> keys;
      for (const auto& [key, entry] : store_) {
        if (entry.lease == each->first) keys.push_back(key);
      }
      for (const std::string& key : keys) Remove(key);
      each = leases_.erase(each);
    }
  }

  Runtime* const runtime_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Fault next_fault_ = Fault::kNone;
  int calls_before_fault_ = 0;
  int connections_ = 0;
  std::map<std::string, EtcdKeyValue> store_;
  std::vector<EtcdEvent> history_;
  std::map<int64_t, std::pair<absl::Time, absl::Duration>> leases_;  // their ends and lengths
  int64_t revision_ = 1, last_lease_ = 100;
};

// One member's connection to an etcd that several share.
class FakeConnection final : public EtcdClient {
 public:
  explicit FakeConnection(FakeEtcd* etcd) : etcd_(etcd) {}
  absl::StatusOr<EtcdListing> List(const std::string& prefix) override { return etcd_->List(prefix); }
  absl::StatusOr<EtcdPut> PutIf(const std::string& key, const EtcdCondition& condition, const std::string& value,
                                int64_t lease) override {
    return etcd_->PutIf(key, condition, value, lease);
  }
  absl::StatusOr<int64_t> GrantLease(absl::Duration ttl) override { return etcd_->GrantLease(ttl); }
  absl::StatusOr<absl::Duration> KeepAlive(int64_t lease) override { return etcd_->KeepAlive(lease); }
  absl::StatusOr<absl::Duration> TimeToLive(int64_t lease) override { return etcd_->TimeToLive(lease); }
  absl::Status Revoke(int64_t lease) override { return etcd_->Revoke(lease); }
  std::unique_ptr<EtcdWatch> Watch(const std::string& prefix, int64_t revision) override {
    return etcd_->Watch(prefix, revision);
  }
  void Cancel() override { etcd_->Cancel(); }

 private:
  FakeEtcd* const etcd_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_CLUSTER_FAKE_ETCD_H_
