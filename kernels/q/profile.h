// A profile ready for arithmetic: its head groups, and the name that blocks have for it. What EncodeOptions and Decode take.
//
// Units   counts.
// Threads immutable after PrepareEncoding (or after Parse, for readers): any number of threads may use one.
// Errors  Parse: those of ProfileFile::Read. PrepareEncoding: InvalidArgument names a matrix that has no inverse.
// Why     Head groups do not meet: each is coded as a model of its own (head_group.h), so that a profile is a list of them.
#ifndef KVIST_KERNELS_Q_PROFILE_H_
#define KVIST_KERNELS_Q_PROFILE_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/block_format.h"
#include "kernels/q/head_group.h"
#include "kernels/q/profile_file.h"

namespace kvist {

class Profile {
 public:
  static absl::StatusOr<Profile> Parse(absl::Span<const uint8_t> bytes);
  absl::Status PrepareEncoding();
  bool CanEncode() const { return can_encode_; }

  const ProfileFacts& facts() const { return facts_; }               // of all heads
  const std::array<uint8_t, 16>& digest() const { return digest_; }  // first half of the file's SHA-256
  const std::vector<HeadGroup>& groups() const { return groups_; }   // in the order of their heads

 private:
  ProfileFacts facts_;
  std::array<uint8_t, 16> digest_{};
  std::vector<HeadGroup> groups_;
  bool can_encode_ = false;
};

std::string DigestText(const std::array<uint8_t, 16>& digest);  // 32 hex digits

// InvalidArgument names both shapes.
absl::Status CheckProfileIsOf(const Profile& profile, const BlockShape& shape);

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_PROFILE_H_
