#include "services/node/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr int kBacklog = 1024;  // connections that the kernel keeps until they are accepted

std::string WithoutBrackets(const std::string& host) {
  const bool ipv6 = host.size() > 2 && host.front() == '[' && host.back() == ']';
  return ipv6 ? host.substr(1, host.size() - 2) : host;
}

// -1 and errno if it cannot be.
int BindAndListen(const addrinfo& at) {
  const int descriptor = socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return -1;
  const int yes = 1, no = 0;
  // Not SO_REUSEPORT: two nodes could share a port unseen.
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));  // connections inherit it
  if (at.ai_family == AF_INET6) setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
  if (bind(descriptor, at.ai_addr, at.ai_addrlen) == 0 && listen(descriptor, kBacklog) == 0) return descriptor;
  const int why = errno;
  close(descriptor);
  errno = why;
  return -1;
}

uint16_t BoundPort(int descriptor) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (getsockname(descriptor, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(const Address& address) {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int unknown =
      getaddrinfo(WithoutBrackets(address.host).c_str(), absl::StrCat(address.port).c_str(), &wanted, &found);
  if (unknown != 0) return absl::UnavailableError(absl::StrCat(address.host, ": ", gai_strerror(unknown)));
  int descriptor = -1;
  for (const addrinfo* at = found; at != nullptr && descriptor < 0; at = at->ai_next) descriptor = BindAndListen(*at);
  const int why = errno;
  freeaddrinfo(found);
  if (descriptor < 0) return absl::UnavailableError(std::strerror(why));
  return std::unique_ptr<Listener>(new Listener(descriptor, {address.host, BoundPort(descriptor)}));
}

Listener::~Listener() { close(descriptor_); }

absl::StatusOr<int> Listener::Accept() {
  while (true) {
    const int connection = accept4(descriptor_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection >= 0) return connection;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return absl::NotFoundError("no connection waits");
    // The connection went before it was accepted: the next may be well.
    if (errno == ECONNABORTED || errno == EINTR) continue;
    return absl::ResourceExhaustedError(std::strerror(errno));
  }
}

}  // namespace kvist
