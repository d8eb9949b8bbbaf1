#include "kernels/codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/block_writer.h"
#include "kernels/encode_tile.h"
#include "kernels/simd/decode.h"
#include "kernels/tile.h"

namespace kvist {
namespace {

float DefaultFloorDb(Codec codec) {
  switch (codec) {
    case Codec::kI8:
      return kDefaultFloorDbI8;
    case Codec::kLadder:
      return kDefaultFloorDbLadder;
    default:
      return 0;  // raw16 is exact
  }
}

uint8_t TileSqnr(float db) {
  if (db >= kExactDb) return kExactTileSqnr;
  return static_cast<uint8_t>(std::clamp(std::floor(db * kTileSqnrUnitsPerDb), 0.0f, 254.0f));
}

size_t Align(size_t offset) { return (offset + kPlaneAlignment - 1) / kPlaneAlignment * kPlaneAlignment; }

// The bytes of one (plane, layer) made of its tiles' parts.
size_t PlaneSize(Codec codec, int plane, absl::Span<const EncodedTile> tiles) {
  size_t size = plane == 0 && codec != Codec::kRaw16 ? 2 * tiles.size() : 0;
  for (const EncodedTile& tile : tiles) size += plane == 0 ? tile.side.size() : tile.codes[plane - 1].size();
  return size;
}

void WritePlane(Codec codec, int plane, absl::Span<const EncodedTile> tiles, uint8_t* to) {
  if (plane == 0 && codec != Codec::kRaw16) {
    for (const EncodedTile& tile : tiles) *to++ = static_cast<uint8_t>(tile.mode);
    for (const EncodedTile& tile : tiles) *to++ = TileSqnr(tile.sqnr_db);
  }
  for (const EncodedTile& tile : tiles) {
    const std::vector<uint8_t>& bytes = plane == 0 ? tile.side : tile.codes[plane - 1];
    to = std::copy(bytes.begin(), bytes.end(), to);
  }
}

absl::Status CheckOptions(const EncodeOptions& options) {
  if (options.codec != Codec::kRaw16 && options.codec != Codec::kI8 && options.codec != Codec::kLadder) {
    return absl::InvalidArgumentError(absl::StrCat("codec ", static_cast<int>(options.codec), " is unknown"));
  }
  if (!(options.floor_db >= 0 && options.floor_db <= 200)) {
    return absl::InvalidArgumentError(absl::StrCat("floor_db is ", options.floor_db, ", allowed are 0 (the codec's own) to 200"));
  }
  return absl::OkStatus();
}

// Sizes if every tile had this mode.
size_t BytesWithMode(const BlockShape& shape, Codec codec, TileMode mode, uint32_t sinks) {
  size_t end = DataOffset(shape, codec);
  for (int plane = 0; plane < PlanesOf(codec); ++plane) {
    size_t size = plane == 0 && codec != Codec::kRaw16 ? 4 * size_t{shape.heads} : 0;
    for (const bool is_key : {true, false}) {
      if (plane == 0) {
        size += shape.heads * SideBytes(codec, codec == Codec::kRaw16 ? TileMode::kRaw : mode, is_key, shape.tokens, shape.head_dim, sinks);
      } else if (mode == TileMode::kCodes) {
        size += shape.heads * CodeBytes(codec, plane, shape.tokens, shape.head_dim);
      }
    }
    // Every layer but the block's last plane is followed by padding.
    for (uint32_t layer = 0; layer < shape.layers; ++layer) end = Align(end) + size;
  }
  return end;
}

}  // namespace

size_t MaxBlockBytes(const BlockShape& shape, Codec codec) {
  size_t most = 0;
  for (const TileMode mode : {TileMode::kCodes, TileMode::kRaised8, TileMode::kRaw}) {
    most = std::max(most, BytesWithMode(shape, codec, mode, kSinkTokens));
  }
  // With modes mixed, each (plane, layer) may need padding that the uniform cases do not.
  return most + size_t{shape.layers} * PlanesOf(codec) * kPlaneAlignment;
}

size_t NominalBlockBytes(const BlockIdentity& identity, const BlockShape& shape, Codec codec) {
  return BytesWithMode(shape, codec, TileMode::kCodes, SinksOf(codec, identity.first_position));
}

absl::StatusOr<size_t> Encode(const BlockIdentity& identity, const BlockShape& shape, const ConstPages& pages,
                              const EncodeOptions& options, absl::Span<uint8_t> out) {
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  const Codec codec = options.codec;
  BlockSummary summary;
  summary.floor_db = options.floor_db > 0 ? options.floor_db : DefaultFloorDb(codec);
  summary.min_sqnr_db = kExactDb;
  const size_t tiles_per_layer = 2 * size_t{shape.heads};
  std::vector<EncodedTile> tiles(shape.layers * tiles_per_layer);
  TileEncoder encoder(codec, shape, identity.first_position, summary.floor_db, simd::DecodeTile);
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    for (size_t i = 0; i < tiles_per_layer; ++i) {
      const size_t kv = i / shape.heads, head = i % shape.heads;
      EncodedTile& tile = tiles[layer * tiles_per_layer + i];
      encoder.Encode({pages.Row(kv, layer, head, 0), pages.token_stride}, kv == 0, &tile);
      summary.min_sqnr_db = std::min(summary.min_sqnr_db, tile.sqnr_db);
      summary.raised_tiles += tile.mode != TileMode::kCodes;
    }
  }
  const absl::Span<const EncodedTile> all(tiles);
  std::vector<PlaneEntry> table;
  size_t end = DataOffset(shape, codec);
  for (int plane = 0; plane < PlanesOf(codec); ++plane) {
    for (uint32_t layer = 0; layer < shape.layers; ++layer) {
      const size_t size = PlaneSize(codec, plane, all.subspan(layer * tiles_per_layer, tiles_per_layer));
      table.push_back({static_cast<uint32_t>(Align(end)), static_cast<uint32_t>(size), 0});
      end = Align(end) + size;
    }
  }
  if (out.size() < end) {
    return absl::ResourceExhaustedError(absl::StrCat("the block has ", end, " bytes, the memory given for it ", out.size()));
  }
  size_t written = kHeaderBytes + table.size() * kPlaneEntryBytes;
  for (size_t i = 0; i < table.size(); ++i) {
    std::memset(out.data() + written, 0, table[i].offset - written);  // padding
    const size_t plane = i / shape.layers, layer = i % shape.layers;
    WritePlane(codec, static_cast<int>(plane), all.subspan(layer * tiles_per_layer, tiles_per_layer), out.data() + table[i].offset);
    written = size_t{table[i].offset} + table[i].size_bytes;
  }
  FinishBlock(identity, shape, codec, summary, absl::MakeSpan(table), out.subspan(0, end));
  return end;
}

absl::Status Decode(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages) {
  const BlockShape& shape = block.shape();
  absl::StatusOr<int> planes = block.PlanesFor(precision == 0 ? block.MaxPrecision() : precision);
  if (!planes.ok()) return planes.status();
  if (layers.first > layers.last || layers.last > shape.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers [", layers.first, ", ", layers.last, ") are not within the block's ", shape.layers));
  }
  if (block.PlanesPresent() < *planes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the bytes at hand hold ", block.PlanesPresent(), " planes; this precision needs ", *planes));
  }
  if (basis == Basis::kKeptRotated && block.codec() != Codec::kLadder) {
    return absl::FailedPreconditionError(absl::StrCat(std::string(CodecName(block.codec())), " does not rotate; ask for the original basis"));
  }
  for (uint32_t layer = layers.first; layer < layers.last; ++layer) {
    absl::StatusOr<std::vector<TileView>> tiles = OpenLayer(block, layer, *planes);
    if (!tiles.ok()) return tiles.status();
    for (size_t i = 0; i < tiles->size(); ++i) {
      const TileView& tile = (*tiles)[i];
      if (basis == Basis::kKeptRotated && tile.mode == TileMode::kRaw) {
        return absl::FailedPreconditionError("a tile had to be kept raw16, which is not rotated; ask for the original basis");
      }
      simd::DecodeTile(tile, *planes, basis, {pages.Row(i / shape.heads, layer, i % shape.heads, 0), pages.token_stride});
    }
  }
  return absl::OkStatus();
}

}  // namespace kvist
