#include "kernels/tile.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/code_bits.h"
#include "kernels/header.h"
#include "kernels/tables.h"
#include "kernels/x16.h"

namespace kvist {
namespace {

absl::Status Broken(uint32_t layer, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("layer ", layer, ": ", what));
}

// A side's mode byte: the mode, and how many planes the tile lacks.
constexpr uint8_t ModeOf(uint8_t byte) { return byte & 15; }
constexpr int LacksOf(uint8_t byte) { return byte >> 4; }

bool ModeExists(Codec codec, uint8_t mode) {
  return mode == uint8_t(TileMode::kOwn) || mode == uint8_t(TileMode::kRaw16) ||
         (mode == uint8_t(TileMode::kRotatedI8) && (IsRotated(codec) || codec == Codec::kQ));
}

// Splits the side piece into records. Every size is checked before its bytes are looked at.
absl::StatusOr<std::vector<TileBytes>> ReadSide(const BlockView& block, const TileSizes& sizes, uint32_t layer,
                                                absl::Span<const uint8_t> side) {
  const size_t heads = block.shape().heads, tiles = 2 * heads;
  const int may_lack = block.mixed_bits() ? block.planes() - 2 : 0;
  if (side.size() < 2 * tiles) return Broken(layer, absl::StrCat("side piece of ", side.size(), " bytes"));
  size_t expected = 2 * tiles;
  for (size_t i = 0; i < tiles; ++i) {
    const uint8_t mode = ModeOf(side[i]);
    const int lacks = LacksOf(side[i]);
    if (!ModeExists(sizes.codec, mode) || lacks > (mode == uint8_t(TileMode::kOwn) ? may_lack : 0)) {
      return Broken(layer, absl::StrCat("tile ", i, " has mode ", int{side[i]}));
    }
    expected += sizes.Record(TileMode(mode), i < heads);
  }
  if (side.size() != expected) {
    return Broken(layer, absl::StrCat("side piece of ", side.size(), " bytes; its tile modes imply ", expected));
  }
  std::vector<TileBytes> result;
  result.reserve(tiles);
  const uint8_t* at = side.data() + 2 * tiles;
  for (size_t i = 0; i < tiles; ++i) {
    const bool is_key = i < heads;
    TileBytes tile = ReadRecord(sizes, TileMode(ModeOf(side[i])), is_key, at);
    tile.lacks = LacksOf(side[i]);
    if (tile.channel_scales != nullptr &&
        *std::max_element(tile.channel_scales, tile.channel_scales + sizes.head_dim) > kMaxChannelScale) {
      return Broken(layer, absl::StrCat("tile ", i, " has a channel scale above ", int{kMaxChannelScale}));
    }
    result.push_back(tile);
    at += sizes.Record(tile.mode, is_key);
  }
  return result;
}

std::vector<TileBytes> RawTiles(const TileSizes& sizes, size_t heads, absl::Span<const uint8_t> values) {
  std::vector<TileBytes> tiles(2 * heads);
  for (size_t i = 0; i < tiles.size(); ++i) {
    tiles[i].mode = TileMode::kRaw16;
    tiles[i].values = values.data() + i * sizes.Record(TileMode::kRaw16, false);
  }
  return tiles;
}

}  // namespace

TileBytes ReadRecord(const TileSizes& sizes, TileMode mode, bool is_key, const uint8_t* at) {
  TileBytes tile;
  tile.mode = mode;
  if (mode == TileMode::kRaw16) {
    tile.values = at;
  } else if (mode == TileMode::kRotatedI8 || sizes.codec == Codec::kQ) {
    tile.wide_rows = at;
  } else {
    tile.token_scales = at;
    if (sizes.codec == Codec::kI8) return tile;
    tile.channel_scales = at + sizes.rows;
    at = tile.channel_scales + sizes.head_dim;
    if (is_key) {
      tile.mean_codes = at;
      tile.mean_scale = at[sizes.head_dim];
      at += sizes.head_dim + 1;
    }
    tile.wide_rows = at;
  }
  return tile;
}

TileSizes::TileSizes(Codec codec, const BlockShape& shape, uint32_t first_position)
    : codec(codec),
      tokens(shape.tokens),
      head_dim(shape.head_dim),
      row_bytes(shape.RowBytes()),
      sinks(SinksOf(codec, first_position)),
      rows(tokens - sinks) {}

size_t TileSizes::Record(TileMode mode, bool is_key) const {
  if (mode == TileMode::kRaw16) return tokens * row_bytes;
  if (mode == TileMode::kRotatedI8) return tokens * (1 + head_dim);
  if (codec == Codec::kI8) return tokens;
  if (codec == Codec::kQ) return sinks * (1 + head_dim);
  if (codec == Codec::kX16) return kX16RecordBytes + tokens * head_dim / kX16LikelyEscape;
  return rows + head_dim + (is_key ? head_dim + 1 : 0) + sinks * (1 + head_dim);
}

size_t TileSizes::Side(const BlockBits& bits, size_t layer, size_t exact) const {
  const size_t heads = bits.heads;
  if (KeepsValues(codec)) return 2 * heads * Record(TileMode::kRaw16, false);
  if (codec == Codec::kX16) return 4 * heads + 2 * heads * kX16RecordBytes;
  size_t bytes = 4 * heads + 2 * exact * Record(TileMode::kRaw16, false);
  for (size_t kv : {0, 1}) {
    for (size_t head = 0; head + exact < heads; ++head) {
      const bool is_wide = IsKeptWide(codec, bits.Of(layer, kv, head));
      bytes += Record(is_wide ? TileMode::kRotatedI8 : TileMode::kOwn, kv == 0);
    }
  }
  return bytes;
}

size_t TileSizes::Codes(const BlockBits& bits, size_t layer, size_t exact, int plane) const {
  size_t tiles = 0;
  for (size_t kv : {0, 1}) {
    for (size_t head = 0; head + exact < bits.heads; ++head) {
      tiles += plane <= CodePlanes(codec, bits.Of(layer, kv, head));
    }
  }
  return tiles * CodePlane(plane);
}

size_t TileSizes::CodePlane(int plane) const {
  if (codec == Codec::kI8) return tokens * head_dim;
  if (codec == Codec::kQ) return tokens * head_dim / 4;  // two bits a value
  if (codec == Codec::kX16) return tokens * head_dim / (plane == 1 ? 1 : 2);
  return rows * head_dim / (plane == 1 ? 4 : plane == 4 ? 2 : 8);
}

absl::StatusOr<std::vector<TileBytes>> LayerTiles(const BlockView& block, uint32_t layer, int planes) {
  const TileSizes sizes(block.codec(), block.shape(), block.identity().first_position);
  const size_t heads = block.shape().heads;
  const absl::Span<const uint8_t> side = block.PlaneBytes(0, layer);
  if (KeepsValues(block.codec())) {
    const size_t expected = 2 * heads * sizes.Record(TileMode::kRaw16, false);
    if (side.size() == expected) return RawTiles(sizes, heads, side);
    return Broken(layer, absl::StrCat("values of ", side.size(), " bytes; the shape implies ", expected));
  }
  absl::StatusOr<std::vector<TileBytes>> tiles =
      block.codec() == Codec::kX16 ? ReadX16Side(sizes, heads, layer, side) : ReadSide(block, sizes, layer, side);
  if (!tiles.ok() || block.codec() == Codec::kQ) return tiles;  // its stream is one for all tiles
  for (int plane = 1; plane < planes; ++plane) {
    const auto has_plane = [&](const TileBytes& tile) {
      return tile.mode == TileMode::kOwn && plane < block.planes() - tile.lacks;
    };
    const size_t own = std::count_if(tiles->begin(), tiles->end(), has_plane);
    const absl::Span<const uint8_t> codes = block.PlaneBytes(plane, layer);
    if (codes.size() != own * sizes.CodePlane(plane)) {
      return Broken(layer, absl::StrCat("plane ", plane, " of ", codes.size(), " bytes; ", own, " tiles imply ",
                                        own * sizes.CodePlane(plane)));
    }
    const uint8_t* at = codes.data();
    for (TileBytes& tile : *tiles) {
      if (!has_plane(tile)) continue;
      tile.planes[plane - 1] = at;
      at += sizes.CodePlane(plane);
    }
  }
  if (block.codec() == Codec::kX16) {
    if (absl::Status status = CheckX16Escapes(sizes, layer, *tiles); !status.ok()) return status;
  }
  return tiles;
}

}  // namespace kvist
