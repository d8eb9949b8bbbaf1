// Goal    The C++ readers agree with FORMAT.md's test vectors, which a plain-Python reader made and checks too.
// Method  Each block of format_vectors.json is parsed, verified and decoded at each precision and basis, by the
//         reference and on every target; the SHA-256 of the values must be the vector's.
#include "gtest/gtest.h"
#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/targets.h"
#include "tests/kernels/vector_file.h"

namespace kvist {
namespace {

TEST(FormatVectors, EveryBlockDecodesToItsDigestOnEveryTarget) {
  const nlohmann::json vectors = ReadVectors("tests/kernels/format_vectors.json");
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
