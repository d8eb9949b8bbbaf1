// Files of known vectors, which plain Python wrote: how a test reads one, and what it compares.
#ifndef KVIST_TESTS_KERNELS_VECTOR_FILE_H_
#define KVIST_TESTS_KERNELS_VECTOR_FILE_H_

#include <openssl/sha.h>

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace kvist {

inline nlohmann::json ReadVectors(const char* path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

inline std::vector<uint8_t> FromHex(const std::string& hex) {
  const std::string bytes = absl::HexStringToBytes(hex);
  return {bytes.begin(), bytes.end()};
}

inline std::string Sha256(const std::vector<uint16_t>& values) {
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const uint8_t*>(values.data()), 2 * values.size(), digest);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), sizeof(digest)));
}

}  // namespace kvist

#endif  // KVIST_TESTS_KERNELS_VECTOR_FILE_H_
