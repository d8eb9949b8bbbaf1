// x16 without vectors: how a layer's side piece splits into records, and what must agree before a tile is decoded. Internal
// to kernels.
//
// Shapes  own record  u8 exponents[15], u16 escapes, u8 escaped[escapes]: as long as the tile has rare exponents, so that
//                     records are found one after the other. Others as in tile.h.
// Units   bytes.
// Threads pure functions.
// Errors  DataLoss    a mode that does not exist, a record that runs past its piece, or bytes behind the last one; escapes
//                     that are not as many as the codes name.
// Why     The decoders take one escaped exponent for each escape code and never ask how many are left: that both are as
//         many is checked here, for all of them. Counting reads what decoding reads next, and costs a tenth of it.
#ifndef KVIST_KERNELS_X16_H_
#define KVIST_KERNELS_X16_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/tile.h"

namespace kvist {

inline constexpr size_t kX16Exponents = 15;  // that have codes of their own; the code after them is the escape
inline constexpr uint8_t kX16Escape = 15;
inline constexpr size_t kX16RecordBytes = kX16Exponents + 2;  // without the escaped exponents

// One value in so many has an exponent without a code, at most: real KV has one in 800 in its worst tiles, 5,000 in the mean.
inline constexpr size_t kX16LikelyEscape = 512;

// Ours keeps a tile as it is when it would escape more than one value in so many: decoding would be several times slower, for
// less than a fifth of the bytes.
inline constexpr size_t kX16MostEscapes = 16;

// A value is its exponent byte (bf16's; of f16 what stands there) and the byte of all other bits, the sign the lowest.
constexpr uint8_t X16Exponent(uint16_t value) { return uint8_t(value >> 7); }
constexpr uint8_t X16Low(uint16_t value) { return uint8_t(value << 1 | value >> 15); }
constexpr uint16_t X16Value(uint8_t exponent, uint8_t low) {
  return uint16_t((uint32_t{exponent} << 7 | low >> 1) | uint32_t{low} << 15);
}

// Splits a layer's side piece. Pieces that hold codes are not looked at.
absl::StatusOr<std::vector<TileBytes>> ReadX16Side(const TileSizes& sizes, size_t heads, uint32_t layer,
                                                   absl::Span<const uint8_t> side);

// REQUIRES: planes[1] of each tile of mode kOwn is there.
absl::Status CheckX16Escapes(const TileSizes& sizes, uint32_t layer, const std::vector<TileBytes>& tiles);

}  // namespace kvist

#endif  // KVIST_KERNELS_X16_H_
