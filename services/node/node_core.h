// All of a node but its sockets: the tiers, the handlers, membership, the scrubber and the timers. kvistd puts gRPC and
// HTTP before it; the simulation builds it as it is.
//
// States  of the node in its cluster, as its record says:
//           joining   its share grows from a tenth to the whole within `join_ramp`; for `join_window` more, readers
//                     still ask the previous owner second. The first node of an empty cluster skips this
//           serving   until it is drained
//           draining  takes no new blocks, hands its hottest over, leaves
// Threads every method from any thread; Start once. All threads come from the Runtime.
#ifndef KVIST_SERVICES_NODE_NODE_CORE_H_
#define KVIST_SERVICES_NODE_NODE_CORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/tiered_store.h"
#include "services/cluster/membership.h"
#include "services/node/cache_handlers.h"
#include "services/node/metrics.h"
#include "services/node/profile_shelf.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"

namespace kvist {

class DebugPages;

// What a part that acts on the handlers' events (the replicator) is built from. All of it outlives the part.
struct NodeParts {
  NodeId self;
  BlockStore* store = nullptr;
  Metrics* metrics = nullptr;
  DebugPages* debug_pages = nullptr;
  Runtime* runtime = nullptr;
  Transport* transport = nullptr;
  std::function<std::shared_ptr<const View>()> view;
  std::shared_ptr<const Access> access;  // null: no tenants
  // A block came past the handlers whose profile the node may lack; as of Hooks.
  std::function<void(TenantId tenant, const std::string& digest)> needs_profile;
};

struct NodeCoreOptions {
  NodeId id;
  uint64_t capacity_bytes = 0;
  double weight = 0;  // 0 = the capacity in GiB
  absl::Duration max_lease = absl::Seconds(30);
  bool prefault = true;
  // Makes the device tier, once, in Create; empty = there shall be none. Where it answers FailedPrecondition (no driver,
  // no GPU) or Unavailable (a GPU that does not answer), the node goes on with host memory and says so; what else it
  // answers is Create's answer too.
  std::function<absl::StatusOr<std::unique_ptr<DeviceTier>>(const TierRules& rules)> make_device_tier;
  std::function<std::optional<v1::DeviceInfo>()> device_info;  // for ServerInfo; empty = nothing to tell
  std::shared_ptr<const Access> access;  // who may do what, and its tenants' quotas; null: everybody everything
  ProfileShelfOptions profiles;
  Limits limits;
  AdmissionLimits admission;
  absl::Duration slow_call = absl::Seconds(1);
  absl::Duration join_ramp = absl::Seconds(30);
  absl::Duration join_window = absl::Seconds(30);
  absl::Duration drain_deadline = absl::Seconds(30);  // of the hand-over
  uint64_t drain_budget_bytes = 0;                    // of the hand-over; 0 = half of the capacity
  uint64_t scrub_rate = 64ull << 20;                  // bytes a second; 0 = no scrub
  absl::Duration scrub_pause = absl::Seconds(10);     // between two passes over the store
  // The view of a node without a Membership; null = a node by itself.
  std::shared_ptr<const View> fixed_view;
  // Called once, in Create. The returned hooks are called until ~NodeCore, which destroys them before the parts.
  // `drain` among them hands blocks over, as MemberOptions::hand_over (member.h); state and leaving are the core's.
  // `taking_blocks` is the core's own.
  std::function<Hooks(const NodeParts& parts)> make_hooks;
};

// Where the node stands, for /readyz and metrics.
struct NodeStatus {
  bool ready = false;
  std::string why_not;  // a sentence; "" if ready
  std::string trouble;  // a sentence: what is amiss though the node serves; "" if nothing is
  uint64_t view = 0;    // 0 = none yet
  NodeState state = NodeState::kServing;
  double ramp = 1;
  bool draining = false;
  bool left = false;  // drained, no member any more
  MembershipHealth membership;
};

class NodeCore {
 public:
  // Takes the memory. `membership` may be null. All three outlive the core.
  // Errors: InvalidArgument  an option, or a folder of profiles that cannot be used; ResourceExhausted  the memory is not there, in a host or a device tier.
  static absl::StatusOr<std::unique_ptr<NodeCore>> Create(NodeCoreOptions options, Runtime* runtime,
                                                          Transport* transport, Membership* membership);
  virtual ~NodeCore() = default;  // stops without draining; open sessions must be idle: they are ended

  // Starts the threads, and registers under these addresses in the background until it succeeds. Does not wait.
  virtual void Start(const Address& data, const Address& http) = 0;

  virtual CacheHandlers* handlers() = 0;
  virtual Metrics* metrics() = 0;
  virtual DebugPages* debug_pages() = 0;
  virtual TieredStore* store() = 0;
  virtual std::shared_ptr<const View> view() const = 0;
  virtual NodeStatus status() const = 0;

  // Stops taking blocks, hands over within the drain's own deadline, leaves; returns when that is done or `deadline`
  // has passed. Whoever calls second waits for the same drain.
  virtual void DrainAndLeave(absl::Time deadline) = 0;
  // `act` is called once, on a thread of the core, when a Drain that was asked for by RPC has left the cluster.
  virtual void OnLeft(std::function<void()> act) = 0;
  // Refuses new blocks from now on and ends all open sessions. Not ready any more.
  virtual void Stop() = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_NODE_CORE_H_
