// Our own record in etcd: a lease, the record under it, and what to do when either is lost.
//
// States   absent -> (the key is free, or an earlier life's) -> standing -> absent again, when the lease ended or the
//          record was deleted or written over; each new standing is a new incarnation.
// Rivals   a record of this id at another address belongs to another node, or to an earlier life of ours. The time that
//          is left of its lease tells: if it grows, a living node renews it.
//
// Threads  none of its own; the caller serializes, and waits inside of Step for etcd's answers.
// Errors   Step: what ended the conversation with etcd (Unavailable, DeadlineExceeded, Cancelled). Anything else is
//          kept as `problem` or `refusal`, and tried again later.
#ifndef KVIST_SERVICES_CLUSTER_ETCD_REGISTRATION_H_
#define KVIST_SERVICES_CLUSTER_ETCD_REGISTRATION_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/cluster/etcd_client.h"
#include "services/cluster/etcd_members.h"
#include "services/cluster/membership.h"
#include "services/runtime/runtime.h"

namespace kvist {

class EtcdRegistration {
 public:
  // All outlive it.
  EtcdRegistration(const EtcdOptions& options, EtcdClient* client, EtcdMembers* members, Runtime* runtime);

  // The record that shall stand. `generation` tells it from those before. REQUIRES: the same id until Leave.
  void Want(const Node& node, uint64_t generation);
  void Forget() { wanted_.reset(); }  // REQUIRES: it does not stand
  // Does what is due, at most a few calls.
  absl::Status Step();
  absl::Time Next() const;  // when Step has something to do of its own accord
  // Takes the record away and forgets what was wanted.
  absl::Status Leave();

  bool stands() const { return stands_; }
  absl::Time lease_ends() const { return lease_ends_; }  // for us: 0.8 of it after we asked for the last renewal
  uint64_t registrations() const { return registrations_; }
  uint64_t incarnation() const { return incarnation_; }
  // The generation that stands in etcd, and the revision since when; 0 = none.
  uint64_t written_generation() const { return stands_ ? written_generation_ : 0; }
  int64_t written_revision() const { return written_revision_; }
  const std::string& problem() const { return problem_; }  // "" = none
  // Why the wanted record will not stand: AlreadyExists or FailedPrecondition. It is not tried any more. Taken once.
  absl::Status TakeRefusal();

 private:
  struct Rival {
    int64_t lease = 0, mod_revision = 0;
    absl::Duration left;
    absl::Time asked;
  };

  absl::Status Renew();
  absl::Status Register();
  absl::Status Rewrite();
  absl::Status WatchRival(const EtcdKeyValue& there, const std::string& address);
  absl::Status ObtainLease();
  void Lose();
  void Refuse(absl::Status status);
  // Ok unless the conversation with etcd has ended.
  absl::Status Retry(const absl::Status& status);
  absl::Status RetryIn(absl::Duration pause, std::string problem);
  bool IsOurs(const EtcdKeyValue& there, std::string* address) const;

  const EtcdOptions& options_;
  EtcdClient* const client_;
  EtcdMembers* const members_;
  Runtime* const runtime_;

  std::optional<Node> wanted_;
  uint64_t wanted_generation_ = 0, written_generation_ = 0;
  int64_t written_revision_ = 0;
  bool stands_ = false;
  bool stood_ = false;  // once, so another's refusal now may pass
  int64_t lease_ = 0;   // 0 = none
  absl::Time lease_ends_ = absl::InfinitePast(), renew_at_ = absl::InfiniteFuture();
  absl::Time retry_at_ = absl::InfinitePast();
  uint64_t incarnation_ = 0, registrations_ = 0;
  std::optional<Rival> rival_;
  std::string problem_;
  absl::Status refusal_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_ETCD_REGISTRATION_H_
