// Encode: tile by tile, codes straight into the block; then the sides, table and header.
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/code_bits.h"
#include "kernels/codec.h"
#include "kernels/encode_floor.h"
#include "kernels/header.h"
#include "kernels/pieces.h"
#include "kernels/q/aligned.h"
#include "kernels/q/decode.h"
#include "kernels/q/encode.h"
#include "kernels/simd/decode_tile.h"
#include "kernels/simd/encode_tile.h"
#include "kernels/simd/encode_trellis.h"
#include "kernels/simd/q.h"
#include "kernels/simd/x16.h"
#include "kernels/tile.h"

namespace kvist {
namespace {

// One tile in the form that it will be stored in; its codes, if it has any, are where the caller wanted them.
struct EncodedTile {
  TileMode mode = TileMode::kOwn;
  double sqnr_db = INFINITY;
  std::vector<uint8_t> record;
};

// Where the codes of a tile go, by plane; null where it has none.
using CodeTargets = std::array<uint8_t*, kMaxCodePlanes>;

// No vector of a tile crosses a cache line.
template <typename T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

class TileEncoder {
 public:
  TileEncoder(const BlockShape& shape, const BlockIdentity& identity, const EncodeOptions& options)
      : shape_{shape.tokens, KeepsValues(options.codec) ? uint32_t(shape.RowUnits()) : shape.head_dim, shape.dtype},
        sizes_(options.codec, shape, identity.first_position),
        options_(options),
        heads_(shape.heads),
        rows_(shape.TileElements()),
        decoded_(shape.TileElements()),
        rotated_(shape.TileElements()),
        squares_(shape.TileElements()),
        scratch_(shape.TileElements()),
        codes_(shape.TileElements()) {}

  // The tile at the first precision that keeps the floor; codes of `bits` bits if it is the codec's own, and `targets` may
  // have been written to even if it is not. The result is valid until the next call.
  const EncodedTile& Encode(const ConstPages& pages, size_t kv, size_t layer, size_t head, int bits,
                            const CodeTargets& targets) {
    bits_ = bits;
    targets_ = targets;
    floor_db_ = TileFloorDb(options_, bits);
    FindValues(pages, kv, layer, head);
    const bool is_key = kv == 0, is_exact = head + options_.exact_heads >= heads_;
    if (is_exact || KeepsValues(sizes_.codec)) {
      Raw16();
    } else if (sizes_.codec == Codec::kX16) {
      if (!X16()) Raw16();
    } else if (sizes_.codec == Codec::kI8) {
      if (!I8()) Raw16();
    } else if (!simd::AllFinite(shape_, values_)) {
      Raw16();
    } else {
      simd::Rotate(shape_, values_, rotated_.data());
      const bool is_wide = IsKeptWide(sizes_.codec, bits);
      if (!is_wide) Rotated(is_key);
      if (is_wide || !KeepsFloor(is_key)) RotatedI8();
      if (tile_.mode == TileMode::kRotatedI8 && !KeepsFloor(is_key)) Raw16();
    }
    return tile_;
  }

 private:
  // Rows that lie one after the other are read where they are.
  void FindValues(const ConstPages& pages, size_t kv, size_t layer, size_t head) {
    values_ = pages.Row(kv, layer, head, 0);
    if (pages.token_stride == shape_.head_dim) return;
    for (size_t t = 0; t < shape_.tokens; ++t) {
      std::memcpy(&rows_[t * shape_.head_dim], pages.Row(kv, layer, head, t), 2 * size_t{shape_.head_dim});
    }
    values_ = rows_.data();
  }

  void Reset(TileMode mode, bool is_key) {
    tile_.mode = mode;
    tile_.record.resize(sizes_.Record(mode, is_key));
  }

  void Raw16() {
    Reset(TileMode::kRaw16, false);
    std::memcpy(tile_.record.data(), values_, tile_.record.size());
    tile_.sqnr_db = INFINITY;
  }

  // Exact by construction, so that nothing is measured.
  bool X16() {
    Reset(TileMode::kOwn, false);
    tile_.sqnr_db = INFINITY;
    return simd::EncodeX16(shape_, values_, tile_.record, targets_[0], targets_[1]);
  }

  bool I8() {
    Reset(TileMode::kOwn, false);
    simd::TileError error;
    if (!simd::I8Rows(shape_, values_, tile_.record.data(), targets_[0], error)) return false;
    return Measured(error);
  }

  void RotatedI8() {
    Reset(TileMode::kRotatedI8, false);
    simd::WideRows(shape_, shape_.tokens, rotated_.data(), tile_.record.data());
  }

  void Rotated(bool is_key) {
    Reset(TileMode::kOwn, is_key);
    const size_t head_dim = sizes_.head_dim;
    simd::FitScales(shape_, sizes_.sinks, is_key, rotated_.data(), squares_.data(), scales_);
    if (!is_key) {
      std::fill_n(scales_.mean_codes, head_dim, 0);
      scales_.mean_scale = 0;
    }
    if (sizes_.codec == Codec::kTrellis) {
      simd::TrellisCodes(shape_, sizes_.sinks, scales_, bits_, rotated_.data(), codes_.data());
    } else {
      simd::LadderCodes(shape_, sizes_.sinks, scales_, bits_, rotated_.data(), scratch_.data(), codes_.data());
    }
    simd::PackPlanes(shape_, sizes_.rows, codes_.data(), targets_.data());
    uint8_t* at = std::copy_n(scales_.token_scales + sizes_.sinks, sizes_.rows, tile_.record.data());
    at = std::copy_n(scales_.channel_scales, head_dim, at);
    if (is_key) {
      std::memcpy(at, scales_.mean_codes, head_dim);
      at[head_dim] = scales_.mean_scale;
      at += head_dim + 1;
    }
    simd::WideRows(shape_, sizes_.sinks, rotated_.data(), at);
  }

  // Decodes what was just encoded, as every reader will, and compares.
  bool KeepsFloor(bool is_key) {
    TileBytes bytes = ReadRecord(sizes_, tile_.mode, is_key, tile_.record.data());
    std::copy(targets_.begin(), targets_.end(), bytes.planes);
    const DecodeParameters parameters = {sizes_.codec,           shape_.tokens, shape_.head_dim,  shape_.dtype,
                                         uint32_t(sizes_.sinks), bits_,         Basis::kOriginal, /*stream=*/false};
    simd::DecodeTile(parameters, bytes, {decoded_.data(), shape_.head_dim});
    return Measured(simd::Compare(shape_, values_, decoded_.data()));
  }

  bool Measured(const simd::TileError& error) {
    tile_.sqnr_db = TileSqnrDb(error.signal, error.noise, error.identical, error.finite);
    return tile_.sqnr_db >= floor_db_;
  }

  const simd::TileShape shape_;
  const TileSizes sizes_;
  const EncodeOptions& options_;
  const uint32_t heads_;
  int bits_ = 0;
  float floor_db_ = 0;
  const uint16_t* values_ = nullptr;  // [tokens][head_dim]
  CodeTargets targets_ = {};
  AlignedVector<uint16_t> rows_, decoded_;  // [tokens][head_dim]
  AlignedVector<float> rotated_, squares_;  // [head_dim][tokens]
  AlignedVector<uint8_t> scratch_, codes_;
  simd::LadderScales scales_;
  EncodedTile tile_;
};

// What Pieces expects, by table entry.
std::vector<size_t> ExpectedBytes(const BlockHeader& header, const EncodeOptions& options, const BlockBits& bits) {
  const uint32_t layers = header.shape.layers;
  std::vector<size_t> bytes(size_t(header.Planes()) * layers);
  if (header.codec == Codec::kQ) return bytes;
  const TileSizes sizes(header.codec, header.shape, header.identity.first_position);
  for (uint32_t layer = 0; layer < layers; ++layer) {
    bytes[layer] = sizes.Side(bits, layer, options.exact_heads);
    for (int plane = 1; plane < header.Planes(); ++plane) {
      bytes[size_t(plane) * layers + layer] = sizes.Codes(bits, layer, options.exact_heads, plane);
    }
  }
  return bytes;
}

void EncodeLayer(const ConstPages& pages, const BlockBits& bits, uint32_t layer, const TileSizes& sizes,
                 TileEncoder& encoder, Pieces& pieces, BlockHeader& header, double& worst_db) {
  const BlockShape& shape = header.shape;
  const size_t tiles = 2 * size_t{shape.heads}, marks = KeepsValues(header.codec) ? 0 : 2 * tiles;
  const int most_planes = header.Planes() - 1;
  std::vector<uint8_t> side(marks);
  side.reserve(sizes.Side(bits, layer, 0));
  for (size_t i = 0; i < tiles; ++i) {
    const size_t kv = i / shape.heads, head = i % shape.heads;
    const int tile_bits = bits.Of(layer, kv, head), planes = CodePlanes(header.codec, tile_bits);
    CodeTargets targets = {};
    for (int plane = 1; plane <= planes; ++plane) targets[plane - 1] = pieces.NextCodes(plane, layer);
    const EncodedTile& tile = encoder.Encode(pages, kv, layer, head, tile_bits, targets);
    const bool own_codes = tile.mode == TileMode::kOwn && planes > 0;
    for (int plane = 1; own_codes && plane <= planes; ++plane) {
      pieces.TakeCodes(plane, layer, sizes.CodePlane(plane));
    }
    worst_db = std::min(worst_db, tile.sqnr_db);
    side.insert(side.end(), tile.record.begin(), tile.record.end());
    if (marks == 0) continue;
    side[i] = uint8_t(int(tile.mode) | (own_codes ? most_planes - planes : 0) << 4);
    side[tiles + i] = TileSqnr(tile.sqnr_db);
    if (tile.mode != TileMode::kOwn) ++header.raised_tiles;
  }
  pieces.Keep(0, layer, std::move(side));
}

void EncodeTiles(const ConstPages& pages, const EncodeOptions& options, const BlockBits& bits, Pieces& pieces,
                 BlockHeader& header, double& worst_db) {
  TileEncoder encoder(header.shape, header.identity, options);
  const TileSizes sizes(options.codec, header.shape, header.identity.first_position);
  for (uint32_t layer = 0; layer < header.shape.layers; ++layer) {
    EncodeLayer(pages, bits, layer, sizes, encoder, pieces, header, worst_db);
    pieces.FinishLayer(layer);
  }
}

void EncodeQ(const ConstPages& pages, const EncodeOptions& options, Pieces& pieces, BlockHeader& header,
             double& worst_db) {
  QEncoder encoder(header.identity, header.shape, pages, options, simd::Q());
  for (uint32_t layer = 0; layer < header.shape.layers; ++layer) {
    QEncoder::Pieces of_layer = encoder.EncodeLayer(layer);
    pieces.Keep(0, layer, std::move(of_layer.side));
    pieces.Keep(1, layer, std::move(of_layer.stream));
    pieces.FinishLayer(layer);
    header.raised_tiles += of_layer.raised_tiles;
    worst_db = std::min(worst_db, of_layer.worst_db);
  }
}

absl::Status CheckExactHeads(const EncodeOptions& options, const BlockShape& shape) {
  if (options.exact_heads == 0) return absl::OkStatus();
  if (!IsRotated(options.codec)) {
    return absl::InvalidArgumentError(
        absl::StrCat("exact_heads ", options.exact_heads, "; only ladder and trellis keep some heads as they are"));
  }
  if (options.exact_heads < shape.heads) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("exact_heads ", options.exact_heads, " of ", shape.heads,
                                                 "; one must be left to code, raw16 keeps all as they are"));
}

}  // namespace

absl::Status ValidateOptions(const EncodeOptions& options, const BlockShape& shape) {
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  if (absl::Status status = CheckTakes(options.codec, shape.dtype); !status.ok()) return status;
  if (absl::Status status = FloorOf(options).status(); !status.ok()) return status;
  if (absl::Status status = CheckExactHeads(options, shape); !status.ok()) return status;
  if (options.codec == Codec::kQ) return CheckEncodesQ(options, shape);
  if (options.profile != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(CodecName(options.codec)), " needs no profile"));
  }
  return BitsOf(options, shape).status();
}

absl::StatusOr<size_t> Encode(const BlockIdentity& identity, const BlockShape& shape, const ConstPages& pages,
                              const EncodeOptions& options, absl::Span<uint8_t> out) {
  if (absl::Status status = ValidateOptions(options, shape); !status.ok()) return status;
  const absl::StatusOr<BlockBits> bits = BitsOf(options, shape);
  BlockHeader header;
  header.codec = options.codec;
  header.code_bits = bits->most;
  header.mixed_bits = bits->most != bits->least;
  header.shape = shape;
  header.identity = identity;
  header.floor_db256 = FloorOf(options, bits->least).value();
  const bool is_q = options.codec == Codec::kQ;
  if (is_q) {
    if (absl::Status status = CheckIdentityQ(identity, *options.profile); !status.ok()) return status;
    header.code_bits = LayersBetweenResets(*options.profile);
  }
  Pieces pieces(header.PrefixBytes(), header.Planes(), shape.layers, ExpectedBytes(header, options, *bits), out);
  if (pieces.expected_block_bytes() > out.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("block of at least ", pieces.expected_block_bytes(), " bytes; the output holds ", out.size()));
  }
  double worst_db = INFINITY;
  if (is_q) {
    EncodeQ(pages, options, pieces, header, worst_db);
  } else {
    EncodeTiles(pages, options, *bits, pieces, header, worst_db);
  }
  header.min_sqnr_db256 = BlockSqnr(worst_db);
  const absl::StatusOr<uint64_t> block_bytes = pieces.Finish();
  if (!block_bytes.ok()) return block_bytes.status();
  header.block_bytes = *block_bytes;
  header.table_xxh3 = XXH3_64bits(out.data() + kHeaderBytes, header.PrefixBytes() - kHeaderBytes);
  WriteHeader(header, out.data());
  return size_t{header.block_bytes};
}

}  // namespace kvist
