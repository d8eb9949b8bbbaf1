#include "services/node/profile_shelf.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/q/profile_file.h"
#include "services/node/log.h"
#include "services/transport/profile_digest.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

constexpr uint64_t kTenants = 4;  // that have room, whatever each of them puts

absl::Status CheckFile(const std::string& digest, const std::string& file) {
  if (const std::string found = ProfileDigest(file); found != digest) {
    return absl::InvalidArgumentError(absl::StrCat("the bytes are not of profile ", absl::BytesToHexString(digest),
                                                   ": their digest is ", absl::BytesToHexString(found)));
  }
  return ProfileFile::Read(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(file.data()), file.size())).status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProfileShelf>> ProfileShelf::Open(const ProfileShelfOptions& options) {
  std::unique_ptr<ProfileShelf> shelf(new ProfileShelf(options));
  const absl::Status read = shelf->folder_.Read(
      [&](const ProfilePlace& place, std::string file) { return shelf->Load(place, std::move(file)); });
  if (!read.ok()) return absl::InvalidArgumentError(absl::StrCat("the folder of profiles: ", read.message()));
  return shelf;
}

absl::Status ProfileShelf::Load(const ProfilePlace& place, std::string file) {
  const std::string name = absl::BytesToHexString(place.digest);
  if (const absl::Status checked = CheckFile(place.digest, file); !checked.ok()) {
    if (absl::IsUnimplemented(checked)) return checked;  // a later version's: not ours to judge
    ++damaged_;
    Log(LogLevel::kWarning, "damaged profile dropped", {{"digest", name}, {"why", std::string(checked.message())}});
    return absl::DataLossError(checked.message());
  }
  const absl::StatusOr<Pass> room = Reserve(place, file.size());
  if (!room.ok()) {
    Log(LogLevel::kWarning, "profile left in its folder",
        {{"digest", name}, {"why", std::string(room.status().message())}});
    return room.status();
  }
  Add(place, std::move(file));
  return absl::OkStatus();
}

bool ProfileShelf::Has(const ProfilePlace& place) const {
  std::lock_guard lock(mutex_);
  return profiles_.count(place) > 0;
}

std::shared_ptr<const std::string> ProfileShelf::Find(const ProfilePlace& place) {
  std::lock_guard lock(mutex_);
  const auto found = profiles_.find(place);
  ++(found == profiles_.end() ? misses_ : hits_);
  return found == profiles_.end() ? nullptr : found->second;
}

uint64_t ProfileShelf::BytesOf(const std::string& tenant) const {
  uint64_t bytes = 0;
  for (const auto& [place, file] : profiles_) bytes += place.tenant == tenant ? file->size() : 0;
  const auto reserved = reserved_.find(tenant);
  return bytes + (reserved == reserved_.end() ? 0 : reserved->second);
}

absl::StatusOr<Pass> ProfileShelf::Reserve(const ProfilePlace& place, uint64_t size_bytes) {
  if (place.digest.size() != kProfileDigestBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a profile's digest has 16 bytes, not ", place.digest.size()));
  }
  if (size_bytes == 0 || size_bytes > kMaxProfileFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a profile has 1 to ", kMaxProfileFileBytes, " bytes, not ", size_bytes));
  }
  std::lock_guard lock(mutex_);
  uint64_t all = 0;
  for (const auto& [_, file] : profiles_) all += file->size();
  for (const auto& [_, bytes] : reserved_) all += bytes;
  const uint64_t of_tenant = place.tenant.empty() ? 0 : BytesOf(place.tenant);
  const bool tenant_full = of_tenant > 0 && of_tenant + size_bytes > capacity_bytes_ / kTenants;
  if (tenant_full || all + size_bytes > capacity_bytes_) {
    ++refused_;
    return absl::ResourceExhaustedError(absl::StrCat(
        "no room for a profile of ", size_bytes, " bytes: ", all, " of ", capacity_bytes_, " are taken",
        place.tenant.empty() ? "" : absl::StrCat(", ", of_tenant, " by this tenant, which has a quarter"),
        "; raise --profile-capacity, or take profiles that nobody uses out of the node's folder and restart it"));
  }
  reserved_[place.tenant] += size_bytes;
  return Pass([this, tenant = place.tenant, size_bytes] {
    std::lock_guard lock(mutex_);
    const auto reserved = reserved_.find(tenant);
    if ((reserved->second -= size_bytes) == 0) reserved_.erase(reserved);
  });
}

absl::StatusOr<bool> ProfileShelf::Keep(const ProfilePlace& place, std::string file) {
  std::lock_guard one_at_a_time(keep_mutex_);
  if (Has(place)) return false;
  absl::Status good = CheckFile(place.digest, file);
  // Whatever is wrong with it, it is what the caller sent.
  if (!good.ok()) good = absl::InvalidArgumentError(good.message());
  if (good.ok()) good = folder_.Write(place, file);
  if (!good.ok()) {
    ++refused_;
    return good;
  }
  Add(place, std::move(file));
  ++kept_;
  Log(LogLevel::kInfo, "profile kept", {{"digest", absl::BytesToHexString(place.digest)}, {"tenant", place.tenant}});
  return true;
}

void ProfileShelf::Add(const ProfilePlace& place, std::string file) {
  auto shared = std::make_shared<const std::string>(std::move(file));
  std::lock_guard lock(mutex_);
  profiles_.emplace(place, std::move(shared));
}

std::vector<ProfileShelf::Entry> ProfileShelf::entries() const {
  std::lock_guard lock(mutex_);
  std::vector<Entry> entries;
  for (const auto& [place, file] : profiles_) entries.push_back({place, file->size()});
  return entries;
}

ProfileShelfFigures ProfileShelf::figures() const {
  ProfileShelfFigures figures;
  for (const Entry& entry : entries()) {
    ++figures.profiles;
    figures.bytes += entry.size_bytes;
  }
  figures.capacity_bytes = capacity_bytes_;
  figures.hits = hits_;
  figures.misses = misses_;
  figures.kept = kept_;
  figures.refused = refused_;
  figures.damaged = damaged_;
  return figures;
}

}  // namespace kvist
