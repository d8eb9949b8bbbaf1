// The node's HTTP port: GET /metrics (Prometheus text), /healthz (the process answers), /readyz (it takes requests, or
// why not), and with test faults POST /test/flip.
//
// Threads one of its own, so that it answers however busy the data port is; the callbacks are called on it, and must not
//         wait.
// Bounds  those of http_loop.h; one request a connection.
#ifndef KVIST_SERVICES_NODE_HTTP_SERVER_H_
#define KVIST_SERVICES_NODE_HTTP_SERVER_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace kvist {

struct HttpOptions {
  std::string address;  // "host:port", port 0 = chosen by the system
  std::function<std::string()> metrics;
  std::function<std::string()> why_not_ready;  // a sentence; "" = ready
  std::function<std::string()> trouble;  // a sentence for /readyz, though the node serves; "" = none. May be empty
  // GET /debug (page "") and /debug/PAGE: HTML, or nothing = no such page. Empty = no such paths.
  std::function<std::optional<std::string>(const std::string& page)> debug;
  // POST /test/flip?...: the parameter of that name, or ""; what to answer. Empty = no such path.
  using Parameter = std::function<std::string(const std::string& name)>;
  std::function<absl::StatusOr<std::string>(const Parameter& parameter)> flip;
};

class HttpServer {
 public:
  // Binds and serves until destruction.
  // Errors: InvalidArgument  the address has no port; Unavailable  it cannot be bound (the message names it).
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(HttpOptions options);
  virtual ~HttpServer() = default;
  virtual std::string address() const = 0;  // bound, "host:port"
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_HTTP_SERVER_H_
