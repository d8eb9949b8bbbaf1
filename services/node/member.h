// This node as a member of its cluster: registers until it succeeds, takes over its share step by step, and leaves.
//
// States  not a member -> joining (ramp 0.1, 0.2 .. 1, then the window) -> serving -> draining -> left.
//         The first node of a cluster has nobody to take a share from: it is serving at once. A source that keeps no
//         states (a cluster file) knows no joining and no draining: what it lists is serving.
// Threads every method from any thread; the work is done by one thread of the Runtime.
// Errors  of the source are retried until they pass: a node without its source keeps what it has, and says so.
#ifndef KVIST_SERVICES_NODE_MEMBER_H_
#define KVIST_SERVICES_NODE_MEMBER_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvist/v1/cluster.pb.h"
#include "services/cluster/membership.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct MemberOptions {
  Node self;  // without its addresses
  absl::Duration join_ramp, join_window;
  absl::Duration drain_deadline;
  uint64_t drain_budget_bytes = 0;
  // Hands blocks over: begins with request.start, then says how far it is. It has ended with any phase but
  // HANDING_OVER. Does not wait. Empty = there is nobody who would.
  std::function<absl::StatusOr<v1::DrainResponse>(const v1::DrainRequest& request)> hand_over;
};

class Member {
 public:
  // `membership` may be null: a node by itself.
  Member(MemberOptions options, Runtime* runtime, Membership* membership);
  ~Member();  // stops without leaving

  void Start(const Address& data, const Address& http);

  // The Drain RPC. Errors: FailedPrecondition  a node that nobody would look for elsewhere.
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request);
  // Drains, and returns when it has left or the deadline is over.
  void DrainAndLeave(absl::Time deadline);
  // `act` is called once, on this object's thread, when a drain that was asked for by RPC has left.
  void OnLeft(std::function<void()> act);

  Node self() const;
  bool registered() const;  // was once
  bool draining() const;    // or left
  bool left() const;
  std::string problem() const;  // why it is no member yet; "" = it is
  v1::DrainResponse drain_progress() const;

 private:
  void Run();
  bool Register();  // false: told to stop or to drain before it stood
  void Join();
  void LeaveCluster();
  void HandOver(absl::Time until);
  void LogDrain(std::string_view event, const v1::DrainResponse& progress) const;
  // Changes our record here and at the source; retried by WaitUntil if the source does not answer.
  void Become(NodeState state, double ramp);
  void Publish();
  // False if the node is to stop or to drain (or `while_draining`, only to stop) before `time`.
  bool WaitUntil(absl::Time time, bool while_draining = false);
  bool OthersHoldBlocks() const;
  void BeginDrain(absl::Duration deadline, uint64_t budget_bytes, bool by_rpc);
  v1::DrainResponse Progress() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const MemberOptions options_;
  Runtime* const runtime_;
  Membership* const membership_;
  const std::unique_ptr<Condition> changed_;

  mutable std::mutex mutex_;
  Node self_ ABSL_GUARDED_BY(mutex_);
  bool unpublished_ ABSL_GUARDED_BY(mutex_) = false;  // the source does not have self_ yet
  bool registered_ ABSL_GUARDED_BY(mutex_) = false;
  bool keeps_states_ ABSL_GUARDED_BY(mutex_) = false;  // the source shows our state to others
  bool started_ ABSL_GUARDED_BY(mutex_) = false, stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false, left_ ABSL_GUARDED_BY(mutex_) = false;
  bool by_rpc_ ABSL_GUARDED_BY(mutex_) = false;  // the drain
  absl::Time drain_until_ ABSL_GUARDED_BY(mutex_);
  uint64_t drain_budget_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::DrainResponse progress_ ABSL_GUARDED_BY(mutex_);
  std::string problem_ ABSL_GUARDED_BY(mutex_) = "the node is starting";
  std::function<void()> on_left_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Thread> thread_;  // last: it uses all of the above
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_MEMBER_H_
