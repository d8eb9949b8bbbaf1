// A TCP port that this process listens on: bound, and never blocking. Who accepts is up to its owner.
//
// Threads  one thread accepts; the rest is constant after Bind.
#ifndef KVIST_SERVICES_NODE_LISTENER_H_
#define KVIST_SERVICES_NODE_LISTENER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "services/cluster/view.h"

namespace kvist {

class Listener {
 public:
  // Binds the first of the host's addresses that is free; port 0 = chosen by the system. `[::]` takes IPv4 too.
  // Errors: Unavailable  the port is taken, or the host is not of this machine.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(const Address& address);
  ~Listener();
  Listener(const Listener&) = delete;

  int descriptor() const { return descriptor_; }       // readable when a connection waits
  const Address& address() const { return address_; }  // bound; the host as it was given

  // A connection that waits (not blocking, closed on exec, the caller's to close).
  // Errors: NotFound           none waits;
  //         ResourceExhausted  it cannot be had now (no descriptors are left, mostly): come again a little later.
  absl::StatusOr<int> Accept();

 private:
  Listener(int descriptor, Address address) : descriptor_(descriptor), address_(std::move(address)) {}
  const int descriptor_;
  const Address address_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_LISTENER_H_
