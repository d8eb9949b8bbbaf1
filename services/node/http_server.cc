#include "services/node/http_server.h"

#include <httplib.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

class HttplibServer : public HttpServer {
 public:
  HttplibServer(std::function<std::string()> metrics, std::function<bool()> ready) {
    // SO_REUSEPORT, the library's default, would let two nodes share a port unseen.
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.new_task_queue = [] { return new httplib::ThreadPool(2); };
    server_.set_read_timeout(5);
    server_.set_write_timeout(5);
    server_.Get("/metrics", [metrics = std::move(metrics)](const httplib::Request&, httplib::Response& response) {
      response.set_content(metrics(), "text/plain; version=0.0.4; charset=utf-8");
    });
    server_.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("ok\n", "text/plain");
    });
    server_.Get("/readyz", [ready = std::move(ready)](const httplib::Request&, httplib::Response& response) {
      const bool is_ready = ready();
      response.status = is_ready ? 200 : 503;
      response.set_content(is_ready ? "ready\n" : "not ready\n", "text/plain");
    });
  }
  ~HttplibServer() override {
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }

  bool Bind(const std::string& host, int port) {
    port_ = port == 0 ? server_.bind_to_any_port(host.c_str()) : (server_.bind_to_port(host.c_str(), port) ? port : -1);
    host_ = host;
    return port_ > 0;
  }
  void Serve() {
    thread_ = std::thread([this] {
      server_.listen_after_bind();
      ended_ = true;
    });
    // stop() is lost on a server whose loop has not begun, and a join would then wait for ever.
    while (!server_.is_running() && !ended_) std::this_thread::yield();
  }
  std::string address() const override { return absl::StrCat(host_, ":", port_); }

 private:
  httplib::Server server_;
  std::string host_;
  int port_ = -1;
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              std::function<std::string()> metrics,
                                                              std::function<bool()> ready) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("HTTP address '", address, "' is not host:port"));
  }
  auto server = std::make_unique<HttplibServer>(std::move(metrics), std::move(ready));
  if (!server->Bind(address.substr(0, colon), port)) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on HTTP address ", address,
                     ": the port is taken or the address is not of this host; name another with --http"));
  }
  server->Serve();
  return server;
}

}  // namespace kvist
