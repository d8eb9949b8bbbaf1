#include "kernels/codec.h"

#include "kernels/decode_layers.h"
#include "kernels/header.h"
#include "kernels/simd/decode_tile.h"
#include "kernels/tile.h"

namespace kvist {
namespace {

// Above this a page is out of the caches before anyone reads it: streamed stores save reading what they overwrite.
constexpr size_t kStreamBytes = size_t{1} << 20;

bool CanStream(const BlockShape& shape, LayerRange layers, const Pages& pages) {
  const size_t strides = pages.kv_stride | pages.layer_stride | pages.head_stride | pages.token_stride;
  const bool aligned = (reinterpret_cast<uintptr_t>(pages.base) | 2 * strides) % 64 == 0;
  const bool whole_lines = shape.head_dim % 64 == 0;  // a row of 80 or 96 is written in two passes
  return aligned && whole_lines && shape.PlainBytes() / shape.layers * (layers.last - layers.first) >= kStreamBytes;
}

size_t BytesOfPieces(const BlockShape& shape, Codec codec, size_t side, size_t own_tiles, const TileSizes& sizes) {
  BlockHeader header;
  header.codec = codec;
  header.shape = shape;
  uint64_t end = header.PrefixBytes();
  for (int plane = 0; plane < header.Planes(); ++plane) {
    const size_t piece = plane == 0 ? side : own_tiles * sizes.CodePlane(plane);
    for (uint32_t layer = 0; layer < shape.layers; ++layer) end = AlignPlane(end) + piece;
  }
  return end;
}

}  // namespace

size_t MaxBlockBytes(const BlockShape& shape, Codec codec) {
  // A raw16 tile is larger than any other, codes included; each piece may need padding.
  const TileSizes sizes(codec, shape, 0);
  const size_t tiles = 2 * size_t{shape.heads};
  const size_t side = 2 * tiles + tiles * sizes.Record(TileMode::kRaw16, false);
  return BytesOfPieces(shape, codec, side, 0, sizes) + size_t(TraitsOf(codec).planes) * shape.layers * kPlaneAlignment;
}

size_t NominalBlockBytes(const BlockIdentity& identity, const BlockShape& shape, Codec codec) {
  const TileSizes sizes(codec, shape, identity.first_position);
  const size_t heads = shape.heads;
  if (KeepsValues(codec)) {
    return BytesOfPieces(shape, codec, 2 * heads * sizes.Record(TileMode::kRaw16, false), 0, sizes);
  }
  const size_t records = heads * (sizes.Record(TileMode::kOwn, true) + sizes.Record(TileMode::kOwn, false));
  return BytesOfPieces(shape, codec, 4 * heads + records, 2 * heads, sizes);
}

absl::Status Decode(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages) {
  const bool stream = CanStream(block.shape(), layers, pages);
  const absl::Status status = DecodeLayers(block, layers, precision, basis, pages, stream, &simd::DecodeTile);
  if (stream) simd::FinishStreaming();
  return status;
}

}  // namespace kvist
