// Goal: equal prefixes have equal keys in every process and language, and nothing else has. Method: fixed digests that
// were computed outside this code (Python, hashlib) from the canonical encoding; every field is changed in turn.
#include "services/worker/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/escaping.h"

namespace kvist {
namespace {

using testing::HasSubstr;

Namespace TestNamespace() {
  Namespace ns;
  ns.model = "SmolLM2-135M-Instruct";
  ns.weights_digest = "sha256:1234";
  ns.dtype = Dtype::kBf16;
  ns.layers = 30;
  ns.heads = 3;
  ns.head_dim = 64;
  ns.rope = "theta=100000";
  ns.tp_rank = 0;
  ns.tp_size = 1;
  ns.tokens_per_block = 16;
  ns.tenant_salt = "tenant";
  return ns;
}

std::vector<uint32_t> Tokens(size_t count) {
  std::vector<uint32_t> tokens;
  for (size_t i = 0; i < count; ++i) tokens.push_back(static_cast<uint32_t>(i * 2654435761u));
  return tokens;
}

std::string Hex(const Digest& digest) { return Key{digest}.Hex(); }

TEST(Keys, DigestsAreThoseOfTheWrittenEncoding) {
  const Digest digest = NamespaceDigest(TestNamespace());
  EXPECT_EQ(Hex(digest), "6c6fb3b508dea99cf157d8811b6cdb08cc734a4dbf737c87ed9582cba76f5707");
  const std::vector<Key> keys = ChainKeys(digest, 16, Tokens(40));
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_EQ(keys[0].Hex(), "0554e000725f10cf471182bfd71335e89d9041921d0ffba63e5fd9f9972d605d");
  EXPECT_EQ(keys[1].Hex(), "4a4c7a817f79e0554a148551ffb63479ef007653bc1fb28aeca0cd5c293a556a");
  const std::vector<std::string> extra = {"lora:7", ""};
  EXPECT_EQ(ChainKeys(digest, 16, Tokens(16), extra)[0].Hex(),
            "a8ce286f5e125987c6a3672980d6203b3eb8b0635f948d25f59e633570d2c987");
  EXPECT_EQ(EngineKey(digest, "abc").Hex(), "6cc2e4b33be94dcf4a5fdd493b1478ecf4829821731cac09f9f07763206f1ae7");
}

// The vectors that the Python reader of the format checks too.
nlohmann::json Vectors() {
  std::ifstream file("tests/kernels/format_vectors.json");
  return nlohmann::json::parse(file);
}

template <size_t kSize>
std::array<uint8_t, kSize> FromHex(const std::string& hex) {
  const std::string bytes = absl::HexStringToBytes(hex);
  std::array<uint8_t, kSize> out{};
  EXPECT_EQ(bytes.size(), kSize);
  std::copy_n(bytes.begin(), std::min(bytes.size(), kSize), out.begin());
  return out;
}

TEST(Keys, NamespacesOfTheFormatsVectors) {
  const nlohmann::json vectors = Vectors();
  ASSERT_FALSE(vectors["namespaces"].empty());
  for (const nlohmann::json& vector : vectors["namespaces"]) {
    Namespace ns;
    ns.model = vector["model"];
    ns.weights_digest = vector["weights_digest"];
    ns.dtype = *ParseDtype(vector["dtype"].get<std::string>());
    ns.layers = vector["layers"];
    ns.heads = vector["heads"];
    ns.head_dim = vector["head_dim"];
    ns.rope = vector["rope"];
    ns.tp_rank = vector["tp_rank"];
    ns.tp_size = vector["tp_size"];
    ns.pp_rank = vector["pp_rank"];
    ns.pp_size = vector["pp_size"];
    ns.tokens_per_block = vector["tokens_per_block"];
    ns.profile_digest = FromHex<16>(vector["profile_digest"]);
    ns.tenant_salt = vector["tenant_salt"];
    EXPECT_EQ(Hex(NamespaceDigest(ns)), vector["digest"].get<std::string>());
  }
}

TEST(Keys, KeysOfTheFormatsVectors) {
  const nlohmann::json vectors = Vectors();
  ASSERT_FALSE(vectors["keys"].empty());
  for (const nlohmann::json& vector : vectors["keys"]) {
    const auto tokens = vector["tokens"].get<std::vector<uint32_t>>();
    const auto extra = vector["extra_keys"].get<std::vector<std::string>>();
    EXPECT_EQ(BlockKey(FromHex<32>(vector["namespace"]), Key{FromHex<32>(vector["parent"])}, tokens, extra).Hex(),
              vector["key"].get<std::string>());
  }
  ASSERT_FALSE(vectors["engine_keys"].empty());
  for (const nlohmann::json& vector : vectors["engine_keys"]) {
    EXPECT_EQ(EngineKey(FromHex<32>(vector["namespace"]), vector["engine_hash"].get<std::string>()).Hex(),
              vector["key"].get<std::string>());
  }
}

TEST(Keys, EveryFieldOfTheNamespaceChangesItsDigest) {
  const std::vector<std::function<void(Namespace&)>> changes = {
      [](Namespace& ns) { ns.model += "x"; }, [](Namespace& ns) { ns.weights_digest = "y"; },
      [](Namespace& ns) { ns.dtype = Dtype::kF16; }, [](Namespace& ns) { ++ns.layers; },
      [](Namespace& ns) { ++ns.heads; }, [](Namespace& ns) { ns.head_dim = 128; }, [](Namespace& ns) { ns.rope = ""; },
      [](Namespace& ns) { ns.tp_rank = 1; }, [](Namespace& ns) { ns.tp_size = 2; },
      [](Namespace& ns) { ns.pp_rank = 1; }, [](Namespace& ns) { ns.pp_size = 2; },
      [](Namespace& ns) { ns.tokens_per_block = 32; }, [](Namespace& ns) { ns.profile_digest[15] = 1; },
      [](Namespace& ns) { ns.tenant_salt = ""; },
      // A border between two texts that moves is another namespace.
      [](Namespace& ns) {
        ns.model += "s";
        ns.weights_digest = "ha256:1234";
      }};
  std::set<std::string> digests = {Hex(NamespaceDigest(TestNamespace()))};
  for (size_t i = 0; i < changes.size(); ++i) {
    Namespace ns = TestNamespace();
    changes[i](ns);
    EXPECT_TRUE(digests.insert(Hex(NamespaceDigest(ns))).second) << "change " << i;
  }
}

TEST(Keys, AKeyNamesTheWholePrefixAndOnlyFullBlocksHaveOne) {
  const Digest digest = NamespaceDigest(TestNamespace());
  const std::vector<Key> keys = ChainKeys(digest, 16, Tokens(64));
  EXPECT_EQ(keys.size(), 4u);
  EXPECT_EQ(ChainKeys(digest, 16, Tokens(63)).size(), 3u);
  EXPECT_TRUE(ChainKeys(digest, 16, Tokens(15)).empty());
  std::vector<uint32_t> changed = Tokens(64);
  changed[20] ^= 1;
  const std::vector<Key> other = ChainKeys(digest, 16, changed);
  EXPECT_EQ(keys[0], other[0]);
  for (size_t block = 1; block < 4; ++block) EXPECT_NE(keys[block], other[block]);
}

TEST(Keys, ANamespaceThatBlocksCannotHaveIsRefusedWithEverythingThatIsWrong) {
  EXPECT_TRUE(ValidateNamespace(TestNamespace()).ok());
  Namespace ns = TestNamespace();
  ns.model = "";
  ns.head_dim = 63;
  ns.tp_rank = 4;
  ns.tp_size = 4;
  ns.pp_size = 0;
  ns.rope = std::string(5000, 'x');
  const std::string message(ValidateNamespace(ns).message());
  for (const char* part : {"namespace: model is empty", "63", "tp_rank 4 is not below tp_size 4",
                           "pp_rank 0 is not below pp_size 0", "rope has 5000 bytes; at most 4096 are allowed"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

}  // namespace
}  // namespace kvist
