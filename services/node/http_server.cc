#include "services/node/http_server.h"

#include <httplib.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/node/http_loop.h"

namespace kvist {
namespace {

// A request that has come whole, and the answer to it.
class TextStream : public httplib::Stream {
 public:
  explicit TextStream(const std::string& request) : request_(request) {}
  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  ssize_t read(char* to, size_t size) override {
    const size_t taken = std::min(size, request_.size() - read_);
    std::memcpy(to, request_.data() + read_, taken);
    read_ += taken;
    return static_cast<ssize_t>(taken);
  }
  ssize_t write(const char* bytes, size_t size) override {
    answer_.append(bytes, size);
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override { ip.clear(), port = 0; }
  void get_local_ip_and_port(std::string& ip, int& port) const override { ip.clear(), port = 0; }
  socket_t socket() const override { return 0; }
  const std::string& answer() const { return answer_; }

 private:
  const std::string& request_;
  size_t read_ = 0;
  std::string answer_;
};

// The library's parser and routes, without its sockets: its threads wait for slow clients (http_loop.h does not), and
// its select() knows no descriptor beyond 1,023.
class Routes : public httplib::Server {
 public:
  std::string Answer(const std::string& request) {
    TextStream stream(request);
    bool closed = false;
    process_request(stream, /*close_connection=*/true, closed, nullptr);
    return stream.answer();
  }
};

class HttplibServer : public HttpServer {
 public:
  explicit HttplibServer(HttpOptions options) {
    routes_.Get("/metrics",
                [metrics = std::move(options.metrics)](const httplib::Request&, httplib::Response& response) {
                  response.set_content(metrics(), "text/plain; version=0.0.4; charset=utf-8");
                });
    routes_.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("ok\n", "text/plain");
    });
    routes_.Get("/readyz", [why_not_ready = std::move(options.why_not_ready), trouble = std::move(options.trouble)](
                               const httplib::Request&, httplib::Response& response) {
      const std::string why_not = why_not_ready();
      std::string answer = why_not.empty() ? "ready\n" : absl::StrCat("not ready: ", why_not, "\n");
      if (const std::string amiss = trouble ? trouble() : ""; !amiss.empty()) absl::StrAppend(&answer, amiss, "\n");
      response.status = why_not.empty() ? 200 : 503;
      response.set_content(answer, "text/plain");
    });
    if (options.debug) AddDebug(std::move(options.debug));
    if (!options.flip) return;
    routes_.Post(
        "/test/flip", [flip = std::move(options.flip)](const httplib::Request& request, httplib::Response& response) {
          const absl::StatusOr<std::string> answer =
              flip([&request](const std::string& name) { return request.get_param_value(name.c_str()); });
          response.status = answer.ok() ? 200 : 400;
          response.set_content(answer.ok() ? *answer : std::string(answer.status().message()) + "\n", "text/plain");
        });
  }
  void Serve(std::unique_ptr<Listener> listener) {
    loop_.emplace(std::move(listener), [this](const std::string& request) { return routes_.Answer(request); });
  }
  void AddDebug(decltype(HttpOptions::debug) debug) {
    routes_.Get("/debug(?:/([a-z]*))?",
                [debug = std::move(debug)](const httplib::Request& request, httplib::Response& response) {
                  const std::optional<std::string> page = debug(request.matches[1]);
                  response.status = page ? 200 : 404;
                  if (!page) return;
                  // Should text ever get past the escaping: nothing of the page may run or be fetched.
                  response.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'");
                  response.set_header("X-Content-Type-Options", "nosniff");
                  response.set_header("Cache-Control", "no-store");
                  response.set_content(*page, "text/html; charset=utf-8");
                });
  }
  std::string address() const override { return loop_->address().ToString(); }

 private:
  Routes routes_;
  std::optional<HttpLoop> loop_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpOptions options) {
  const absl::StatusOr<Address> address = ParseAddress(options.address);
  if (!address.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("HTTP address '", options.address, "' is not host:port"));
  }
  absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Bind(*address);
  if (!listener.ok()) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on HTTP address ", options.address,
                     ": the port is taken or the address is not of this host; name another with --http"));
  }
  auto server = std::make_unique<HttplibServer>(std::move(options));
  server->Serve(*std::move(listener));
  return server;
}

}  // namespace kvist
