// Channels from one node to the others: made when first needed, one an incarnation and address, closed with their node.
// A peer that does not answer is left alone for a while, longer each time, so that whoever works for many peers is
// held up by a dead one only now and then, for one call.
//
// Threads any. A channel that was found stays usable as long as the caller holds it.
#ifndef KVIST_SERVICES_CLUSTER_PEERS_H_
#define KVIST_SERVICES_CLUSTER_PEERS_H_

#include <map>
#include <memory>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/cluster/view.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"

namespace kvist {

class Peers {
 public:
  static constexpr absl::Duration kFirstPause = absl::Milliseconds(250), kLongestPause = absl::Seconds(10);

  Peers(Transport* transport, Runtime* runtime) : transport_(transport), runtime_(runtime) {}

  // Whoever was given a channel says by Report what came of it. After a failure the peer is refused for a pause that
  // doubles each time; then one caller gets the channel, and the others once that one has succeeded.
  // Errors: NotFound  the view has no such node;
  //         Unavailable with a retry hint  it is left alone now, or its address is not known yet.
  absl::StatusOr<std::shared_ptr<Channel>> Connect(const NodeId& id, const View& view);

  // Unavailable and DeadlineExceeded are failures; any other status is an answer, and so a success.
  void Report(const NodeId& id, const std::shared_ptr<Channel>& channel, const absl::Status& status);

 private:
  struct Peer {
    Address address;
    uint64_t incarnation = 0;
    std::shared_ptr<Channel> channel;
    int failures = 0;  // since the last success
    absl::Time leave_alone_until = absl::InfinitePast();
  };
  void LeaveAlone(Peer* peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Transport* const transport_;
  Runtime* const runtime_;
  std::mutex mutex_;
  ViewNumber pruned_ ABSL_GUARDED_BY(mutex_);  // nodes that are not in this view are closed
  std::map<NodeId, Peer> peers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_PEERS_H_
