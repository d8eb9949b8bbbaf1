// Where the bytes of one tile lie inside a block, and the constants of decode arithmetic: FORMAT.md, "Tiles", "Arithmetic".
//
// A tile is (layer, K or V, head) x tokens, the unit of a codec. Tiles of a layer are in order K heads, then V heads.
// Threads pure.
#ifndef KVIST_KERNELS_TILE_H_
#define KVIST_KERNELS_TILE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/block_format.h"
#include "kernels/codec.h"

namespace kvist {

// How one tile is kept. Blocks of i8 use kCodes and kRaw; raw16 blocks have no modes.
enum class TileMode : uint8_t { kCodes = 0, kRaised8 = 1, kRaw = 2 };

inline constexpr size_t kStrip = 256;  // elements that are packed together in a plane of the ladder
inline constexpr uint8_t kExactTileSqnr = 255;
inline constexpr float kTileSqnrUnitsPerDb = 4;

struct TileView {
  Codec codec;
  TileMode mode;
  bool is_key = false;
  uint32_t tokens = 0, head_dim = 0, sinks = 0;
  Dtype dtype;
  const uint8_t* side = nullptr;                       // the tile's record in plane 0
  std::array<const uint8_t*, 3> codes{};               // its part of planes 1, 2, 3; null where absent
};

// The parts of a tile's side record.
struct LadderSide {
  const uint8_t *token_scales, *channel_scales, *mean_codes, *mean_scale, *sinks;  // mean_*: null for V
};
LadderSide SplitLadderSide(const TileView& tile);

size_t SideBytes(Codec codec, TileMode mode, bool is_key, uint32_t tokens, uint32_t head_dim, uint32_t sinks);
size_t CodeBytes(Codec codec, int plane, uint32_t tokens, uint32_t head_dim);  // of one kCodes tile in a plane from 1 on
inline uint32_t SinksOf(Codec codec, uint32_t first_position) {
  return codec == Codec::kLadder && first_position == 0 ? kSinkTokens : 0;
}

// The tiles of one layer, sizes checked against the plane table: no later access can leave the block.
// Errors: DataLoss  a mode that does not exist, a scale out of range, or a plane whose size is not what its tiles imply.
absl::StatusOr<std::vector<TileView>> OpenLayer(const BlockView& block, uint32_t layer, int planes);

// ---- Arithmetic

// Log scales: 2^((u - 128) / 8), in float.
float LogScale(uint8_t u);
// Q15 multiplier of a channel scale u <= 128: round(32767 * 2^((u - 128) / 8)).
int16_t ChannelMultiplier(uint8_t u);
inline constexpr uint8_t kMaxChannelScale = 128;

// Level codebooks of the ladder at 2, 3 and 4 bits, ascending; a coarser code is the leading bits of a finer one.
absl::Span<const int8_t> Levels(int bits);
inline constexpr float kLevelUnit = 0x1.63e834p-6f;  // of a level in standard deviations, 0.02172284: the outermost level is 127
// Midpoints between the 16 Lloyd-Max cells for N(0,1), the positive half: cell 8 is [0, kThresholds[0]).
inline constexpr std::array<float, 7> kThresholds = {0.258221665f, 0.522403709f, 0.799549788f, 1.09928583f,
                                                     1.43713879f,  1.84353181f,  2.4008034f};

// The rotation: signs, then orthonormal Walsh-Hadamard blocks. 80 = 64 + 16 and 96 = 64 + 32, else one block.
struct RotationBlocks {
  std::array<uint32_t, 2> size{};  // the second is 0 if there is one block
};
RotationBlocks BlocksOf(uint32_t head_dim);
// +1/sqrt(b) or -1/sqrt(b) by channel: what a component is multiplied by after the integer transform.
absl::Span<const float> RotationNorms(uint32_t head_dim);
// Left shift of levels before the multiplication: as large as 16 bits allow (FORMAT.md proves the bound).
int LevelShift(uint32_t head_dim);

// Everything about a kCodes ladder tile that does not depend on the token; computed once a tile.
struct LadderChannels {
  alignas(64) std::array<int16_t, 256> multiplier;
  alignas(64) std::array<float, 256> norm;  // all 1 in the kept basis
  alignas(64) std::array<float, 256> mean;  // in the output's basis; 0 for V
};
void PrepareChannels(const TileView& tile, Basis basis, LadderChannels* channels);
// The factor of a token: of its levels, or of the 8-bit codes of a sink or raised tile.
float TokenFactor(const TileView& tile, uint8_t token_scale);

uint16_t RoundToBf16(float value);  // to nearest, ties to even
uint16_t RoundToF16(float value);
inline uint16_t RoundTo(Dtype dtype, float value) { return dtype == Dtype::kBf16 ? RoundToBf16(value) : RoundToF16(value); }
float Widen(Dtype dtype, uint16_t bits);

// Where a decoder writes one tile: token t's head_dim values start at base + t * token_stride.
struct TileRows {
  uint16_t* base;
  size_t token_stride;
  uint16_t* Row(size_t token) const { return base + token * token_stride; }
};

// Decodes one tile; `bits` (2, 3 or 4) matters to kCodes tiles of the ladder. REQUIRES: not kKeptRotated for a kRaw tile.
using DecodeTileFunction = void (*)(const TileView& tile, int bits, Basis basis, const TileRows& out);

}  // namespace kvist

#endif  // KVIST_KERNELS_TILE_H_
