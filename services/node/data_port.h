// The data port's connections: accepts them, hands them to gRPC, and holds their number down.
//
// Why not gRPC's own listener: with the first connection for which no descriptor is left it stops listening for good
// (gRPC 1.51; its issue 20418), so whoever opens enough connections silences a node until it is started anew. And it has
// no bound on connections, of which each costs memory.
//
// Bounds   `max_connections` at once; one more is closed at once, counted and logged. A connection counts until gRPC has
//          closed it, which for one that never speaks is the server's handshake timeout.
// Threads  Start is called once; Close and connections() by any thread. Accepting has a thread of its own.
#ifndef KVIST_SERVICES_NODE_DATA_PORT_H_
#define KVIST_SERVICES_NODE_DATA_PORT_H_

#include <grpcpp/server_builder.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "services/node/listener.h"

namespace kvist {

class DataPort {
 public:
  using Acceptor = grpc::experimental::ExternalConnectionAcceptor;
  // Until Start, connections wait in the kernel.
  DataPort(std::unique_ptr<Listener> listener, size_t max_connections);
  ~DataPort();

  // Accepts until Close. `acceptor` is of a server that has been started and outlives Close.
  void Start(std::unique_ptr<Acceptor> acceptor);
  // Accepts nothing more and frees the port; connections go on. Call it before the server's Shutdown.
  void Close();

  size_t connections();  // that are open now
  size_t most() const { return max_connections_; }
  uint64_t refused() const { return refused_; }

 private:
  // The kernel gives descriptors' numbers again: a socket's inode tells whether it is the same connection still.
  struct Open {
    int descriptor;
    ino_t inode;
  };

  void Run();
  void Take(int connection);
  // Looks at so many of the connections, in turn, and forgets those that are closed.
  void Look(size_t most) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Acceptor> acceptor_;
  const size_t max_connections_;
  const int wake_;
  std::atomic<uint64_t> refused_ = 0;
  std::mutex mutex_;
  std::vector<Open> open_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // to be looked at
  std::thread thread_;
};

// Raises this process's limit of open files as far as it may, and answers how many data connections that allows, at
// most `wanted`: some descriptors are left for peers, HTTP, files and the threads of gRPC.
// Errors: ResourceExhausted  the limit does not even allow a few; the message says what to change.
absl::StatusOr<size_t> ConnectionsWithinFileLimit(size_t wanted);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_DATA_PORT_H_
