// One node: its tiers, the gRPC server over them, the HTTP port, and the ways to its device memory. Wiring, no logic.
//
// Threads Start and Stop are called by one thread; the servers bring their own.
#ifndef KVIST_SERVICES_NODE_NODE_H_
#define KVIST_SERVICES_NODE_NODE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cachestore/device.h"
#include "services/node/config.h"

namespace kvist {

// Opens a GPU by its ordinal: OpenCudaDevice (cachestore/cuda_device.h), or what a test has instead.
using DeviceOpener = std::function<absl::StatusOr<std::unique_ptr<Device>>(int ordinal)>;

class NodeServer {
 public:
  // Takes the memory, binds both ports and serves. With a cluster file, publishes the bound addresses beside it.
  // Registers in the background: until it is a member, /readyz says what it waits for.
  // Errors: AlreadyExists      another process is this node of the cluster file (node_claim.h);
  //         Unavailable        a port is taken (named); ResourceExhausted  the memory cannot be had;
  //         InvalidArgument    the advertised address resolves to nothing, an option of etcd, or no such GPU.
  // `open_device` is called if config.device asks for it. Empty = built without: the node has host memory alone.
  static absl::StatusOr<std::unique_ptr<NodeServer>> Start(const NodeConfig& config,
                                                           const DeviceOpener& open_device = nullptr);
  virtual ~NodeServer() = default;  // stops at once if Stop was not called

  virtual Address data_address() const = 0;  // bound
  virtual Address http_address() const = 0;

  // `act` is called once, on a thread of the node, when an operator's drain has left the cluster: it is time to stop.
  virtual void OnLeft(std::function<void()> act) = 0;

  // Turns /readyz to 503, hands blocks over and leaves the cluster within `config.drain_deadline`, then refuses new
  // calls, lets open ones end until `config.drain` is over, and cuts them off.
  virtual void Stop() = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_NODE_H_
