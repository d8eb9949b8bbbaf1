// Names of blocks: what a namespace is, and the chain of keys of a prompt. The byte-exact specification with test
// vectors is kernels/FORMAT.md, "Namespaces" and "Keys"; this is its C++ face.
//
// Units   counts; digests are raw bytes.
// Threads pure functions.
// Why SHA-256 over a canonical encoding: shorter or seeded hashes collide across tenants or differ between processes,
// and both end in wrong or never-found blocks that nobody notices.
#ifndef KVIST_SERVICES_WORKER_KEYS_H_
#define KVIST_SERVICES_WORKER_KEYS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "cachestore/key.h"
#include "kernels/block_format.h"

namespace kvist {

using Digest = std::array<uint8_t, 32>;

// Everything that makes KV differ between two workers that see the same tokens. Two namespaces that differ in one field
// share no key.
struct Namespace {
  std::string model;           // name
  std::string weights_digest;  // of the weights file: any text that changes with them
  Dtype dtype = Dtype::kBf16;
  uint32_t layers = 0, heads = 0, head_dim = 0;  // of this rank's slice
  std::string rope;                              // RoPE and YaRN configuration: any canonical text
  uint32_t tp_rank = 0, tp_size = 1, pp_rank = 0, pp_size = 1;
  uint32_t tokens_per_block = 128;
  std::array<uint8_t, 16> profile_digest{};  // of a calibrated codec; zero for none
  std::string tenant_salt;

  BlockShape Shape() const { return {layers, heads, tokens_per_block, head_dim, dtype}; }
};

// Errors: InvalidArgument names everything that is wrong at once: no model, a shape that blocks cannot have, a rank
// that is not below its size, a text of more than 4,096 bytes.
absl::Status ValidateNamespace(const Namespace& ns);

std::string EncodeNamespace(const Namespace& ns);  // the canonical bytes
Digest NamespaceDigest(const Namespace& ns);       // their SHA-256; block headers hold the first 16 bytes

// The key of the block of `tokens` that follows the block `parent` (zero for the first). `extra` is hashed with it.
Key BlockKey(const Digest& namespace_digest, const Key& parent, absl::Span<const uint32_t> tokens,
             absl::Span<const std::string> extra = {});

// The keys of the full blocks of a prompt, chained from token 0; a rest that fills no block has no key. `extra` is
// hashed into every block of the chain (an adapter's name, an image's digest).
std::vector<Key> ChainKeys(const Digest& namespace_digest, uint32_t tokens_per_block, absl::Span<const uint32_t> tokens,
                           absl::Span<const std::string> extra = {});

// The key of a block that an engine has hashed itself (a chained hash of its own, so equal hash = equal prefix there).
Key EngineKey(const Digest& namespace_digest, const std::string& engine_hash);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_KEYS_H_
