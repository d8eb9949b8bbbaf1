#include "services/cluster/node_claim.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/cluster/static_file.h"

namespace kvist {
namespace {

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "this host";
}

absl::Status Taken(const std::string& cluster_file, const NodeId& id, const std::string& lock) {
  const std::string holder = ReadLine(lock), address = ReadLine(AddressFile(cluster_file, id));
  return absl::AlreadyExistsError(absl::StrCat(
      "node \"", id.value, "\" of ", cluster_file, " runs already: ", holder.empty() ? "a process" : holder, " holds ",
      lock, address.empty() ? "" : absl::StrCat(" and serves at ", address.substr(0, address.find(' '))),
      "; stop it, or give this one another --node"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<NodeClaim>> NodeClaim::Take(const std::string& cluster_file, const NodeId& id) {
  const std::string lock = absl::StrCat(cluster_file, ".d/", id.value, ".lock");
  const auto fail = [&lock](const std::string& why) {
    return absl::UnavailableError(absl::StrCat("cannot lock ", lock, ": ", why));
  };
  std::error_code failed;
  std::filesystem::create_directories(cluster_file + ".d", failed);
  if (failed) return fail(failed.message());
  const int file = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return fail(std::strerror(errno));
  auto claim = std::unique_ptr<NodeClaim>(new NodeClaim(file));
  if (flock(file, LOCK_EX | LOCK_NB) != 0) {
    return errno == EWOULDBLOCK ? Taken(cluster_file, id, lock) : fail(std::strerror(errno));
  }
  const std::string holder = absl::StrCat("process ", getpid(), " on ", HostName(), "\n");
  if (ftruncate(file, 0) != 0 || write(file, holder.data(), holder.size()) != static_cast<ssize_t>(holder.size())) {
    return fail(std::strerror(errno));
  }
  return claim;
}

NodeClaim::~NodeClaim() { close(file_); }

}  // namespace kvist
