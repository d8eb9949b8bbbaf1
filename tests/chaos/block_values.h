// What each block holds: values that follow from its key alone, so that whoever reads a block knows every bit of it.
//
// Units   elements are bf16 bits.
// Threads a BlockValues is used by one thread.
// Why not what a Put kept: the reader is then another process, which never saw the writer, and nothing has to be kept.
#ifndef KVIST_TESTS_CHAOS_BLOCK_VALUES_H_
#define KVIST_TESTS_CHAOS_BLOCK_VALUES_H_

#include <cstdint>
#include <vector>

#include "cachestore/key.h"
#include "kernels/codec.h"
#include "services/worker/keys.h"

namespace kvist::testing {

// One well-mixed number of another (splitmix64).
uint64_t Mix(uint64_t x);

class BlockValues {
 public:
  // `salt` makes other values of the same keys: a reader with another salt must find every block wrong.
  BlockValues(const Namespace& ns, Codec codec, uint64_t salt);

  // Writes what a worker puts for block number `block` of its prompt: one contiguous array of the shape's elements.
  void Plain(const Key& key, uint16_t* out) const;
  // What a reader must get: the plain values, or for a codec that is not exact what the codec makes of them.
  // Valid until the next call.
  const std::vector<uint16_t>& Expected(const Key& key, size_t block);

 private:
  const BlockShape shape_;
  const Codec codec_;
  const uint64_t salt_;
  BlockIdentity identity_;
  std::vector<uint16_t> values_;
  std::vector<uint8_t> encoded_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_CHAOS_BLOCK_VALUES_H_
