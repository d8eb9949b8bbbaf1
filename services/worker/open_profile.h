// A profile of codec q as clients use it: the file that nodes keep, and what kernels make of it.
//
// Units   bytes.
// Threads immutable, but for the encoder's part, which the first ForEncoding makes: any number of threads may call anything.
// Errors  Open: those of ProfileFile::Read, each says what is wrong with which number.
//         ForEncoding: InvalidArgument names a matrix that has no inverse; each call says the same.
// Why     A reader is ready after a parse of milliseconds. The inverses of the encoder take as much memory again and up to
//         seconds, so that only who encodes pays for them, once, whoever comes first.
#ifndef KVIST_SERVICES_WORKER_OPEN_PROFILE_H_
#define KVIST_SERVICES_WORKER_OPEN_PROFILE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/q/profile.h"

namespace kvist {

class OpenProfile {
 public:
  static absl::StatusOr<std::shared_ptr<const OpenProfile>> Open(std::string file);

  const std::string& file() const { return file_; }  // its bytes; their digest names the profile
  const std::array<uint8_t, 16>& digest() const { return profile_.digest(); }
  const ProfileFacts& facts() const { return profile_.facts(); }

  const Profile& ForDecoding() const { return profile_; }
  absl::StatusOr<const Profile*> ForEncoding() const;

  OpenProfile(std::string file, Profile profile) : file_(std::move(file)), profile_(std::move(profile)) {}

 private:
  const std::string file_;
  mutable std::once_flag once_;
  mutable Profile profile_;        // what decoding reads of it never changes
  mutable absl::Status prepared_;  // set under once_
};

// Facts, digest and the file's notes for people:
// {"digest", "file_bytes", "layers", "heads", "head_dim", "groups" (of heads), "rope", "rope_factor", "step", "layers_before",
// "key_from_value", "layers_between_resets" (0 = never), "notes"}. Notes that are no JSON are given as text.
std::string ProfileJson(const OpenProfile& profile);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_OPEN_PROFILE_H_
