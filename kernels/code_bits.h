// How many bits the codes of a tile have, and in how many planes they lie (FORMAT.md, "Tiles and pieces"): for codecs that
// leave a choice.
//
// Units   bits of a code; planes without the side.
// Threads pure functions.
// Errors  BitsOf: InvalidArgument names what the codec has.
// Why     A tile has a number of its own, since keys need more bits than values and some heads more than others. A block
//         has the largest of them: its tiles may lack trailing planes, and a layer's plane holds only the tiles that have it.
#ifndef KVIST_KERNELS_CODE_BITS_H_
#define KVIST_KERNELS_CODE_BITS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/codec.h"
#include "kernels/kinds.h"

namespace kvist {

// Code planes of a tile or block whose codes have `bits` bits; 0 for a number that the codec does not have.
constexpr int CodePlanes(Codec codec, int bits) {
  if (codec == Codec::kI8) return bits == 8 ? 1 : 0;
  if (codec == Codec::kX16) return bits == 16 ? 2 : 0;
  if (codec == Codec::kTrellis) return bits == 2 || bits == 3 ? bits - 1 : 0;
  if (codec == Codec::kQ) return bits >= 1 && bits <= 255 ? 1 : 0;  // layers between resets
  if (codec != Codec::kLadder) return 0;
  return bits == 8 ? 4 : bits >= 2 && bits <= 4 ? bits - 1 : 0;
}

// The inverse. REQUIRES: 1 <= planes <= the codec's most.
constexpr int BitsOfPlanes(Codec codec, int planes) {
  if (codec == Codec::kI8) return 8;
  if (codec == Codec::kX16) return 16;
  return planes == 4 ? 8 : planes + 1;
}

// Trellis has no codes of 8 bits: a tile that is worth them is kept as a raised one is, in rotated rows of 8 bits.
constexpr bool IsKeptWide(Codec codec, int bits) { return codec == Codec::kTrellis && bits == 8; }

struct SideBits {
  int key = 0, value = 0;
};

// Bits of a codec whose caller chose none.
constexpr SideBits DefaultBits(Codec codec) {
  if (codec == Codec::kI8 || codec == Codec::kFp8p) return {8, 8};
  if (codec == Codec::kTrellis) return {3, 2};
  if (codec == Codec::kQ) return {1, 1};
  return codec == Codec::kLadder ? SideBits{4, 4} : SideBits{16, 16};
}

// The bits of a block's tiles; the most and the least of those in the codec's own codes. Exact heads count in neither.
struct BlockBits {
  int Of(size_t layer, size_t kv, size_t head) const { return tiles[(layer * 2 + kv) * heads + head]; }

  size_t heads = 0;
  std::vector<uint8_t> tiles;  // [layers][2][heads]
  int most = 0, least = 0;
};
absl::StatusOr<BlockBits> BitsOf(const EncodeOptions& options, const BlockShape& shape);

}  // namespace kvist

#endif  // KVIST_KERNELS_CODE_BITS_H_
