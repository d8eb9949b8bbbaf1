// Keys as requests carry them: 32 bytes each, one after the other.
#ifndef KVIST_SERVICES_NODE_REQUEST_KEYS_H_
#define KVIST_SERVICES_NODE_REQUEST_KEYS_H_

#include <cstring>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cachestore/key.h"

namespace kvist {

// The key in these 32 bytes, as one of `tenant`. REQUIRES: `bytes` has them.
inline Key KeyFrom(absl::string_view bytes, TenantId tenant) {
  Key key;
  std::memcpy(key.bytes.data(), bytes.data(), Key::kBytes);
  key.tenant = tenant;
  return key;
}

// Errors: InvalidArgument  not whole keys, or more than `max_keys` of them.
inline absl::StatusOr<std::vector<Key>> ParseKeys(const std::string& bytes, size_t max_keys, TenantId tenant) {
  if (bytes.size() % Key::kBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("keys are 32 bytes each, one after the other; ", bytes.size(),
                                                   " bytes are no whole number of them"));
  }
  if (bytes.size() / Key::kBytes > max_keys) {
    return absl::InvalidArgumentError(absl::StrCat(bytes.size() / Key::kBytes, " keys in one request; at most ",
                                                   max_keys, " are allowed: send several"));
  }
  std::vector<Key> keys(bytes.size() / Key::kBytes);
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i] = KeyFrom(absl::string_view(bytes).substr(i * Key::kBytes, Key::kBytes), tenant);
  }
  return keys;
}

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_REQUEST_KEYS_H_
