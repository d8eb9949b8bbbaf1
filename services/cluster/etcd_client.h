// A typed conversation with one etcd cluster over its v3 gRPC API: what membership needs of it, and nothing else.
//
// Endpoints  one is used at a time; a call that fails for the connection's sake moves on to the next.
// Units      revisions and lease ids are etcd's; TTLs are whole seconds on its wire.
// Threads    any. Every call returns within twice `call_deadline` (a login may come first); Run of a watch takes
//            as long as the watch.
// Errors     Unavailable and DeadlineExceeded name every endpoint that failed since it last answered, and what it said;
//            whatever is not etcd's own word counts as Unavailable. Other codes are etcd's, after one new login.
#ifndef KVIST_SERVICES_CLUSTER_ETCD_CLIENT_H_
#define KVIST_SERVICES_CLUSTER_ETCD_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/cluster/membership.h"

namespace kvist {

struct EtcdKeyValue {
  std::string key, value;
  int64_t mod_revision = 0, lease = 0;
};

struct EtcdListing {
  int64_t revision = 0;  // above 0
  uint64_t cluster_id = 0;
  std::vector<EtcdKeyValue> entries;
};

struct EtcdEvent {
  bool deleted = false;
  EtcdKeyValue entry;  // of a deletion only the key and mod_revision
};

struct EtcdChange {
  bool compacted = false;         // the watch cannot go on from where it was asked to: list again
  std::vector<EtcdEvent> events;  // in order of their revisions; none: the watch only says that it lives
};

// What a write is conditional on.
struct EtcdCondition {
  enum class Kind { kAbsent, kModRevision, kLease } kind = Kind::kAbsent;
  int64_t value = 0;
};

struct EtcdPut {
  bool done = false;     // the condition held and the value stands
  int64_t revision = 0;  // of the store afterwards
};

class EtcdWatch {
 public:
  virtual ~EtcdWatch() = default;

  // Hands every change to `sink` until the connection breaks, the watch is compacted, `sink` returns false, or Cancel.
  // Why it ended. To be called once.
  virtual absl::Status Run(const std::function<bool(const EtcdChange&)>& sink) = 0;
  // Asks for a sign of life: a change without events follows.
  virtual void Ask() = 0;
  virtual void Cancel() = 0;
};

class EtcdClient {
 public:
  virtual ~EtcdClient() = default;  // REQUIRES: no call is under way

  virtual absl::StatusOr<EtcdListing> List(const std::string& prefix) = 0;
  virtual absl::StatusOr<EtcdPut> PutIf(const std::string& key, const EtcdCondition& condition,
                                        const std::string& value, int64_t lease) = 0;
  virtual absl::StatusOr<int64_t> GrantLease(absl::Duration ttl) = 0;
  // What is left of the lease; zero: it is gone.
  virtual absl::StatusOr<absl::Duration> KeepAlive(int64_t lease) = 0;
  virtual absl::StatusOr<absl::Duration> TimeToLive(int64_t lease) = 0;
  virtual absl::Status Revoke(int64_t lease) = 0;  // ok, too, if there is none

  // Every change of the prefix from `revision` on. The watch must not outlive the client.
  virtual std::unique_ptr<EtcdWatch> Watch(const std::string& prefix, int64_t revision) = 0;

  // Ends what is under way, watches included, and refuses what comes after, as Cancelled.
  virtual void Cancel() = 0;
};

// Errors: InvalidArgument names every option that is wrong.
absl::StatusOr<std::unique_ptr<EtcdClient>> NewEtcdClient(const EtcdOptions& options);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_ETCD_CLIENT_H_
