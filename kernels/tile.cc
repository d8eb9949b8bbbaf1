#include "kernels/tile.h"

#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/bytes.h"

namespace kvist {
namespace {

// 2^(i/8) rounded to float, i = 0..7.
constexpr std::array<float, 8> kOctaveSteps = {0x1.000000p+0f, 0x1.172b84p+0f, 0x1.306fe0p+0f, 0x1.4bfdaep+0f,
                                               0x1.6a09e6p+0f, 0x1.8ace54p+0f, 0x1.ae89fap+0f, 0x1.d5818ep+0f};

std::array<float, 256> MakeLogScales() {
  std::array<float, 256> scales;
  for (int u = 0; u < 256; ++u) scales[u] = std::ldexp(kOctaveSteps[u & 7], (u >> 3) - 16);
  return scales;
}

constexpr std::array<int8_t, 16> kLevels4 = {-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127};
constexpr std::array<int8_t, 8> kLevels3 = {-107, -67, -38, -12, 12, 38, 67, 107};
constexpr std::array<int8_t, 4> kLevels2 = {-84, -26, 26, 84};

// SHA-256 of "kvist ladder signs": bit d (of byte d / 8, from the least) set = channel d is negated.
constexpr std::array<uint8_t, 32> kSigns = {0x43, 0x2a, 0xce, 0xa8, 0x05, 0xea, 0xa5, 0xd8, 0x38, 0x13, 0xb6,
                                            0x9b, 0x1f, 0x36, 0xa8, 0x88, 0x5c, 0x07, 0x8a, 0xa4, 0x4a, 0xcc,
                                            0x78, 0xe3, 0x44, 0x6a, 0x35, 0x10, 0xb7, 0x0d, 0xa3, 0xc7};

float InverseRoot(uint32_t block) {
  switch (block) {
    case 16:
      return 0.25f;
    case 32:
      return 0x1.6a09e6p-3f;
    case 64:
      return 0.125f;
    case 128:
      return 0x1.6a09e6p-4f;
    default:
      return 0.0625f;  // 256
  }
}

std::vector<float> MakeNorms(uint32_t head_dim) {
  std::vector<float> norms;
  for (uint32_t block : BlocksOf(head_dim).size) {
    for (uint32_t i = 0; i < block; ++i) {
      const size_t d = norms.size();
      norms.push_back((kSigns[d / 8] >> (d % 8) & 1) ? -InverseRoot(block) : InverseRoot(block));
    }
  }
  return norms;
}

void IntegerTransform(int32_t* values, uint32_t size) {
  for (uint32_t h = 1; h < size; h *= 2) {
    for (uint32_t i = 0; i < size; i += 2 * h) {
      for (uint32_t j = i; j < i + h; ++j) {
        const int32_t a = values[j], b = values[j + h];
        values[j] = a + b;
        values[j + h] = a - b;
      }
    }
  }
}

absl::Status BadLayer(uint32_t layer, const std::string& what) {
  return absl::DataLossError(absl::StrCat("layer ", layer, " of the block is inconsistent: ", what));
}

// Modes that this codec may have, and how many bytes plane 0 of the layer needs with them.
absl::Status ReadModes(const BlockView& block, uint32_t layer, absl::Span<const uint8_t> side, std::vector<TileView>* tiles,
                       size_t* side_bytes) {
  *side_bytes = 2 * tiles->size();
  if (side.size() < *side_bytes) return BadLayer(layer, "its modes are cut off");
  for (size_t i = 0; i < tiles->size(); ++i) {
    TileView& tile = (*tiles)[i];
    if (side[i] > 2 || (side[i] == 1 && block.codec() != Codec::kLadder)) {
      return BadLayer(layer, absl::StrCat("tile mode ", static_cast<int>(side[i]), " does not exist"));
    }
    tile.mode = static_cast<TileMode>(side[i]);
    tile.side = side.data() + *side_bytes;
    *side_bytes += SideBytes(tile.codec, tile.mode, tile.is_key, tile.tokens, tile.head_dim, tile.sinks);
  }
  return absl::OkStatus();
}

absl::Status CheckChannelScales(uint32_t layer, const std::vector<TileView>& tiles) {
  for (const TileView& tile : tiles) {
    if (tile.codec != Codec::kLadder || tile.mode != TileMode::kCodes) continue;
    const uint8_t* scales = SplitLadderSide(tile).channel_scales;
    for (uint32_t d = 0; d < tile.head_dim; ++d) {
      if (scales[d] > kMaxChannelScale) return BadLayer(layer, "a channel scale is above 128");
    }
  }
  return absl::OkStatus();
}

}  // namespace

size_t SideBytes(Codec codec, TileMode mode, bool is_key, uint32_t tokens, uint32_t head_dim, uint32_t sinks) {
  if (mode == TileMode::kRaw) return 2 * size_t{tokens} * head_dim;
  if (mode == TileMode::kRaised8) return size_t{tokens} * (1 + head_dim);
  if (codec == Codec::kI8) return tokens;
  return tokens + head_dim + (is_key ? head_dim + 1 : 0) + size_t{sinks} * (1 + head_dim);
}

size_t CodeBytes(Codec codec, int plane, uint32_t tokens, uint32_t head_dim) {
  const size_t elements = size_t{tokens} * head_dim;
  if (codec == Codec::kI8) return elements;
  return plane == 1 ? elements / 4 : elements / 8;
}

LadderSide SplitLadderSide(const TileView& tile) {
  LadderSide side{};
  side.token_scales = tile.side;
  side.channel_scales = side.token_scales + tile.tokens;
  const uint8_t* next = side.channel_scales + tile.head_dim;
  if (tile.is_key) {
    side.mean_codes = next;
    side.mean_scale = next + tile.head_dim;
    next += tile.head_dim + 1;
  }
  side.sinks = next;
  return side;
}

absl::StatusOr<std::vector<TileView>> OpenLayer(const BlockView& block, uint32_t layer, int planes) {
  const BlockShape& shape = block.shape();
  std::vector<TileView> tiles(2 * shape.heads);
  for (size_t i = 0; i < tiles.size(); ++i) {
    TileView& tile = tiles[i];
    tile.codec = block.codec();
    tile.mode = TileMode::kCodes;
    tile.is_key = i < shape.heads;
    tile.tokens = shape.tokens;
    tile.head_dim = shape.head_dim;
    tile.sinks = SinksOf(block.codec(), block.identity().first_position);
    tile.dtype = shape.dtype;
  }
  const absl::Span<const uint8_t> side = block.PlaneBytes(0, layer);
  size_t side_bytes = 0;
  if (block.codec() == Codec::kRaw16) {
    for (TileView& tile : tiles) {
      tile.mode = TileMode::kRaw;
      tile.side = side.data() + side_bytes;
      side_bytes += 2 * shape.TileElements();
    }
  } else if (absl::Status status = ReadModes(block, layer, side, &tiles, &side_bytes); !status.ok()) {
    return status;
  }
  if (side.size() != side_bytes) return BadLayer(layer, absl::StrCat("plane 0 has ", side.size(), " bytes, not ", side_bytes));
  if (absl::Status status = CheckChannelScales(layer, tiles); !status.ok()) return status;
  for (int plane = 1; plane < planes; ++plane) {
    const absl::Span<const uint8_t> codes = block.PlaneBytes(plane, layer);
    size_t used = 0;
    for (TileView& tile : tiles) {
      if (tile.mode != TileMode::kCodes) continue;
      tile.codes[plane - 1] = codes.data() + used;
      used += CodeBytes(tile.codec, plane, tile.tokens, tile.head_dim);
    }
    if (codes.size() != used) return BadLayer(layer, absl::StrCat("plane ", plane, " has ", codes.size(), " bytes, not ", used));
  }
  return tiles;
}

float LogScale(uint8_t u) {
  static const std::array<float, 256> scales = MakeLogScales();
  return scales[u];
}

int16_t ChannelMultiplier(uint8_t u) { return static_cast<int16_t>(std::floor(32767.0 * LogScale(u) + 0.5)); }

absl::Span<const int8_t> Levels(int bits) {
  if (bits == 2) return kLevels2;
  if (bits == 3) return kLevels3;
  return kLevels4;
}

RotationBlocks BlocksOf(uint32_t head_dim) {
  if (head_dim == 80) return {{64, 16}};
  if (head_dim == 96) return {{64, 32}};
  return {{head_dim, 0}};
}

absl::Span<const float> RotationNorms(uint32_t head_dim) {
  static const std::vector<float> norms64 = MakeNorms(64), norms80 = MakeNorms(80), norms96 = MakeNorms(96), norms128 = MakeNorms(128),
                                  norms256 = MakeNorms(256);
  switch (head_dim) {
    case 64:
      return norms64;
    case 80:
      return norms80;
    case 96:
      return norms96;
    case 128:
      return norms128;
    default:
      return norms256;
  }
}

int LevelShift(uint32_t head_dim) { return head_dim >= 256 ? 0 : head_dim >= 128 ? 1 : 2; }

void PrepareChannels(const TileView& tile, Basis basis, LadderChannels* channels) {
  const LadderSide side = SplitLadderSide(tile);
  const absl::Span<const float> norms = RotationNorms(tile.head_dim);
  std::array<int32_t, 256> mean{};
  for (uint32_t d = 0; d < tile.head_dim; ++d) {
    channels->multiplier[d] = ChannelMultiplier(side.channel_scales[d]);
    channels->norm[d] = basis == Basis::kOriginal ? norms[d] : 1.0f;
    if (tile.is_key) mean[d] = static_cast<int8_t>(side.mean_codes[d]) * int32_t{channels->multiplier[d]};
  }
  if (basis == Basis::kOriginal) {
    uint32_t begin = 0;
    for (uint32_t block : BlocksOf(tile.head_dim).size) {
      IntegerTransform(mean.data() + begin, block);
      begin += block;
    }
  }
  const float mean_scale = tile.is_key ? LogScale(*side.mean_scale) * 0x1p-15f : 0.0f;
  for (uint32_t d = 0; d < tile.head_dim; ++d) {
    channels->mean[d] = tile.is_key ? (static_cast<float>(mean[d]) * channels->norm[d]) * mean_scale : 0.0f;
  }
}

float TokenFactor(const TileView& tile, uint8_t token_scale) {
  const float unit = std::ldexp(kLevelUnit, -LevelShift(tile.head_dim));
  return LogScale(token_scale) * unit;
}

uint16_t RoundToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN stays one
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t RoundToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14: a subnormal counts units of 2^-24. Adding 0.5 leaves exactly those units in the low bits, rounded.
    const float units = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(units) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

float Widen(Dtype dtype, uint16_t bits) {
  if (dtype == Dtype::kBf16) return std::bit_cast<float>(uint32_t{bits} << 16);
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

}  // namespace kvist
