// One thread that serves small HTTP/1.1 requests on many connections and waits for none of them: a request is looked at
// once it is whole, and its answer is sent as its reader takes it. So clients that say nothing, or a byte a second, cost
// a descriptor and hold nobody up.
//
// Bounds   kMostConnections at once: for one more, the oldest that has not asked yet is closed. A request without a body,
//          of at most kMostRequestBytes, within kAskTime of its connection; its answer taken within kTakeTime.
// Threads  `answer` is called on the loop's thread.
#ifndef KVIST_SERVICES_NODE_HTTP_LOOP_H_
#define KVIST_SERVICES_NODE_HTTP_LOOP_H_

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "services/node/listener.h"

namespace kvist {

inline constexpr size_t kMostConnections = 256, kMostRequestBytes = 8 << 10;
inline constexpr absl::Duration kAskTime = absl::Seconds(2), kTakeTime = absl::Seconds(5);

class HttpLoop {
 public:
  // `answer` makes a whole response of a whole request, its head's empty line included. Serves until destruction.
  HttpLoop(std::unique_ptr<Listener> listener, std::function<std::string(const std::string& request)> answer);
  ~HttpLoop();

  const Address& address() const { return listener_->address(); }

 private:
  struct Connection {
    int descriptor = -1;
    std::string request, answer;
    size_t sent = 0;
    absl::Time deadline;
    bool asking() const { return answer.empty(); }
  };
  using Connections = std::list<Connection>;  // in the order in which they came

  void Run();
  void AcceptAll();
  void MakeRoom();
  bool Step(Connection* connection);  // false: it is over
  bool Receive(Connection* connection);
  bool Send(Connection* connection);

  const std::unique_ptr<Listener> listener_;
  const std::function<std::string(const std::string& request)> answer_;
  const int wake_;
  absl::Time accept_at_ = absl::InfinitePast();  // not before: no descriptors were left
  Connections connections_;                      // the thread's own
  std::thread thread_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_HTTP_LOOP_H_
