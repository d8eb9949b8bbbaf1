#include "kernels/codec.h"

#include <algorithm>

#include "kernels/code_bits.h"
#include "kernels/decode_layers.h"
#include "kernels/header.h"
#include "kernels/q/stream_table.h"
#include "kernels/simd/decode_tile.h"
#include "kernels/simd/q.h"
#include "kernels/tile.h"
#include "kernels/x16.h"

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

// The most that any number of bits gives.
int MostPlanes(Codec codec) {
  int most = TraitsOf(codec).planes;
  for (int bits = 1; bits <= 16; ++bits) most = std::max(most, 1 + CodePlanes(codec, bits));
  return most;
}

}  // namespace

size_t MaxBlockBytes(const BlockShape& shape, Codec codec) {
  // A raw16 tile is larger than any other, codes included; each piece may need padding.
  const TileSizes sizes(codec, shape, 0);
  const size_t tiles = 2 * size_t{shape.heads};
  const size_t side = 2 * tiles + tiles * sizes.Record(TileMode::kRaw16, false);
  const size_t streams =
      codec == Codec::kQ ? shape.heads * kStreamSizeBytes : 0;  // their table, of a head each at most
  const size_t pieces = size_t(MostPlanes(codec)) * shape.layers;
  return kHeaderBytes + pieces * (kPlaneEntryBytes + kPlaneAlignment) + shape.layers * (side + streams);
}

size_t NominalBlockBytes(const BlockIdentity& identity, const BlockShape& shape, const EncodeOptions& options) {
  const Codec codec = options.codec;
  const TileSizes sizes(codec, shape, identity.first_position);
  const absl::StatusOr<BlockBits> bits = BitsOf(options, shape);
  if (!bits.ok()) return 0;
  BlockHeader header;
  header.codec = codec;
  header.code_bits = bits->most;
  header.shape = shape;
  const size_t likely = codec == Codec::kX16 ? sizes.Record(TileMode::kOwn, false) - kX16RecordBytes : 0;
  uint64_t end = header.PrefixBytes();
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    end = AlignPlane(end) + sizes.Side(*bits, layer, options.exact_heads) + 2 * shape.heads * likely;
  }
  for (int plane = 1; plane < header.Planes(); ++plane) {
    for (uint32_t layer = 0; layer < shape.layers; ++layer) {
      end = AlignPlane(end) + sizes.Codes(*bits, layer, options.exact_heads, plane);
    }
  }
  return end;
}

absl::Status Decode(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages,
                    const Profile* profile) {
  const bool stream = CanStream(block.shape(), layers, pages);
  const absl::Status status =
      DecodeLayers(block, layers, precision, basis, pages, stream, {&simd::DecodeTile, simd::Q()}, profile);
  if (stream) simd::FinishStreaming();
  return status;
}

}  // namespace kvist
