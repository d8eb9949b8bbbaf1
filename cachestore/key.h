// The name of a block in a store: 32 opaque bytes, and whose they are. Equal key = equal whole prefix in one namespace
// (kernels/FORMAT.md) of one tenant.
#ifndef KVIST_CACHESTORE_KEY_H_
#define KVIST_CACHESTORE_KEY_H_

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "cachestore/tenants.h"

namespace kvist {

struct Key {
  static constexpr size_t kBytes = 32;
  std::array<uint8_t, kBytes> bytes{};
  TenantId tenant = 0;  // never on the wire: a node knows it from who calls

  // The first eight bytes: keys are digests, so any part of one is uniformly distributed.
  uint64_t Prefix64() const { return Word(0); }
  uint64_t Word(size_t offset) const {
    uint64_t word;
    std::memcpy(&word, bytes.data() + offset, sizeof(word));
    return word;
  }
  std::string Hex() const {
    return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  // Eight bytes at a time: the compiler would call memcmp, which is dearer than all else that a lookup does.
  friend bool operator==(const Key& a, const Key& b) {
    uint64_t differ = a.tenant ^ b.tenant;
    for (size_t i = 0; i < a.bytes.size(); i += sizeof(uint64_t)) differ |= a.Word(i) ^ b.Word(i);
    return differ == 0;
  }
  friend auto operator<=>(const Key&, const Key&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Key& key) {
    return H::combine(std::move(state), key.Prefix64(), key.tenant);
  }
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_KEY_H_
