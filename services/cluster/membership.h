// Who is in the cluster, as it changes: a source of numbered views, and the place where a node registers itself.
// Implementations: a static file (static_membership.cc) and etcd (etcd_membership.cc).
//
// Ownership is a hint and never a lock: blocks are immutable and name themselves, so a node or worker with an old view
// causes misses and nothing else. Whatever happens to the source (slow, gone, wiped), `view` keeps the last one.
//
// Units   deadlines are points in time of the Runtime.
// Threads any. Watchers are called one at a time, in order, on a thread of the implementation, without its locks held.
//         They may take their time, and call back; a view that was overtaken meanwhile is passed over.
#ifndef KVIST_SERVICES_CLUSTER_MEMBERSHIP_H_
#define KVIST_SERVICES_CLUSTER_MEMBERSHIP_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/cluster/view.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct MembershipHealth {
  bool connected = false;      // the source answered lately; a static file always has
  bool registered = false;     // our own record stands there under a live lease
  uint64_t registrations = 0;  // how often we had to register, the first time included
  absl::Time last_answer = absl::InfinitePast();
  std::string problem;  // a sentence; "" = none
};

class Membership {
 public:
  virtual ~Membership() = default;  // leaves without waiting; a record that stands ends with its lease

  // The newest view; null until there was a first one. Numbers never go down in the life of this object, nor across a
  // wiped source as long as one member lives.
  virtual std::shared_ptr<const View> view() const = 0;

  // Calls `watcher` with later views. Call it before Register; watchers stay for good, and must outlive this object.
  virtual void Watch(std::function<void(std::shared_ptr<const View>)> watcher) = 0;

  // Makes `self` a member and keeps it one: renews the lease, and registers anew under a greater incarnation if it was
  // lost. Returns when this very record stands and a view that holds it was seen; its incarnation is chosen here.
  // Called again it changes the record, as Update does.
  // Errors: InvalidArgument     the record could not stand in a view, or its port is 0;
  //         AlreadyExists       another living node has this id (its address is named);
  //         DeadlineExceeded    the source did not answer, or it is not known yet whether the node that has this id
  //                             lives; the attempt goes on in the background;
  //         FailedPrecondition  the source refuses us for good (authentication, permission), or has no such node.
  virtual absl::Status Register(const Node& self, absl::Time deadline) = 0;

  // Changes our record: state, ramp, weight, addresses. The id stays. Lasts across registrations.
  // Errors: InvalidArgument, DeadlineExceeded, as above; FailedPrecondition before Register.
  virtual absl::Status Update(const Node& self, absl::Time deadline) = 0;

  // Takes our record away, so that nobody waits for the lease to end.
  // Errors: DeadlineExceeded  the source did not answer; the attempt goes on while this object lives.
  virtual absl::Status Leave(absl::Time deadline) = 0;

  virtual MembershipHealth health() const = 0;
};

struct EtcdOptions {
  std::vector<std::string> endpoints;  // "host:port", tried in turn
  std::string cluster = "kvist";       // records are /kvist/<cluster>/nodes/<id>
  absl::Duration lease = absl::Seconds(10);
  absl::Duration call_deadline = absl::Seconds(3);
  // After the source was wiped or our watch had a gap: how long members that are no longer listed stay in the view,
  // so that they can register again.
  absl::Duration hold = absl::Seconds(10);
  std::string user, password;                // "" = no authentication
  std::string ca_file, cert_file, key_file;  // PEM; ca_file "" = plaintext
};

// Connects and watches in the background; returns at once. Errors: InvalidArgument names every option that is wrong,
// files that cannot be read included.
absl::StatusOr<std::unique_ptr<Membership>> NewEtcdMembership(EtcdOptions options, Runtime* runtime);

// The view of a cluster file. `Register` checks that the file names the node; states and ramps that nodes report stay
// their own (nobody else learns them): with a file, members change by editing it and by the nodes' views, which are
// read again when the file changes.
absl::StatusOr<std::unique_ptr<Membership>> NewStaticMembership(std::string cluster_file, Runtime* runtime);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_MEMBERSHIP_H_
