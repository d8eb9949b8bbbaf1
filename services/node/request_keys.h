// Keys as requests carry them: 32 bytes each, one after the other.
#ifndef KVIST_SERVICES_NODE_REQUEST_KEYS_H_
#define KVIST_SERVICES_NODE_REQUEST_KEYS_H_

#include <cstring>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cachestore/key.h"

namespace kvist {

// Errors: InvalidArgument  not whole keys, or more than `max_keys` of them.
inline absl::StatusOr<std::vector<Key>> ParseKeys(const std::string& bytes, size_t max_keys) {
  if (bytes.size() % sizeof(Key) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("keys are 32 bytes each, one after the other; ", bytes.size(),
                                                   " bytes are no whole number of them"));
  }
  if (bytes.size() / sizeof(Key) > max_keys) {
    return absl::InvalidArgumentError(absl::StrCat(bytes.size() / sizeof(Key), " keys in one request; at most ",
                                                   max_keys, " are allowed: send several"));
  }
  std::vector<Key> keys(bytes.size() / sizeof(Key));
  if (!keys.empty()) std::memcpy(keys.data(), bytes.data(), bytes.size());
  return keys;
}
static_assert(sizeof(Key) == 32);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_REQUEST_KEYS_H_
