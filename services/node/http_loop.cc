#include "services/node/http_loop.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace kvist {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(100);  // of accepting, when no descriptor is left
constexpr int kLookMs = 100;                                // how late a deadline may be noticed

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

HttpLoop::HttpLoop(std::unique_ptr<Listener> listener, std::function<std::string(const std::string& request)> answer)
    : listener_(std::move(listener)),
      answer_(std::move(answer)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

HttpLoop::~HttpLoop() {
  const uint64_t once = 1;
  while (write(wake_, &once, sizeof(once)) < 0 && errno == EINTR) {
  }
  thread_.join();
  for (const Connection& connection : connections_) close(connection.descriptor);
  close(wake_);
}

void HttpLoop::Run() {
  while (true) {
    const absl::Time now = absl::Now();
    std::vector<pollfd> waits = {{wake_, POLLIN, 0}};
    waits.push_back({now < accept_at_ ? -1 : listener_->descriptor(), POLLIN, 0});
    for (const Connection& open : connections_) {
      waits.push_back({open.descriptor, static_cast<short>(open.asking() ? POLLIN : POLLOUT), 0});
    }
    poll(waits.data(), waits.size(), connections_.empty() && now >= accept_at_ ? -1 : kLookMs);
    if (waits[0].revents != 0) return;
    auto open = connections_.begin();
    for (size_t i = 2; i < waits.size(); ++i) {
      const bool over = (waits[i].revents != 0 && !Step(&*open)) || absl::Now() > open->deadline;
      if (over) close(open->descriptor);
      open = over ? connections_.erase(open) : std::next(open);
    }
    if (waits[1].revents != 0) AcceptAll();
  }
}

void HttpLoop::AcceptAll() {
  for (size_t taken = 0; taken < kMostConnections; ++taken) {
    const absl::StatusOr<int> descriptor = listener_->Accept();
    if (absl::IsResourceExhausted(descriptor.status())) accept_at_ = absl::Now() + kPause;
    if (!descriptor.ok()) return;
    if (connections_.size() == kMostConnections) MakeRoom();
    connections_.emplace_back();
    connections_.back().descriptor = *descriptor;
    connections_.back().deadline = absl::Now() + kAskTime;
    // Whoever means well has sent its request by now: it is answered before a crowd behind it can push it out.
    if (Step(&connections_.back())) continue;
    close(connections_.back().descriptor);
    connections_.pop_back();
  }
}

void HttpLoop::MakeRoom() {
  auto oldest = std::find_if(connections_.begin(), connections_.end(), [](const Connection& c) { return c.asking(); });
  if (oldest == connections_.end()) oldest = connections_.begin();
  close(oldest->descriptor);
  connections_.erase(oldest);
}

bool HttpLoop::Step(Connection* connection) { return connection->asking() ? Receive(connection) : Send(connection); }

bool HttpLoop::Receive(Connection* connection) {
  char bytes[4096];
  const ssize_t got = recv(connection->descriptor, bytes, sizeof(bytes), 0);
  if (got < 0) return WouldBlock();
  if (got == 0) return false;
  std::string& request = connection->request;
  const size_t looked_at = request.size();
  request.append(bytes, static_cast<size_t>(got));
  if (request.find("\r\n\r\n", looked_at < 3 ? 0 : looked_at - 3) == std::string::npos) {
    return request.size() <= kMostRequestBytes;
  }
  connection->answer = answer_(request);
  connection->deadline = absl::Now() + kTakeTime;
  return !connection->answer.empty() && Send(connection);
}

bool HttpLoop::Send(Connection* connection) {
  const std::string& answer = connection->answer;
  while (connection->sent < answer.size()) {
    const ssize_t sent =
        send(connection->descriptor, answer.data() + connection->sent, answer.size() - connection->sent, MSG_NOSIGNAL);
    if (sent < 0) return WouldBlock();
    connection->sent += static_cast<size_t>(sent);
  }
  // What came after the request is taken off: closing over it would take the answer back.
  char rest[4096];
  for (int i = 0; i < 16 && recv(connection->descriptor, rest, sizeof(rest), 0) > 0; ++i) {
  }
  return false;
}

}  // namespace kvist
