// One tile as decoders and the encoder see it: pointers into a layer's pieces, and where its values go.
//
// Units   counts of elements; strides count elements.
// Threads plain values; the bytes behind them belong to the caller.
#ifndef KVIST_KERNELS_TILE_H_
#define KVIST_KERNELS_TILE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/block_format.h"
#include "kernels/code_bits.h"
#include "kernels/codec.h"

namespace kvist {

inline constexpr int kMaxCodePlanes = 4;

// Where the parts of a tile are. Null where a codec, mode or precision has none.
struct TileBytes {
  TileMode mode = TileMode::kOwn;
  const uint8_t* token_scales = nullptr;       // u8[rows] of ladder and trellis, u8[tokens] of i8
  const uint8_t* channel_scales = nullptr;     // u8[head_dim], ladder and trellis
  const uint8_t* mean_codes = nullptr;         // i8[head_dim], K of these two
  uint8_t mean_scale = 0;                      // K of these two
  const uint8_t* wide_rows = nullptr;          // [sinks or tokens][1 + head_dim]: u8 log scale, then i8 codes
  const uint8_t* values = nullptr;             // rows of row_bytes as they are, mode kRaw16
  const uint8_t* planes[kMaxCodePlanes] = {};  // ladder: P0 to P3; trellis: P0, P1; i8: codes; x16: low bytes, codes
  int lacks = 0;                               // trailing code planes of the block that an own-mode tile does not have
  const uint8_t* exponents = nullptr;          // x16: u8[15], u16 escapes, u8[escapes]
  uint32_t escapes = 0;                        // x16
};

// What decoding needs to know beside the bytes; the same for all tiles of one call but for `precision`.
struct DecodeParameters {
  Codec codec;
  uint32_t tokens, head_dim;  // head_dim in units of pages (two bytes): of fp8p half of the shape's
  Dtype dtype;
  uint32_t sinks;  // leading tokens that a tile of mode kOwn keeps in wide_rows
  int precision;   // bits of this tile's codes that are read
  Basis basis;
  bool stream;  // rows are aligned to 64 bytes and too many for the caches: write around them
};

struct TileTarget {
  uint16_t* base;
  size_t token_stride;
};

using DecodeTileFunction = void (*)(const DecodeParameters&, const TileBytes&, const TileTarget&);

// Sizes that follow from a shape; FORMAT.md, "Pieces".
struct TileSizes {
  TileSizes(Codec codec, const BlockShape& shape, uint32_t first_position);

  size_t Record(TileMode mode, bool is_key) const;  // bytes in the side piece; of x16's own mode what is likely
  // Of a layer's side piece if no tile is raised, the last `exact` heads apart, which are raw16; of x16 at least.
  size_t Side(const BlockBits& bits, size_t layer, size_t exact) const;
  size_t Codes(const BlockBits& bits, size_t layer, size_t exact, int plane) const;  // likewise, of a piece of codes
  size_t CodePlane(int plane) const;  // bytes of one own-mode tile in plane 1, 2, 3, 4; of q what is likely

  Codec codec;
  size_t tokens, head_dim;
  size_t row_bytes;  // of a row of values as they are
  size_t sinks;      // leading tokens that are in the records of own-mode tiles
  size_t rows;       // tokens with codes
};

// The parts of a side record; codes in planes stay null. REQUIRES: sizes.Record(mode, is_key) bytes at `at`.
TileBytes ReadRecord(const TileSizes& sizes, TileMode mode, bool is_key, const uint8_t* at);

// The tiles of one layer in the order K heads, V heads; planes up to `planes` are there.
// Errors: DataLoss  a mode, its lacking planes or a channel scale out of range, or a piece whose size is not what its modes imply.
absl::StatusOr<std::vector<TileBytes>> LayerTiles(const BlockView& block, uint32_t layer, int planes);

}  // namespace kvist

#endif  // KVIST_KERNELS_TILE_H_
