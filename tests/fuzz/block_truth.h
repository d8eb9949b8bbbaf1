// The blocks of one prompt as they must be: what the fuzz target of the client stores, and what it compares with.
//
// Threads made at the first call, by one thread; constant from then on.
#ifndef KVIST_TESTS_FUZZ_BLOCK_TRUTH_H_
#define KVIST_TESTS_FUZZ_BLOCK_TRUTH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cachestore/key.h"
#include "kernels/codec.h"
#include "services/worker/keys.h"

namespace kvist::fuzz {

inline constexpr size_t kTrueBlocks = 12;   // of the chain that have values
inline constexpr size_t kChainKeys = 1100;  // more than one request holds
inline constexpr size_t kForeignKinds = 6;  // of blocks that are none of those that were asked for
inline constexpr float kExactDb = 65535.0f / 256;

// One of the forms in which a block may be stored.
struct TrueForm {
  Codec codec = Codec::kRaw16;
  int precision = 0;  // bits per code
  float min_sqnr_db = 0;
  std::string bytes;
  std::vector<uint16_t> plain;  // [2, layers, heads, tokens, head_dim]
};

const Namespace& TrueNamespace();
const std::vector<Key>& TrueChain();  // kChainKeys
// By the 32 bytes of its key; empty if it is none of the chain.
std::optional<size_t> BlockOf(std::string_view key);
// raw16, i8, ladder, ladder at 3 bits, ladder at 2 bits. raw16 holds the values themselves. REQUIRES: block <
// kTrueBlocks.
const std::vector<TrueForm>& TrueForms(size_t block);
// A whole block whose key, namespace, position, profile or shape is another's. REQUIRES: kind < kForeignKinds.
const std::string& ForeignBlock(size_t block, size_t kind);

}  // namespace kvist::fuzz

#endif  // KVIST_TESTS_FUZZ_BLOCK_TRUTH_H_
