#include "kernels/x16.h"

#include "absl/strings/str_cat.h"
#include "kernels/header.h"
#include "kernels/simd/x16.h"

namespace kvist {
namespace {

absl::Status Broken(uint32_t layer, size_t tile, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("layer ", layer, ": tile ", tile, " ", what));
}

}  // namespace

absl::StatusOr<std::vector<TileBytes>> ReadX16Side(const TileSizes& sizes, size_t heads, uint32_t layer,
                                                   absl::Span<const uint8_t> side) {
  const size_t tiles = 2 * heads;
  if (side.size() < 2 * tiles) {
    return absl::DataLossError(absl::StrCat("layer ", layer, ": side piece of ", side.size(), " bytes"));
  }
  std::vector<TileBytes> result(tiles);
  absl::Span<const uint8_t> left = side.subspan(2 * tiles);
  for (size_t i = 0; i < tiles; ++i) {
    const bool own = side[i] == uint8_t(TileMode::kOwn);
    if (!own && side[i] != uint8_t(TileMode::kRaw16)) return Broken(layer, i, absl::StrCat("has mode ", int{side[i]}));
    size_t record = own ? kX16RecordBytes : sizes.Record(TileMode::kRaw16, false);
    TileBytes& tile = result[i];
    tile.mode = TileMode(side[i]);
    if (left.size() >= record && own) {
      tile.escapes = uint32_t(LoadLe(left.data() + kX16Exponents, 2));
      record += tile.escapes;
    }
    if (left.size() < record) {
      return Broken(layer, i, absl::StrCat("needs ", record, " bytes of its side piece; ", left.size(), " are left"));
    }
    (own ? tile.exponents : tile.values) = left.data();
    left.remove_prefix(record);
  }
  if (!left.empty()) {
    return absl::DataLossError(absl::StrCat("layer ", layer, ": ", left.size(), " bytes behind the last record"));
  }
  return result;
}

absl::Status CheckX16Escapes(const TileSizes& sizes, uint32_t layer, const std::vector<TileBytes>& tiles) {
  for (size_t i = 0; i < tiles.size(); ++i) {
    if (tiles[i].mode != TileMode::kOwn) continue;
    const size_t named = simd::CountEscapes(tiles[i].planes[1], sizes.CodePlane(2));
    if (named == tiles[i].escapes) continue;
    return Broken(layer, i, absl::StrCat("has ", tiles[i].escapes, " escaped exponents; its codes name ", named));
  }
  return absl::OkStatus();
}

}  // namespace kvist
