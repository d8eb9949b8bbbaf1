// An etcd in memory behind the seam of its client: revisions, leases on a clock that the test turns, conditions; and
// faults: a call that is never made, one whose answer is lost, one that is refused.
//
// Threads  one.
#ifndef KVIST_TESTS_SERVICES_CLUSTER_FAKE_ETCD_H_
#define KVIST_TESTS_SERVICES_CLUSTER_FAKE_ETCD_H_

#include <cstdlib>
#include <map>
#include <memory>
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
  Fault next_fault = Fault::kNone;  // of one call
  int calls_before_fault = 0;       // which one: 0 = the next
  absl::Status refusal = absl::PermissionDeniedError("etcdserver: permission denied");

  // What happened after `revision`, and leases that ended since, which is when it happens.
  std::vector<EtcdEvent> EventsSince(int64_t revision) {
    ExpireLeases();
    std::vector<EtcdEvent> events;
    for (const EtcdEvent& event : history_) {
      if (event.entry.mod_revision > revision) events.push_back(event);
    }
    return events;
  }
  void Write(const std::string& key, const std::string& value, int64_t lease) {
    history_.push_back({false, EtcdKeyValue{key, value, ++revision_, lease}});
    store_[key] = history_.back().entry;
  }
  void Delete(const std::string& key) {
    if (store_.erase(key) != 0) history_.push_back({true, EtcdKeyValue{key, "", ++revision_, 0}});
  }
  int64_t NewLease(absl::Duration ttl) {
    leases_[++last_lease_] = {runtime_->Now() + ttl, ttl};
    return last_lease_;
  }
  void Renew(int64_t lease) {
    if (const auto found = leases_.find(lease); found != leases_.end()) {
      found->second.first = runtime_->Now() + found->second.second;
    }
  }
  void Wipe() {
    store_.clear();
    history_.clear();
    leases_.clear();
    revision_ = 1;
  }
  const EtcdKeyValue* Find(const std::string& key) {
    ExpireLeases();
    const auto found = store_.find(key);
    return found == store_.end() ? nullptr : &found->second;
  }
  size_t leases() const { return leases_.size(); }

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
      if (put.done && leased) Write(key, value, lease);
      put.revision = revision_;
    });
    if (!status.ok()) return status;
    if (put.done && !leased) return absl::NotFoundError("etcdserver: requested lease not found");
    return put;
  }

  absl::StatusOr<int64_t> GrantLease(absl::Duration ttl) override {
    int64_t lease = 0;
    absl::Status status = Do([&] { lease = NewLease(ttl); });
    if (!status.ok()) return status;
    return lease;
  }
  absl::StatusOr<absl::Duration> KeepAlive(int64_t lease) override {
    absl::Duration left;
    absl::Status status = Do([&] {
      Renew(lease);
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
  std::unique_ptr<EtcdWatch> Watch(const std::string&, int64_t) override { return nullptr; }  // see EventsSince
  void Cancel() override {}

 private:
  template <typename Act>
  absl::Status Do(Act act) {
    ExpireLeases();
    const bool now = calls_before_fault == 0 || --calls_before_fault < 0;
    const Fault fault = now ? std::exchange(next_fault, Fault::kNone) : Fault::kNone;
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
      for (const std::string& key : keys) Delete(key);
      each = leases_.erase(each);
    }
  }

  Runtime* const runtime_;
  std::map<std::string, EtcdKeyValue> store_;
  std::vector<EtcdEvent> history_;
  std::map<int64_t, std::pair<absl::Time, absl::Duration>> leases_;  // their ends and lengths
  int64_t revision_ = 1, last_lease_ = 100;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_CLUSTER_FAKE_ETCD_H_
