#include "services/node/http_server.h"

#include <httplib.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

// A connection holds a thread until its request has come and is answered. So it brings one request, soon, and there are
// more threads than there are clients that mean well: a few that connect and say nothing hold nobody up.
constexpr size_t kThreads = 8, kMaxWaiting = 64;
constexpr int kSilentSeconds = 1;  // a connection that says nothing for so long is closed
constexpr int kStallSeconds = 5;   // as is one that stops in the middle of its request or answer

// When kMaxWaiting connections wait for a thread, the acceptor waits as well, and the kernel turns others away.
class BoundedPool : public httplib::TaskQueue {
 public:
  BoundedPool() {
    for (size_t i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Run(); });
  }
  void enqueue(std::function<void()> task) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return tasks_.size() < kMaxWaiting; });
    tasks_.push_back(std::move(task));
    changed_.notify_all();
  }
  void shutdown() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      changed_.notify_all();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

class HttplibServer : public HttpServer {
 public:
  explicit HttplibServer(HttpOptions options) {
    // SO_REUSEPORT, the library's default, would let two nodes share a port unseen.
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.new_task_queue = [] { return new BoundedPool; };
    server_.set_keep_alive_max_count(1);
    server_.set_keep_alive_timeout(kSilentSeconds);  // of the wait for a first byte, too
    server_.set_read_timeout(kStallSeconds);
    server_.set_write_timeout(kStallSeconds);
    server_.Get("/metrics",
                [metrics = std::move(options.metrics)](const httplib::Request&, httplib::Response& response) {
                  response.set_content(metrics(), "text/plain; version=0.0.4; charset=utf-8");
                });
    server_.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("ok\n", "text/plain");
    });
    server_.Get("/readyz", [why_not_ready = std::move(options.why_not_ready), trouble = std::move(options.trouble)](
                               const httplib::Request&, httplib::Response& response) {
      const std::string why_not = why_not_ready();
      std::string answer = why_not.empty() ? "ready\n" : absl::StrCat("not ready: ", why_not, "\n");
      if (const std::string amiss = trouble ? trouble() : ""; !amiss.empty()) absl::StrAppend(&answer, amiss, "\n");
      response.status = why_not.empty() ? 200 : 503;
      response.set_content(answer, "text/plain");
    });
    if (!options.flip) return;
    server_.Post(
        "/test/flip", [flip = std::move(options.flip)](const httplib::Request& request, httplib::Response& response) {
          const absl::StatusOr<std::string> answer =
              flip([&request](const std::string& name) { return request.get_param_value(name.c_str()); });
          response.status = answer.ok() ? 200 : 400;
          response.set_content(answer.ok() ? *answer : std::string(answer.status().message()) + "\n", "text/plain");
        });
  }
  ~HttplibServer() override {
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }

  // `host` as in an address: an IPv6 one stands in brackets, which the library does not want.
  bool Bind(const std::string& host, int port) {
    const bool ipv6 = host.size() > 2 && host.front() == '[' && host.back() == ']';
    const std::string bare = ipv6 ? host.substr(1, host.size() - 2) : host;
    port_ = port == 0 ? server_.bind_to_any_port(bare.c_str()) : (server_.bind_to_port(bare.c_str(), port) ? port : -1);
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

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpOptions options) {
  const std::string address = options.address;
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("HTTP address '", address, "' is not host:port"));
  }
  auto server = std::make_unique<HttplibServer>(std::move(options));
  if (!server->Bind(address.substr(0, colon), port)) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on HTTP address ", address,
                     ": the port is taken or the address is not of this host; name another with --http"));
  }
  server->Serve();
  return server;
}

}  // namespace kvist
