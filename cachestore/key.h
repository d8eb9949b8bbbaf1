// The name of a block in a store: 32 opaque bytes. Equal key = equal whole prefix in one namespace (kernels/FORMAT.md).
#ifndef KVIST_CACHESTORE_KEY_H_
#define KVIST_CACHESTORE_KEY_H_

#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace kvist {

struct Key {
  std::array<uint8_t, 32> bytes{};

  // The first eight bytes: keys are digests, so any part of one is uniformly distributed.
  uint64_t Prefix64() const {
    uint64_t prefix;
    std::memcpy(&prefix, bytes.data(), sizeof(prefix));
    return prefix;
  }
  std::string Hex() const {
    return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  friend bool operator==(const Key&, const Key&) = default;
  friend auto operator<=>(const Key&, const Key&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Key& key) {
    return H::combine(std::move(state), key.Prefix64());
  }
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_KEY_H_
