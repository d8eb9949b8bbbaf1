#include "services/transport/secret_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kvist {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

absl::Status Wrong(absl::string_view what, const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("the ", what, " '", path, "' ", why));
}

}  // namespace

absl::StatusOr<std::string> ReadWholeFile(absl::string_view what, const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad() || text.empty()) {
    const std::string reason = errno != 0 ? std::strerror(errno) : "it is empty";
    return Wrong(what, path, absl::StrCat("cannot be read (", reason, "): name a file that this process may read"));
  }
  if (text.size() > kMaxFileBytes) return Wrong(what, path, "is larger than 1 MiB: it is another file");
  return text;
}

absl::Status CheckPrivate(absl::string_view what, const std::string& path) {
  struct stat found = {};
  if (stat(path.c_str(), &found) != 0) {
    return Wrong(what, path, absl::StrCat("cannot be read (", std::strerror(errno), ")"));
  }
  const mode_t others = found.st_uid == 0 && found.st_gid != 0 ? S_IRWXO | S_IWGRP | S_IXGRP : S_IRWXO | S_IRWXG;
  if ((found.st_mode & others) == 0) return absl::OkStatus();
  return Wrong(
      what, path,
      absl::StrFormat("is open to others (mode %04o): whoever reads it can pose as this process, and whoever writes it "
                      "as anybody; chmod 0600 it",
                      found.st_mode & 07777));
}

absl::StatusOr<std::string> ReadPrivateFile(absl::string_view what, const std::string& path) {
  absl::StatusOr<std::string> text = ReadWholeFile(what, path);
  if (!text.ok()) return text.status();
  if (absl::Status status = CheckPrivate(what, path); !status.ok()) return status;
  return text;
}

}  // namespace kvist
