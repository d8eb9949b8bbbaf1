#include "tests/simulation/sim_etcd.h"

#include <algorithm>
#include <utility>

namespace kvist::simulation {
namespace {

constexpr absl::Duration kLongPoll = absl::Milliseconds(500);  // then a watch without changes says that it lives

bool HasPrefix(const std::string& key, const std::string& prefix) { return key.compare(0, prefix.size(), prefix) == 0; }

}  // namespace

class SimEtcdWatch final : public EtcdWatch {
 public:
  SimEtcdWatch(SimEtcd* etcd, SimProcess* process, absl::Duration call_deadline, std::string prefix, int64_t from)
      : etcd_(etcd), process_(process), call_deadline_(call_deadline), prefix_(std::move(prefix)), next_(from) {}

  absl::Status Run(const std::function<bool(const EtcdChange&)>& sink) override {
    SimProcess* const server = etcd_->process_;  // a watch ends with the process it is of
    while (!cancelled_) {
      struct Polled {
        EtcdChange change;
        int64_t next;
      };
      absl::StatusOr<Polled> polled = etcd_->network_->Call<Polled>(
          process_, server, etcd_->network_->scheduler()->now() + call_deadline_, "etcd Watch",
          [etcd = etcd_, prefix = prefix_, from = next_]() -> absl::StatusOr<Polled> {
            Polled result{{}, from};
            absl::StatusOr<EtcdChange> change = etcd->Poll(prefix, from, &result.next);
            if (!change.ok()) return change.status();
            result.change = *std::move(change);
            return result;
          });
      if (!polled.ok()) return polled.status();
      next_ = polled->next;
      if (!sink(polled->change)) return absl::CancelledError("the sink wants no more");
      if (polled->change.compacted) return absl::OutOfRangeError("compacted");
    }
    return absl::CancelledError("cancelled");
  }
  void Ask() override {}  // every long poll is a sign of life
  void Cancel() override { cancelled_ = true; }

 private:
  SimEtcd* const etcd_;
  SimProcess* const process_;
  const absl::Duration call_deadline_;
  const std::string prefix_;
  int64_t next_;
  bool cancelled_ = false;
};

class SimEtcdClient final : public EtcdClient {
 public:
  SimEtcdClient(SimEtcd* etcd, SimProcess* process, absl::Duration call_deadline)
      : etcd_(etcd), process_(process), call_deadline_(call_deadline) {}

  absl::StatusOr<EtcdListing> List(const std::string& prefix) override {
    return Call<EtcdListing>("etcd List", [etcd = etcd_, prefix]() -> absl::StatusOr<EtcdListing> {
      EtcdListing listing{etcd->revision_, etcd->cluster_id_, {}};
      for (const auto& [key, entry] : etcd->entries_) {
        if (HasPrefix(key, prefix)) listing.entries.push_back(entry);
      }
      return listing;
    });
  }
  absl::StatusOr<EtcdPut> PutIf(const std::string& key, const EtcdCondition& condition, const std::string& value,
                                int64_t lease) override {
    return Call<EtcdPut>("etcd Put", [etcd = etcd_, key, condition, value, lease]() -> absl::StatusOr<EtcdPut> {
      if (lease != 0 && etcd->leases_.count(lease) == 0) return absl::NotFoundError("requested lease not found");
      return etcd->PutIf(key, condition, value, lease);
    });
  }
  absl::StatusOr<int64_t> GrantLease(absl::Duration ttl) override {
    return Call<int64_t>("etcd LeaseGrant", [etcd = etcd_, ttl]() -> absl::StatusOr<int64_t> {
      etcd->leases_[++etcd->next_lease_] = {ttl, etcd->Now() + ttl};
      return etcd->next_lease_;
    });
  }
  absl::StatusOr<absl::Duration> KeepAlive(int64_t lease) override {
    return Call<absl::Duration>("etcd KeepAlive", [etcd = etcd_, lease]() -> absl::StatusOr<absl::Duration> {
      const auto found = etcd->leases_.find(lease);
      if (found == etcd->leases_.end()) return absl::ZeroDuration();
      found->second.ends = etcd->Now() + found->second.ttl;
      return found->second.ttl;
    });
  }
  absl::StatusOr<absl::Duration> TimeToLive(int64_t lease) override {
    return Call<absl::Duration>("etcd TimeToLive", [etcd = etcd_, lease]() -> absl::StatusOr<absl::Duration> {
      const auto found = etcd->leases_.find(lease);
      return found == etcd->leases_.end() ? absl::ZeroDuration() : found->second.ends - etcd->Now();
    });
  }
  absl::Status Revoke(int64_t lease) override {
    return Call<bool>("etcd Revoke",
                      [etcd = etcd_, lease]() -> absl::StatusOr<bool> {
                        if (const auto found = etcd->leases_.find(lease); found != etcd->leases_.end()) {
                          found->second.ends = absl::InfinitePast();
                          etcd->EndLeases();
                        }
                        return true;
                      })
        .status();
  }
  std::unique_ptr<EtcdWatch> Watch(const std::string& prefix, int64_t revision) override {
    return std::make_unique<SimEtcdWatch>(etcd_, process_, call_deadline_, prefix, revision);
  }
  void Cancel() override { cancelled_ = true; }

 private:
  template <typename Result>
  absl::StatusOr<Result> Call(const char* what, std::function<absl::StatusOr<Result>()> act) {
    if (cancelled_) return absl::CancelledError("cancelled");
    if (etcd_->stopped()) {
      etcd_->network_->scheduler()->Sleep(absl::Milliseconds(1));
      return absl::UnavailableError("etcd: connection refused");
    }
    return etcd_->network_->Call<Result>(process_, etcd_->process_,
                                         etcd_->network_->scheduler()->now() + call_deadline_, what,
                                         [etcd = etcd_, act = std::move(act)] {
                                           etcd->EndLeases();
                                           return act();
                                         });
  }

  SimEtcd* const etcd_;
  SimProcess* const process_;
  const absl::Duration call_deadline_;
  bool cancelled_ = false;
};

SimEtcd::SimEtcd(SimNetwork* network, SimHost* host)
    : network_(network), host_(host), process_(network->NewProcess(host)), changed_(network->scheduler()) {}

std::unique_ptr<EtcdClient> SimEtcd::NewClient(SimProcess* process, absl::Duration call_deadline) {
  return std::make_unique<SimEtcdClient>(this, process, call_deadline);
}

void SimEtcd::Stop() {
  process_->Kill();
  changed_.NotifyAll();
}

void SimEtcd::Start(bool wiped) {
  process_ = network_->NewProcess(host_);
  if (!wiped) return;
  entries_.clear();
  leases_.clear();
  history_.clear();
  revision_ = 1;
  compacted_ = 0;
  ++cluster_id_;
}

void SimEtcd::EndLeases() {
  const absl::Time now = Now();
  for (auto lease = leases_.begin(); lease != leases_.end();) {
    if (lease->second.ends > now) {
      ++lease;
      continue;
    }
    std::vector<std::string> keys;
    for (const auto& [key, entry] : entries_) {
      if (entry.lease == lease->first) keys.push_back(key);
    }
    lease = leases_.erase(lease);
    for (const std::string& key : keys) Delete(key);
  }
}

void SimEtcd::Delete(const std::string& key) {
  entries_.erase(key);
  ++revision_;
  history_.push_back({revision_, {true, {key, "", revision_, 0}}});
  changed_.NotifyAll();
}

EtcdPut SimEtcd::PutIf(const std::string& key, const EtcdCondition& condition, const std::string& value,
                       int64_t lease) {
  const auto found = entries_.find(key);
  const EtcdKeyValue* const there = found == entries_.end() ? nullptr : &found->second;
  bool holds = false;
  switch (condition.kind) {
    case EtcdCondition::Kind::kAbsent:
      holds = there == nullptr;
      break;
    case EtcdCondition::Kind::kModRevision:
      holds = (there == nullptr ? 0 : there->mod_revision) == condition.value;
      break;
    case EtcdCondition::Kind::kLease:
      holds = there != nullptr && there->lease == condition.value;
      break;
  }
  if (!holds) return {false, revision_};
  ++revision_;
  entries_[key] = {key, value, revision_, lease};
  history_.push_back({revision_, {false, entries_[key]}});
  changed_.NotifyAll();
  return {true, revision_};
}

absl::StatusOr<EtcdChange> SimEtcd::Poll(const std::string& prefix, int64_t from, int64_t* next) {
  SimProcess* const process = process_;
  const absl::Time until = network_->scheduler()->now() + kLongPoll;
  while (true) {
    EndLeases();
    EtcdChange change;
    if (from <= compacted_) {
      change.compacted = true;
      return change;
    }
    for (const Change& each : history_) {
      if (each.revision < from) continue;
      *next = std::max(*next, each.revision + 1);
      if (HasPrefix(each.event.entry.key, prefix)) change.events.push_back(each.event);
    }
    if (process->dead()) return absl::UnavailableError("etcd has ended");
    if (!change.events.empty() || network_->scheduler()->now() >= until) return change;
    changed_.Wait("a change in etcd", until);
  }
}

}  // namespace kvist::simulation
