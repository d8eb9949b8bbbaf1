// Goal    The C++ readers agree with FORMAT.md's test vectors, which a plain-Python reader made and checks too.
// Method  Each block of format_vectors.json is parsed, verified and decoded at each precision and basis, by the
//         reference and on every target; the SHA-256 of the values must be the vector's.
#include <openssl/sha.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/targets.h"

namespace kvist {
namespace {

nlohmann::json Vectors() {
  std::ifstream file("tests/kernels/format_vectors.json");
  EXPECT_TRUE(file.good());
  return nlohmann::json::parse(file);
}

std::vector<uint8_t> FromHex(const std::string& hex) {
  const std::string bytes = absl::HexStringToBytes(hex);
  return {bytes.begin(), bytes.end()};
}

std::string Sha256(const std::vector<uint16_t>& values) {
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const uint8_t*>(values.data()), 2 * values.size(), digest);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), sizeof(digest)));
}

TEST(FormatVectors, EveryBlockDecodesToItsDigestOnEveryTarget) {
  const nlohmann::json vectors = Vectors();
  ASSERT_GE(vectors["blocks"].size(), 15u);
  for (const auto& vector : vectors["blocks"]) {
    SCOPED_TRACE(vector["name"].get<std::string>());
    const std::vector<uint8_t> block = FromHex(vector["hex"]);
    const BlockView view = ParseOrDie(block);
    EXPECT_EQ(CodecName(view.codec()), vector["codec"].get<std::string>());
    EXPECT_EQ(view.Verify(0, view.shape().layers, 0).ToString(), "OK");
    for (const auto& expected : vector["decoded"]) {
      const int precision = expected["precision"];
      const Basis basis = expected["rotated"].get<bool>() ? Basis::kKeptRotated : Basis::kOriginal;
      const std::string digest = expected["sha256"];
      std::vector<uint16_t> values(view.shape().PlainBytes() / 2);
      const Pages pages = ContiguousPages(values.data(), view.shape(), view.shape().tokens);
      ASSERT_TRUE(reference::Decode(view, {0, view.shape().layers}, precision, basis, pages).ok());
      EXPECT_EQ(Sha256(values), digest) << "reference, precision " << precision;
      ForEachTarget([&] { EXPECT_EQ(Sha256(DecodeOrDie(view, precision, basis)), digest) << precision; });
    }
  }
}

}  // namespace
}  // namespace kvist
