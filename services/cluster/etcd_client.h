// A typed conversation with one etcd cluster over its v3 gRPC API: what membership needs of it, and nothing else.
//
// Endpoints  one is used at a time; a call that fails for the connection's sake moves on to the next.
// Units      revisions and lease ids are etcd's; TTLs are whole seconds on its wire.
// Threads    any. Every call but Watch returns within `call_deadline`.
// Errors     etcd's own codes; Unavailable and DeadlineExceeded name the endpoint. Unauthenticated after one new login.
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
  int64_t revision = 0;
  uint64_t cluster_id = 0;
  std::vector<EtcdKeyValue> entries;
};

struct EtcdEvent {
  bool deleted = false;
  EtcdKeyValue entry;  // of a deletion only the key and mod_revision
};

struct EtcdChange {
  int64_t revision = 0;           // of the store when this was sent
  bool compacted = false;         // the watch cannot go on from where it was asked to: list again
  std::vector<EtcdEvent> events;  // none in a progress report
};

// What a write is conditional on.
struct EtcdCondition {
  enum class Kind { kAbsent, kModRevision, kLease } kind = Kind::kAbsent;
  int64_t value = 0;
};

class EtcdClient {
 public:
  virtual ~EtcdClient() = default;  // cancels what is under way

  virtual absl::StatusOr<EtcdListing> List(const std::string& prefix) = 0;
  // True if the condition held and the value stands.
  virtual absl::StatusOr<bool> PutIf(const std::string& key, const EtcdCondition& condition, const std::string& value,
                                     int64_t lease) = 0;
  virtual absl::StatusOr<int64_t> GrantLease(absl::Duration ttl) = 0;
  // What is left of the lease; zero: it is gone.
  virtual absl::StatusOr<absl::Duration> KeepAlive(int64_t lease) = 0;
  virtual absl::StatusOr<absl::Duration> TimeToLive(int64_t lease) = 0;
  virtual absl::Status Revoke(int64_t lease) = 0;

  // Sends every change of the prefix from `revision` on to `sink`, until the connection breaks, the watch is compacted,
  // `sink` returns false or Cancel. Why it ended.
  virtual absl::Status Watch(const std::string& prefix, int64_t revision,
                             const std::function<bool(const EtcdChange&)>& sink) = 0;

  // Ends what is under way, and refuses what comes after, as Cancelled.
  virtual void Cancel() = 0;
};

// Errors: InvalidArgument names every option that is wrong.
absl::StatusOr<std::unique_ptr<EtcdClient>> NewEtcdClient(const EtcdOptions& options);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_ETCD_CLIENT_H_
