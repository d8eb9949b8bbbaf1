#include "services/worker/keys.h"

#include <openssl/evp.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvist {
namespace {

constexpr size_t kMaxTextBytes = 4096;
constexpr char kNamespaceTag[] = "kvist.namespace.v1";
constexpr char kKeyTag[] = "kvist.key.v1";
constexpr char kEngineKeyTag[] = "kvist.key.engine.v1";

// The canonical encoding of FORMAT.md: little-endian u32, and texts with their length in front.
class Encoding {
 public:
  explicit Encoding(const char* tag) : bytes_(tag) {}

  Encoding& Raw(absl::Span<const uint8_t> bytes) {
    bytes_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return *this;
  }
  Encoding& U32(uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) bytes_.push_back(static_cast<char>(value >> shift));
    return *this;
  }
  Encoding& Text(const std::string& text) {
    U32(static_cast<uint32_t>(text.size()));
    bytes_ += text;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

Digest Sha256(const std::string& bytes) {
  Digest digest;
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr);
  return digest;
}

void CheckRank(const char* name, uint32_t rank, uint32_t size, std::vector<std::string>* problems) {
  if (rank < size) return;
  problems->push_back(absl::StrCat(name, "_rank ", rank, " is not below ", name, "_size ", size));
}

void CheckText(const char* name, const std::string& text, std::vector<std::string>* problems) {
  if (text.size() <= kMaxTextBytes) return;
  problems->push_back(
      absl::StrCat(name, " has ", text.size(), " bytes; at most ", kMaxTextBytes, " are allowed: use a digest"));
}

}  // namespace

absl::Status ValidateNamespace(const Namespace& ns) {
  std::vector<std::string> problems;
  if (ns.model.empty()) problems.push_back("model is empty");
  if (absl::Status shape = ValidateShape(ns.Shape()); !shape.ok()) problems.push_back(std::string(shape.message()));
  CheckRank("tp", ns.tp_rank, ns.tp_size, &problems);
  CheckRank("pp", ns.pp_rank, ns.pp_size, &problems);
  CheckText("model", ns.model, &problems);
  CheckText("weights_digest", ns.weights_digest, &problems);
  CheckText("rope", ns.rope, &problems);
  CheckText("tenant_salt", ns.tenant_salt, &problems);
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("namespace: ", absl::StrJoin(problems, "; ")));
}

std::string EncodeNamespace(const Namespace& ns) {
  Encoding encoding(kNamespaceTag);
  encoding.Text(ns.model).Text(ns.weights_digest).Text(std::string(DtypeName(ns.dtype)));
  encoding.U32(ns.layers).U32(ns.heads).U32(ns.head_dim).Text(ns.rope);
  encoding.U32(ns.tp_rank).U32(ns.tp_size).U32(ns.pp_rank).U32(ns.pp_size).U32(ns.tokens_per_block);
  encoding.Raw(ns.profile_digest).Text(ns.tenant_salt);
  return encoding.bytes();
}

Digest NamespaceDigest(const Namespace& ns) { return Sha256(EncodeNamespace(ns)); }

Key BlockKey(const Digest& namespace_digest, const Key& parent, absl::Span<const uint32_t> tokens,
             absl::Span<const std::string> extra) {
  Encoding encoding(kKeyTag);
  encoding.Raw(namespace_digest).Raw(parent.bytes).U32(static_cast<uint32_t>(tokens.size()));
  for (const uint32_t token : tokens) encoding.U32(token);
  encoding.U32(static_cast<uint32_t>(extra.size()));
  for (const std::string& part : extra) encoding.Text(part);
  return Key{Sha256(encoding.bytes())};
}

std::vector<Key> ChainKeys(const Digest& namespace_digest, uint32_t tokens_per_block, absl::Span<const uint32_t> tokens,
                           absl::Span<const std::string> extra) {
  std::vector<Key> keys;
  keys.reserve(tokens.size() / tokens_per_block);
  Key parent;
  for (; tokens.size() >= tokens_per_block; tokens.remove_prefix(tokens_per_block)) {
    parent = BlockKey(namespace_digest, parent, tokens.first(tokens_per_block), extra);
    keys.push_back(parent);
  }
  return keys;
}

Key EngineKey(const Digest& namespace_digest, const std::string& engine_hash) {
  return Key{Sha256(Encoding(kEngineKeyTag).Raw(namespace_digest).Text(engine_hash).bytes())};
}

}  // namespace kvist
