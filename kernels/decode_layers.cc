#include "kernels/decode_layers.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/header.h"
#include "kernels/q/decode.h"

namespace kvist {
namespace {

// The number of planes to read, after every check that needs no tile.
absl::StatusOr<int> CheckRequest(const BlockView& block, LayerRange layers, int precision, Basis basis) {
  if (layers.first >= layers.last || layers.last > block.shape().layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers [", layers.first, ", ", layers.last, ") of a block of ", block.shape().layers));
  }
  absl::StatusOr<int> planes = block.PlanesFor(precision);
  if (!planes.ok()) return planes;
  if (basis == Basis::kKeptRotated && !IsRotated(block.codec())) {
    return absl::FailedPreconditionError(
        absl::StrCat(std::string(CodecName(block.codec())), " does not rotate: no kept basis"));
  }
  for (int plane = 0; plane < *planes; ++plane) {
    const PlaneEntry last = block.Plane(plane, layers.last - 1);
    if (uint64_t{last.offset} + last.size_bytes > block.bytes().size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("precision ", precision, " needs ", *planes, " planes; the view holds ", plane));
    }
  }
  return planes;
}

absl::Status CheckOneBasis(const std::vector<TileBytes>& tiles, uint32_t layer) {
  for (size_t i = 0; i < tiles.size(); ++i) {
    if (tiles[i].mode == TileMode::kRaw16) {
      return absl::FailedPreconditionError(
          absl::StrCat("layer ", layer, ": tile ", i, " is kept raw16, not rotated; a page must not mix two bases"));
    }
  }
  return absl::OkStatus();
}

int TileBits(const BlockView& block, const TileBytes& tile) {
  if (tile.lacks == 0) return block.code_bits();
  return BitsOfPlanes(block.codec(), block.planes() - 1 - tile.lacks);
}

}  // namespace

absl::Status DecodeLayers(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages,
                          bool stream, const DecodeFunctions& functions, const Profile* profile) {
  const BlockShape& shape = block.shape();
  if (precision == 0) precision = block.MaxPrecision();
  if (precision == 0) return absl::FailedPreconditionError("the view holds no whole precision");
  absl::StatusOr<int> planes = CheckRequest(block, layers, precision, basis);
  if (!planes.ok()) return planes.status();
  if (block.codec() == Codec::kQ) return DecodeQ(block, layers, pages, profile, functions.q);
  if (profile != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(CodecName(block.codec())), " needs no profile"));
  }
  const uint32_t sinks = SinksOf(block.codec(), block.identity().first_position);
  const uint32_t row = KeepsValues(block.codec()) ? uint32_t(shape.RowUnits()) : shape.head_dim;
  DecodeParameters parameters = {block.codec(), shape.tokens, row, shape.dtype, sinks, precision, basis, stream};
  for (uint32_t layer = layers.first; layer < layers.last; ++layer) {
    absl::StatusOr<std::vector<TileBytes>> tiles = LayerTiles(block, layer, *planes);
    if (!tiles.ok()) return tiles.status();
    if (basis == Basis::kKeptRotated) {
      if (absl::Status status = CheckOneBasis(*tiles, layer); !status.ok()) return status;
    }
    for (size_t i = 0; i < tiles->size(); ++i) {
      const size_t kv = i / shape.heads, head = i % shape.heads;
      parameters.precision = std::min(precision, TileBits(block, (*tiles)[i]));
      functions.decode_tile(parameters, (*tiles)[i], {pages.Row(kv, layer, head, 0), pages.token_stride});
    }
  }
  return absl::OkStatus();
}

}  // namespace kvist
