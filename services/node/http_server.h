// The node's HTTP port: GET /metrics (Prometheus text), /healthz (the process answers), /readyz (it takes requests).
//
// Threads own ones; the two callbacks are called on them.
#ifndef KVIST_SERVICES_NODE_HTTP_SERVER_H_
#define KVIST_SERVICES_NODE_HTTP_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace kvist {

class HttpServer {
 public:
  // Binds `address` ("host:port", port 0 = chosen by the system) and serves until destruction.
  // Errors: InvalidArgument  the address has no port; Unavailable  it cannot be bound (the message names it).
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address,
                                                           std::function<std::string()> metrics,
                                                           std::function<bool()> ready);
  virtual ~HttpServer() = default;
  virtual std::string address() const = 0;  // bound, "host:port"
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_HTTP_SERVER_H_
