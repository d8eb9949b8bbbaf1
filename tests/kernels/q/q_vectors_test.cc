// Goal    The C++ readers of codec q agree with vectors that a plain-Python reader of FORMAT.md made and checks too.
// Method  Each profile of q_vectors.json is parsed; its block is verified and decoded by the reference and on every target; the
//         SHA-256 of the values must be the vector's.
#include "gtest/gtest.h"
#include "kernels/q/profile.h"
#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/targets.h"
#include "tests/kernels/vector_file.h"

namespace kvist {
namespace {

TEST(QVectors, EveryBlockDecodesToItsDigestOnEveryTarget) {
  const nlohmann::json vectors = ReadVectors("tests/kernels/q/q_vectors.json");
  ASSERT_GE(vectors.size(), 4u);
  for (const auto& vector : vectors) {
    SCOPED_TRACE(vector["name"].get<std::string>());
    const absl::StatusOr<Profile> profile = Profile::Parse(FromHex(vector["profile"]));
    ASSERT_TRUE(profile.ok()) << profile.status().ToString();
    const std::vector<uint8_t> block = FromHex(vector["block"]);
    const BlockView view = ParseOrDie(block);
    const LayerRange all = {0, view.shape().layers};
    EXPECT_EQ(view.Verify(0, all.last, 0).ToString(), "OK");
    std::vector<uint16_t> values(view.shape().Elements());
    const Pages pages = ContiguousPages(values.data(), view.shape(), view.shape().tokens);
    ASSERT_EQ(reference::Decode(view, all, 0, Basis::kOriginal, pages, &*profile).ToString(), "OK");
    EXPECT_EQ(Sha256(values), vector["sha256"].get<std::string>()) << "reference";
    ForEachTarget([&] {
      std::fill(values.begin(), values.end(), 0x5555);
      ASSERT_EQ(Decode(view, all, 0, Basis::kOriginal, pages, &*profile).ToString(), "OK");
      EXPECT_EQ(Sha256(values), vector["sha256"].get<std::string>());
    });
  }
}

}  // namespace
}  // namespace kvist
