#include "services/node/data_port.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/node/log.h"

namespace kvist {
namespace {

constexpr int kPauseMs = 100;                // when no descriptor is left
constexpr unsigned kSendTimeoutMs = 10'000;  // sent bytes that a peer does not acknowledge for so long end a connection
constexpr size_t kLooks = 128;               // of one who comes when all are taken: so refusing costs little
constexpr rlim_t kOtherDescriptors = 512, kFewestConnections = 64, kMostDescriptors = 1 << 20;

std::optional<ino_t> InodeOf(int descriptor) {
  struct stat about {};
  if (fstat(descriptor, &about) != 0 || !S_ISSOCK(about.st_mode)) return std::nullopt;
  return about.st_ino;
}

}  // namespace

DataPort::DataPort(std::unique_ptr<Listener> listener, size_t max_connections)
    : listener_(std::move(listener)),
      max_connections_(max_connections),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

DataPort::~DataPort() {
  Close();
  close(wake_);
}

void DataPort::Start(std::unique_ptr<Acceptor> acceptor) {
  acceptor_ = std::move(acceptor);
  thread_ = std::thread([this] { Run(); });
}

void DataPort::Close() {
  if (!thread_.joinable()) return;
  const uint64_t once = 1;
  if (write(wake_, &once, sizeof(once)) < 0) return;  // cannot be: the counter is zero
  thread_.join();
  listener_ = nullptr;
}

size_t DataPort::connections() {
  std::lock_guard lock(mutex_);
  Look(open_.size());
  return open_.size();
}

void DataPort::Run() {
  pollfd waits[] = {{wake_, POLLIN, 0}, {listener_->descriptor(), POLLIN, 0}};
  while (poll(waits, 2, -1) >= 0 || errno == EINTR) {
    if (waits[0].revents != 0) return;
    const absl::StatusOr<int> connection = listener_->Accept();
    if (connection.ok()) {
      Take(*connection);
    } else if (absl::IsResourceExhausted(connection.status())) {
      Log(LogLevel::kWarning, "no connection can be accepted",
          {{"why", std::string(connection.status().message())}, {"help", "raise the limit of open files"}});
      poll(waits, 1, kPauseMs);
    }
  }
}

void DataPort::Take(int connection) {
  {
    std::lock_guard lock(mutex_);
    if (open_.size() >= max_connections_) Look(kLooks);
    if (open_.size() >= max_connections_) {
      close(connection);
      ++refused_;
      Log(LogLevel::kWarning, "a connection was refused",
          {{"open", absl::StrCat(open_.size())}, {"help", "--max-connections allows no more"}});
      return;
    }
    open_.push_back({connection, InodeOf(connection).value_or(0)});
  }
  setsockopt(connection, IPPROTO_TCP, TCP_USER_TIMEOUT, &kSendTimeoutMs, sizeof(kSendTimeoutMs));
  Acceptor::NewConnectionParameters taken;
  taken.listener_fd = listener_->descriptor();
  taken.fd = connection;
  acceptor_->HandleNewConnection(&taken);  // which closes it in the end
}

void DataPort::Look(size_t most) {
  for (size_t looked = 0; looked < most && !open_.empty(); ++looked) {
    next_ = next_ < open_.size() ? next_ : 0;
    if (InodeOf(open_[next_].descriptor) == open_[next_].inode) {
      ++next_;
    } else {
      open_[next_] = open_.back();
      open_.pop_back();
    }
  }
}

absl::StatusOr<size_t> ConnectionsWithinFileLimit(size_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  const rlim_t most = std::min(limit.rlim_max, kMostDescriptors);
  if (limit.rlim_cur < most) {
    limit.rlim_cur = most;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur < kOtherDescriptors + kFewestConnections) {
    return absl::ResourceExhaustedError(absl::StrCat("this process may open ", limit.rlim_cur, " files, and needs ",
                                                     kOtherDescriptors + kFewestConnections,
                                                     ": raise its hard limit (ulimit -Hn, LimitNOFILE)"));
  }
  return std::min<size_t>(wanted, limit.rlim_cur - kOtherDescriptors);
}

}  // namespace kvist
