#include "tests/nccl_shim/link.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace kvist::testing {
namespace {

constexpr int kPollMs = 5;

int NewSocket() { return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

socklen_t Address(const std::string& name, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path + 1, name.data(), name.size());  // a name that starts with a zero is abstract
  return socklen_t(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

}  // namespace

Link& Link::operator=(Link&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}
Link::~Link() {
  if (fd_ >= 0) close(fd_);
}

Link Link::Listen(const std::string& name) {
  Link link(NewSocket());
  sockaddr_un address;
  const socklen_t size = Address(name, &address);
  if (bind(link.fd_, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(link.fd_, 64) != 0) return Link();
  return link;
}

Link Link::Connect(const std::string& name, const std::atomic<bool>& stop) {
  sockaddr_un address;
  const socklen_t size = Address(name, &address);
  while (!stop) {
    Link link(NewSocket());
    if (connect(link.fd_, reinterpret_cast<sockaddr*>(&address), size) == 0) return link;
    poll(nullptr, 0, kPollMs);
  }
  return Link();
}

Link Link::Accept(const std::atomic<bool>& stop) const {
  while (Ready(POLLIN, stop)) {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) return Link(fd);
    if (errno != EAGAIN && errno != EINTR) break;
  }
  return Link();
}

bool Link::Ready(short events, const std::atomic<bool>& stop) const {
  while (!stop) {
    pollfd entry = {fd_, events, 0};
    if (poll(&entry, 1, kPollMs) > 0) return true;
  }
  return false;
}

bool Link::Write(const void* from, size_t size, const std::atomic<bool>& stop) const {
  const char* next = static_cast<const char*>(from);
  while (size > 0) {
    if (!Ready(POLLOUT, stop)) return false;
    const ssize_t sent = send(fd_, next, size, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (sent <= 0) return false;
    next += sent;
    size -= size_t(sent);
  }
  return true;
}

bool Link::Read(void* to, size_t size, const std::atomic<bool>& stop) const {
  char* next = static_cast<char*>(to);
  while (size > 0) {
    if (!Ready(POLLIN, stop)) return false;
    const ssize_t got = recv(fd_, next, size, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) return false;
    next += got;
    size -= size_t(got);
  }
  return true;
}

}  // namespace kvist::testing
