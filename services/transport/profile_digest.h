// What names a profile everywhere (kernels/FORMAT.md, "Profile files"): whoever is sent one compares before it reads on.
#ifndef KVIST_SERVICES_TRANSPORT_PROFILE_DIGEST_H_
#define KVIST_SERVICES_TRANSPORT_PROFILE_DIGEST_H_

#include <openssl/sha.h>

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace kvist {

inline constexpr size_t kProfileDigestBytes = 16;

// The first 16 bytes of the file's SHA-256.
inline std::string ProfileDigest(absl::string_view file) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(file.data()), file.size(), digest);
  return std::string(reinterpret_cast<const char*>(digest), kProfileDigestBytes);
}

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_PROFILE_DIGEST_H_
