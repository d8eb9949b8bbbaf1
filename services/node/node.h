// One node: the host tier, the gRPC server over it, the HTTP port, and the timer that ends leases. Wiring, no logic.
//
// Threads Start and Stop are called by one thread; the servers bring their own.
#ifndef KVIST_SERVICES_NODE_NODE_H_
#define KVIST_SERVICES_NODE_NODE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/node/config.h"

namespace kvist {

class NodeServer {
 public:
  // Takes the memory, binds both ports and serves. With a cluster file, publishes the bound addresses beside it.
  // Errors: Unavailable        a port is taken (named); ResourceExhausted  the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<NodeServer>> Start(const NodeConfig& config);
  virtual ~NodeServer() = default;  // stops at once if Stop was not called

  virtual Address data_address() const = 0;  // bound
  virtual Address http_address() const = 0;

  // Turns /readyz to 503, refuses new calls, lets open ones end until `config.drain` is over, then cuts them off.
  virtual void Stop() = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_NODE_H_
