#include "services/transport/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

struct Left {
  std::mutex mutex;
  std::vector<int> fds;
};
Left& LeftFiles() {
  static Left* const left = new Left;
  return *left;
}

absl::Status Failed(const char* call) {
  return absl::InternalError(absl::StrCat("a file in memory cannot be made: ", call, ": ", std::strerror(errno)));
}

absl::Status Fill(int fd, const std::string& content) {
  // gRPC compares whole seconds, and ignores what has not changed by them.
  static std::atomic<time_t> version = 1;
  if (fchmod(fd, S_IRUSR | S_IWUSR) != 0) return Failed("fchmod");
  if (write(fd, content.data(), content.size()) != static_cast<ssize_t>(content.size())) return Failed("write");
  const timespec time = {version++, 0};
  const timespec times[2] = {time, time};
  return futimens(fd, times) == 0 ? absl::OkStatus() : Failed("futimens");
}

}  // namespace

MemoryFile::MemoryFile() {
  Left& left = LeftFiles();
  std::lock_guard lock(left.mutex);
  if (left.fds.empty()) return;
  fd_ = left.fds.back();
  left.fds.pop_back();
}

MemoryFile::~MemoryFile() {
  if (fd_ < 0) return;
  // No key is kept longer than it is used. Not empty: gRPC's watcher may read it still, and takes an empty key for a
  // mistake of its own, which ends the process.
  Replace("gone\n").IgnoreError();
  Left& left = LeftFiles();
  std::lock_guard lock(left.mutex);
  left.fds.push_back(fd_);
}

absl::Status MemoryFile::Replace(const std::string& content) {
  const int fd = memfd_create("kvist-tls", MFD_CLOEXEC);
  if (fd < 0) return Failed("memfd_create");
  absl::Status filled = Fill(fd, content);
  if (filled.ok() && fd_ < 0) {
    fd_ = fd;
    return filled;
  }
  if (filled.ok() && dup3(fd, fd_, O_CLOEXEC) < 0) filled = Failed("dup3");
  close(fd);
  return filled;
}

std::string MemoryFile::path() const { return absl::StrCat("/proc/self/fd/", fd_); }

}  // namespace kvist
