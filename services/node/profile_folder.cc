#include "services/node/profile_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/transport/profile_digest.h"

namespace kvist {
namespace {

namespace fs = std::filesystem;

constexpr char kEnding[] = ".kvp", kUnfinished[] = ".unfinished";

absl::Status Failed(const char* what, const fs::path& path, int error) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path.string(), ": ", std::strerror(error)));
}

// Empty for a file that no node has written.
std::optional<ProfilePlace> PlaceOf(const fs::path& path) {
  if (path.extension() != kEnding) return std::nullopt;
  const std::string stem = path.stem().string(), hex = stem.substr(0, stem.find('@'));
  const bool whole = hex.size() == 2 * kProfileDigestBytes && std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit);
  if (!whole) return std::nullopt;
  return ProfilePlace{stem.size() == hex.size() ? "" : stem.substr(hex.size() + 1), absl::HexStringToBytes(hex)};
}

absl::Status Sync(const fs::path& path, int flags) {
  const int descriptor = open(path.c_str(), flags | O_CLOEXEC);
  if (descriptor < 0) return Failed("open", path, errno);
  const int failed = fsync(descriptor) == 0 ? 0 : errno;
  close(descriptor);
  return failed == 0 ? absl::OkStatus() : Failed("sync", path, failed);
}

}  // namespace

absl::Status ProfileFolder::Read(
    const std::function<absl::Status(const ProfilePlace& place, std::string file)>& take) const {
  if (path_.empty()) return absl::OkStatus();
  std::error_code failed;
  fs::create_directories(path_, failed);
  std::vector<fs::path> paths;
  for (auto entry = fs::directory_iterator(path_, failed); !failed && entry != fs::directory_iterator();
       entry.increment(failed)) {
    paths.push_back(entry->path());
  }
  if (failed) return Failed("use", path_, failed.value());
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths) {
    if (path.extension() == kUnfinished) fs::remove(path, failed);
    const std::optional<ProfilePlace> place = PlaceOf(path);
    if (!place) continue;
    std::ifstream stream(path, std::ios::binary);
    std::string file((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    if (stream.bad() || !stream.is_open()) return Failed("read", path, errno);
    if (absl::IsDataLoss(take(*place, std::move(file)))) fs::remove(path, failed);
  }
  return absl::OkStatus();
}

absl::Status ProfileFolder::Write(const ProfilePlace& place, const std::string& file) const {
  if (path_.empty()) return absl::OkStatus();
  const std::string of_tenant = place.tenant.empty() ? "" : absl::StrCat("@", place.tenant);
  const fs::path path = fs::path(path_) / absl::StrCat(absl::BytesToHexString(place.digest), of_tenant, kEnding);
  const fs::path beside = path.string() + kUnfinished;
  std::ofstream stream(beside, std::ios::binary | std::ios::trunc);
  stream.write(file.data(), static_cast<std::streamsize>(file.size()));
  stream.close();
  if (!stream) return Failed("write", beside, errno);
  if (absl::Status synced = Sync(beside, O_RDONLY); !synced.ok()) return synced;
  if (std::rename(beside.c_str(), path.c_str()) != 0) return Failed("rename", beside, errno);
  return Sync(path_, O_RDONLY | O_DIRECTORY);
}

}  // namespace kvist
