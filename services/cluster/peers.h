// Channels from one node to the others: made when first needed, one an incarnation and address, gone with their node.
//
// Threads any. A channel that was found stays usable as long as the caller holds it.
#ifndef KVIST_SERVICES_CLUSTER_PEERS_H_
#define KVIST_SERVICES_CLUSTER_PEERS_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "services/cluster/view.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"

namespace kvist {

class Peers {
 public:
  Peers(Transport* transport, Runtime* runtime) : transport_(transport), runtime_(runtime) {}

  // Null if the view has no such node, its address is not known, or it failed within the last second.
  std::shared_ptr<Channel> Find(const NodeId& id, const View& view);
  // A call to this node did not reach it: it is left alone for a second.
  void Failed(const NodeId& id);

 private:
  struct Peer {
    Address address;
    uint64_t incarnation = 0;
    std::shared_ptr<Channel> channel;
    absl::Time leave_alone_until = absl::InfinitePast();
  };
  Transport* const transport_;
  Runtime* const runtime_;
  std::mutex mutex_;
  std::map<NodeId, Peer> peers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_PEERS_H_
