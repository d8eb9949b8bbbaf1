// Goal    The device's kernels agree with FORMAT.md's test vectors, as all other readers do.
// Method  Each block of format_vectors.json through plan and emulated grid, at each precision and basis; the values,
//         read back from pages in the order of FORMAT.md, must have the vector's SHA-256.
#include <openssl/sha.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "tests/kernels/cuda/plan_fixture.h"

namespace kvist::cuda {
namespace {

std::string Sha256(const std::vector<uint16_t>& values) {
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const uint8_t*>(values.data()), 2 * values.size(), digest);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), sizeof(digest)));
}

std::vector<uint16_t> ReadBack(const OneBlock& one, const BlockShape& shape) {
  std::vector<uint16_t> values;
  for (size_t kv = 0; kv < 2; ++kv)
    for (size_t layer = 0; layer < shape.layers; ++layer)
      for (size_t head = 0; head < shape.heads; ++head)
        for (size_t t = 0; t < shape.tokens; ++t)
          for (size_t d = 0; d < shape.head_dim; ++d)
            values.push_back(one.pages->addresses()[layer][one.pages->IndexOf(kv, one.table[t / 16], t % 16, head, d,
                                                                              shape.head_dim)]);
  return values;
}

TEST(CudaFormatVectors, EveryBlockDecodesToItsDigestOrIsLeftToTheHost) {
  std::ifstream file("tests/kernels/format_vectors.json");
  ASSERT_TRUE(file.good());
  const nlohmann::json vectors = nlohmann::json::parse(file);
  ASSERT_GE(vectors["blocks"].size(), 15u);
  size_t decoded = 0, left = 0;
  for (const auto& vector : vectors["blocks"]) {
    SCOPED_TRACE(vector["name"].get<std::string>());
    const std::string bytes = absl::HexStringToBytes(vector["hex"].get<std::string>());
    for (const auto& expected : vector["decoded"]) {
      OneBlock one(std::vector<uint8_t>(bytes.begin(), bytes.end()));
      one.request.precision = expected["precision"];
      one.request.basis = expected["rotated"].get<bool>() ? Basis::kKeptRotated : Basis::kOriginal;
      const absl::Status planned = one.MakeStatus();
      if (absl::IsUnimplemented(planned)) {
        EXPECT_EQ(MessageOf(planned).substr(0, 28), "request 0: no kernel decodes");
        ++left;
        continue;
      }
      ++decoded;
      EXPECT_EQ(one.Run(), 0u);
      EXPECT_EQ(Sha256(ReadBack(one, ParseOrDie(one.block).shape())), expected["sha256"].get<std::string>());
    }
  }
  EXPECT_GE(decoded, 70u);
  EXPECT_GE(left, 20u);
}

}  // namespace
}  // namespace kvist::cuda
