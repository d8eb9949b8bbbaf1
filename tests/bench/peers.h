// The other sides of the transport benchmarks, as real processes on real sockets.
//
// Units bytes; times are wall seconds. Threads one.
#ifndef KVIST_TESTS_BENCH_PEERS_H_
#define KVIST_TESTS_BENCH_PEERS_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace kvist {

// A child process, killed when this goes out of scope.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child();
  Child(Child&& other) : pid_(other.pid_) { other.pid_ = -1; }
  Child(const Child&) = delete;
  void Signal(int signal) const;
  static Child Spawn(const std::vector<std::string>& command);  // standard error and output are dropped

 private:
  pid_t pid_;
};

// A stream over loopback, connected; retries until `seconds` are over, then ends the program with a sentence.
int ConnectLoopback(int port, double seconds);
int FreePort();
void SendAll(int socket, absl::Span<const uint8_t> bytes);
void ReceiveAll(int socket, absl::Span<uint8_t> bytes);

// A plain TCP sender: asked for n bytes it sends n bytes from memory. What a socket can do with no protocol at all.
// Must be made before the program starts threads: it forks.
class TcpSender {
 public:
  explicit TcpSender(size_t max_bytes);
  ~TcpSender();
  void Fetch(absl::Span<uint8_t> into);

 private:
  int socket_;
  Child child_;
};

// A real redis-server, and a client that receives into the caller's memory: the ceiling of C clients (hiredis copies).
class Redis {
 public:
  Redis();
  ~Redis();
  void Set(const std::string& key, absl::Span<const uint8_t> value);
  void Get(const std::string& key,
           absl::Span<uint8_t> into);  // ends the program if the value is absent or of another size

 private:
  void SendCommand(const std::vector<std::string>& words, absl::Span<const uint8_t> last);
  std::string ReadLine();

  int port_;
  Child child_;
  int socket_;
};

}  // namespace kvist

#endif  // KVIST_TESTS_BENCH_PEERS_H_
