// What the targets of a block's bytes share: the choices in front of a block, and checksums made right again, so that most
// mutants reach the checks behind them.
#ifndef KVIST_TESTS_FUZZ_BLOCK_INPUT_H_
#define KVIST_TESTS_FUZZ_BLOCK_INPUT_H_

#include "kernels/codec.h"
#include "kernels/header.h"
#include "tests/fuzz/fuzz.h"

// After "kernels/*.h": macros of the hash.
#include <xxhash.h>

namespace kvist::fuzz {

inline constexpr size_t kChoiceBytes = 4;
inline constexpr size_t kMaxPlainBytes = size_t{1} << 20;  // a mutant may claim a shape whose planes cannot be there

struct BlockChoice {
  uint32_t first_layer, last_layer;
  int precision;
  Basis basis;
  uint8_t cut;
};

inline BlockChoice TakeChoice(Input* input) {
  constexpr int kPrecisions[] = {0, 2, 3, 4, 8, 16, 1, -1};
  const uint8_t layers = input->Byte(), precision = input->Byte(), basis = input->Byte(), cut = input->Byte();
  return {static_cast<uint32_t>(layers & 3), static_cast<uint32_t>(layers >> 2), kPrecisions[precision % 8],
          static_cast<Basis>(basis & 1), cut};
}

// Makes all checksums right that a mutant's own table can point at.
inline void Reseal(absl::Span<uint8_t> block) {
  if (block.size() < kHeaderBytes) return;
  const size_t pieces = LoadLe(&block[16], 4) * block[13];
  for (size_t i = 0; i < pieces && kHeaderBytes + (i + 1) * kPlaneEntryBytes <= block.size(); ++i) {
    uint8_t* entry = &block[kHeaderBytes + i * kPlaneEntryBytes];
    const uint64_t offset = LoadLe(entry, 4), size_bytes = LoadLe(entry + 4, 4);
    if (offset + size_bytes <= block.size()) StoreLe(XXH3_64bits(&block[0] + offset, size_bytes), 8, entry + 8);
  }
  const size_t prefix_bytes = kHeaderBytes + pieces * kPlaneEntryBytes;
  if (prefix_bytes <= block.size()) {
    StoreLe(XXH3_64bits(block.data() + kHeaderBytes, prefix_bytes - kHeaderBytes), 8, &block[112]);
  }
  StoreLe(XXH3_64bits(block.data(), 120), 8, &block[120]);
}

// A mutator for inputs of choices and a block.
inline size_t MutateBlock(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 4 != 0 && size > kChoiceBytes) Reseal({data + kChoiceBytes, size - kChoiceBytes});
  return size;
}

}  // namespace kvist::fuzz

#endif  // KVIST_TESTS_FUZZ_BLOCK_INPUT_H_
