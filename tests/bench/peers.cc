#include "tests/bench/peers.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvist {
namespace {

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "bench: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Listens on a port chosen by the system.
int Listen(int* port) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    Die("cannot listen on loopback");
  }
  *port = ntohs(address.sin_port);
  return listener;
}

bool TrySend(int socket, const uint8_t* bytes, size_t size) {
  while (size > 0) {
    const ssize_t sent = send(socket, bytes, size, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes += sent;
    size -= sent;
  }
  return true;
}

// The child's whole life: answers requests for a number of bytes until the peer is gone.
[[noreturn]] void ServeBytes(int listener, size_t max_bytes) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int connection = accept(listener, nullptr, nullptr);
  const std::vector<uint8_t> memory(max_bytes, 0x5a);
  uint64_t wanted;
  while (recv(connection, &wanted, sizeof(wanted), MSG_WAITALL) == sizeof(wanted)) {
    if (!TrySend(connection, memory.data(), std::min<size_t>(wanted, max_bytes))) break;
  }
  _exit(0);
}

pid_t ForkSender(size_t max_bytes, int* port) {
  const int listener = Listen(port);
  const pid_t pid = fork();
  if (pid == 0) ServeBytes(listener, max_bytes);
  close(listener);
  return pid;
}

}  // namespace

Child::~Child() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Child::Signal(int signal) const { kill(pid_, signal); }

Child Child::Spawn(const std::vector<std::string>& command) {
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int null = open("/dev/null", O_RDWR);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    std::vector<char*> words;
    for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    execvp(words[0], words.data());
    _exit(127);
  }
  return Child(pid);
}

int ConnectLoopback(int port, double seconds) {
  const absl::Time deadline = absl::Now() + absl::Seconds(seconds);
  sockaddr_in address = Loopback(port);
  while (true) {
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
      const int yes = 1;
      setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
      return connection;
    }
    close(connection);
    if (absl::Now() > deadline) Die(absl::StrCat("nobody listens on port ", port));
    absl::SleepFor(absl::Milliseconds(20));
  }
}

int FreePort() {
  int port;
  close(Listen(&port));
  return port;
}

void SendAll(int socket, absl::Span<const uint8_t> bytes) {
  if (!TrySend(socket, bytes.data(), bytes.size())) Die("the peer went away");
}

void ReceiveAll(int socket, absl::Span<uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t received = recv(socket, bytes.data(), bytes.size(), 0);
    if (received <= 0) Die("the peer went away");
    bytes.remove_prefix(received);
  }
}

TcpSender::TcpSender(size_t max_bytes)
    : socket_(-1), child_([&] {
        int port;
        const pid_t pid = ForkSender(max_bytes, &port);
        socket_ = ConnectLoopback(port, 5);
        return pid;
      }()) {}

TcpSender::~TcpSender() { close(socket_); }

void TcpSender::Fetch(absl::Span<uint8_t> into) {
  const uint64_t wanted = into.size();
  SendAll(socket_, {reinterpret_cast<const uint8_t*>(&wanted), sizeof(wanted)});
  ReceiveAll(socket_, into);
}

Redis::Redis()
    : port_(FreePort()),
      child_(Child::Spawn(
          {"redis-server", "--port", absl::StrCat(port_), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"})),
      socket_(ConnectLoopback(port_, 10)) {}

Redis::~Redis() { close(socket_); }

void Redis::SendCommand(const std::vector<std::string>& words, absl::Span<const uint8_t> last) {
  std::string head = absl::StrCat("*", words.size() + (last.empty() ? 0 : 1), "\r\n");
  for (const std::string& word : words) absl::StrAppend(&head, "$", word.size(), "\r\n", word, "\r\n");
  if (!last.empty()) absl::StrAppend(&head, "$", last.size(), "\r\n");
  SendAll(socket_, {reinterpret_cast<const uint8_t*>(head.data()), head.size()});
  if (last.empty()) return;
  SendAll(socket_, last);
  SendAll(socket_, {reinterpret_cast<const uint8_t*>("\r\n"), 2});
}

std::string Redis::ReadLine() {
  std::string line;
  for (uint8_t byte = 0; byte != '\n'; line.push_back(static_cast<char>(byte))) ReceiveAll(socket_, {&byte, 1});
  return line.substr(0, line.size() - 2);
}

void Redis::Set(const std::string& key, absl::Span<const uint8_t> value) {
  SendCommand({"SET", key}, value);
  if (ReadLine() != "+OK") Die("redis refused a SET");
}

void Redis::Get(const std::string& key, absl::Span<uint8_t> into) {
  SendCommand({"GET", key}, {});
  if (ReadLine() != absl::StrCat("$", into.size())) Die("redis has no such value: " + key);
  ReceiveAll(socket_, into);
  uint8_t end[2];
  ReceiveAll(socket_, end);
}

}  // namespace kvist
