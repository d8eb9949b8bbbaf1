#include "kernels/q/profile.h"

#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace kvist {

absl::StatusOr<Profile> Profile::Parse(absl::Span<const uint8_t> bytes) {
  absl::StatusOr<ProfileFile> file = ProfileFile::Read(bytes);
  if (!file.ok()) return file.status();
  Profile profile;
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(bytes.data(), bytes.size(), digest);
  std::copy_n(digest, profile.digest_.size(), profile.digest_.begin());
  profile.groups_.reserve(file->groups.size());
  for (ProfileGroup& group : file->groups) profile.groups_.emplace_back(file->facts.OfGroup(), std::move(group));
  profile.facts_ = std::move(file->facts);
  return profile;
}

absl::Status Profile::PrepareEncoding() {
  for (size_t i = 0; i < groups_.size(); ++i) {
    const absl::Status prepared = groups_[i].PrepareEncoding();
    if (prepared.ok()) continue;
    return absl::InvalidArgumentError(absl::StrCat("profile: ", facts_.GroupPrefix(i), prepared.message()));
  }
  can_encode_ = true;
  return absl::OkStatus();
}

std::string DigestText(const std::array<uint8_t, 16>& digest) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

absl::Status CheckProfileIsOf(const Profile& profile, const BlockShape& shape) {
  const ProfileFacts& facts = profile.facts();
  if (facts.layers == shape.layers && facts.heads == shape.heads && facts.head_dim == shape.head_dim) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "profile ", DigestText(profile.digest()), " is of another model: of ", facts.layers, " layers, ", facts.heads,
      " heads and head_dim ", facts.head_dim, ", not ", shape.layers, ", ", shape.heads, " and ", shape.head_dim));
}

}  // namespace kvist
