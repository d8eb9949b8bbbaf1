#include "services/transport/device_ipc/message_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr size_t kLengthBytes = 4;
constexpr size_t kReadBytes = size_t{64} << 10;
constexpr int kBacklog = 64;

uint32_t LengthAt(const std::string& bytes) {
  uint32_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint32_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
  return length;
}

absl::Status Gone() { return absl::UnavailableError("the other end of the device socket has gone"); }

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path of ", path.size(), " bytes; allowed are 1 to ",
                                                   sizeof(address.sun_path) - 1, ": ", path.substr(0, 200)));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<int> NewSocket() {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::ResourceExhaustedError(absl::StrCat("no Unix socket: ", std::strerror(errno)));
  return fd;
}

}  // namespace

MessageSocket::~MessageSocket() { close(fd_); }

absl::Status MessageSocket::Send(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  if (out_.size() + size + kLengthBytes > kMostUnsent) {
    return absl::ResourceExhaustedError(absl::StrCat(out_.size(), " bytes wait for an end that does not read"));
  }
  for (size_t i = 0; i < kLengthBytes; ++i) out_.push_back(static_cast<char>(size >> (8 * i)));
  message.AppendToString(&out_);
  return Flush();
}

absl::Status MessageSocket::Flush() {
  while (!out_.empty()) {
    const ssize_t sent = send(fd_, out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
    if (sent < 0) return Gone();
    out_.erase(0, static_cast<size_t>(sent));
  }
  return absl::OkStatus();
}

std::optional<absl::StatusOr<std::string>> MessageSocket::TakeWhole() {
  if (in_.size() < kLengthBytes) return std::nullopt;
  const size_t length = LengthAt(in_);
  if (length > longest_) {
    return absl::UnavailableError(
        absl::StrCat("the other end of the device socket announces ", length, " bytes; at most ", longest_));
  }
  if (in_.size() < kLengthBytes + length) return std::nullopt;
  std::string message = in_.substr(kLengthBytes, length);
  in_.erase(0, kLengthBytes + length);
  return message;
}

absl::StatusOr<std::optional<std::string>> MessageSocket::Receive() {
  for (;;) {
    if (auto whole = TakeWhole()) {
      if (!whole->ok()) return whole->status();
      return std::optional<std::string>(*std::move(*whole));
    }
    char bytes[kReadBytes];
    const ssize_t got = recv(fd_, bytes, sizeof(bytes), MSG_DONTWAIT);
    // A reset is told once, and what the other end had said before it is still there.
    if (got < 0 && (errno == EINTR || errno == ECONNRESET)) continue;
    if (got < 0 && errno == EAGAIN) return std::optional<std::string>();
    if (got <= 0) return Gone();
    in_.append(bytes, static_cast<size_t>(got));
  }
}

absl::StatusOr<std::string> MessageSocket::Await(absl::Duration deadline) {
  using SteadyClock = std::chrono::steady_clock;
  const SteadyClock::time_point end = SteadyClock::now() + absl::ToChronoNanoseconds(deadline);
  for (;;) {
    const absl::Status flushed = Flush();
    absl::StatusOr<std::optional<std::string>> message = Receive();
    if (!message.ok()) return message.status();
    if (message->has_value()) return **std::move(message);
    if (!flushed.ok()) return flushed;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - SteadyClock::now()).count();
    if (left <= 0) {
      return absl::DeadlineExceededError(
          absl::StrCat("no answer on the device socket in ", absl::FormatDuration(deadline)));
    }
    pollfd wait = {fd_, static_cast<short>(POLLIN | (unsent() ? POLLOUT : 0)), 0};
    poll(&wait, 1, static_cast<int>(std::min<int64_t>(left, std::numeric_limits<int>::max())));
  }
}

bool MessageSocket::closed_by_peer() const {
  pollfd look = {fd_, POLLRDHUP, 0};
  return poll(&look, 1, 0) != 0;
}

absl::StatusOr<int> ConnectUnix(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.status();
  const absl::StatusOr<int> fd = NewSocket();
  if (!fd.ok()) return fd;
  // Of a Unix socket this never waits: it is EAGAIN where the backlog is full.
  if (connect(*fd, reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) == 0) return *fd;
  const int error = errno;
  close(*fd);
  const std::string what = absl::StrCat("device socket ", path, ": ", std::strerror(error));
  if (error == EAGAIN) return absl::ResourceExhaustedError(what);
  return error == ENOENT || error == ECONNREFUSED ? absl::NotFoundError(what) : absl::UnavailableError(what);
}

absl::StatusOr<int> ListenUnix(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.status();
  struct stat file;
  if (lstat(path.c_str(), &file) == 0) {
    if (!S_ISSOCK(file.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, " is there and is no socket"));
    const absl::StatusOr<int> other = ConnectUnix(path);
    if (other.ok()) close(*other);
    if (!absl::IsNotFound(other.status())) return absl::AlreadyExistsError(absl::StrCat("somebody listens at ", path));
    unlink(path.c_str());
  }
  const absl::StatusOr<int> fd = NewSocket();
  if (!fd.ok()) return fd;
  // Nobody else can connect between bind and chmod: a socket that does not listen yet refuses.
  if (bind(*fd, reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) == 0 &&
      chmod(path.c_str(), S_IRUSR | S_IWUSR) == 0 && listen(*fd, kBacklog) == 0) {
    return *fd;
  }
  const int error = errno;
  close(*fd);
  return absl::InvalidArgumentError(absl::StrCat("cannot listen at ", path, ": ", std::strerror(error)));
}

}  // namespace kvist
