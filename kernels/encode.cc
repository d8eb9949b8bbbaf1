// Encode: tile by tile into one buffer a plane, then header, table and planes in one pass over the result.
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/code_bits.h"
#include "kernels/codec.h"
#include "kernels/encode_floor.h"
#include "kernels/header.h"
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

// One tile in the form that it will be stored in.
struct EncodedTile {
  TileMode mode = TileMode::kOwn;
  double sqnr_db = INFINITY;
  std::vector<uint8_t> record;
  std::vector<uint8_t> planes[kMaxCodePlanes];
};

class TileEncoder {
 public:
  TileEncoder(const BlockShape& shape, const BlockIdentity& identity, const EncodeOptions& options)
      : shape_{shape.tokens, KeepsValues(options.codec) ? uint32_t(shape.RowUnits()) : shape.head_dim, shape.dtype},
        sizes_(options.codec, shape, identity.first_position),
        options_(options),
        heads_(shape.heads),
        values_(shape.TileElements()),
        decoded_(shape.TileElements()),
        rotated_(shape.TileElements()),
        squares_(shape.TileElements()),
        scratch_(shape.TileElements()),
        codes_(shape.TileElements()) {}

  // The tile at the first precision that keeps the floor; codes of `bits` bits if it is the codec's own. The result is
  // valid until the next call.
  const EncodedTile& Encode(const ConstPages& pages, size_t kv, size_t layer, size_t head, int bits) {
    bits_ = bits;
    floor_db_ = TileFloorDb(options_, bits);
    for (size_t t = 0; t < shape_.tokens; ++t) {
      std::memcpy(&values_[t * shape_.head_dim], pages.Row(kv, layer, head, t), 2 * size_t{shape_.head_dim});
    }
    const bool is_key = kv == 0, is_exact = head + options_.exact_heads >= heads_;
    if (is_exact) {
      Raw16();
    } else if (sizes_.codec == Codec::kX16) {
      if (!X16()) Raw16();
    } else if (KeepsValues(sizes_.codec) || !simd::AllFinite(shape_, values_.data())) {
      Raw16();
    } else if (sizes_.codec == Codec::kI8) {
      I8();
      if (!KeepsFloor(is_key)) Raw16();
    } else {
      simd::Rotate(shape_, values_.data(), rotated_.data());
      const bool is_wide = IsKeptWide(sizes_.codec, bits);
      if (!is_wide) Rotated(is_key);
      if (is_wide || !KeepsFloor(is_key)) RotatedI8();
      if (tile_.mode == TileMode::kRotatedI8 && !KeepsFloor(is_key)) Raw16();
    }
    return tile_;
  }

 private:
  void Reset(TileMode mode, bool is_key) {
    tile_.mode = mode;
    tile_.record.resize(sizes_.Record(mode, is_key));
    const int planes = mode == TileMode::kOwn ? CodePlanes(sizes_.codec, bits_) : 0;
    for (int plane = 1; plane <= kMaxCodePlanes; ++plane) {
      tile_.planes[plane - 1].resize(plane <= planes ? sizes_.CodePlane(plane) : 0);
    }
  }

  void Raw16() {
    Reset(TileMode::kRaw16, false);
    std::memcpy(tile_.record.data(), values_.data(), tile_.record.size());
    tile_.sqnr_db = INFINITY;
  }

  // Exact by construction, so that nothing is measured.
  bool X16() {
    Reset(TileMode::kOwn, false);
    tile_.sqnr_db = INFINITY;
    return simd::EncodeX16(shape_, values_.data(), tile_.record, tile_.planes[0].data(), tile_.planes[1].data());
  }

  void I8() {
    Reset(TileMode::kOwn, false);
    simd::I8Rows(shape_, values_.data(), tile_.record.data(), tile_.planes[0].data());
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
    uint8_t* planes[kMaxCodePlanes];
    for (int i = 0; i < kMaxCodePlanes; ++i) planes[i] = tile_.planes[i].empty() ? nullptr : tile_.planes[i].data();
    simd::PackPlanes(shape_, sizes_.rows, codes_.data(), planes);
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
    for (int plane = 0; plane < kMaxCodePlanes; ++plane) bytes.planes[plane] = tile_.planes[plane].data();
    const DecodeParameters parameters = {sizes_.codec,           shape_.tokens, shape_.head_dim,  shape_.dtype,
                                         uint32_t(sizes_.sinks), bits_,         Basis::kOriginal, /*stream=*/false};
    simd::DecodeTile(parameters, bytes, {decoded_.data(), shape_.head_dim});
    const simd::TileError error = simd::Compare(shape_, values_.data(), decoded_.data());
    tile_.sqnr_db = TileSqnrDb(error.signal, error.noise, error.identical, error.finite);
    return tile_.sqnr_db >= floor_db_;
  }

  const simd::TileShape shape_;
  const TileSizes sizes_;
  const EncodeOptions& options_;
  const uint32_t heads_;
  int bits_ = 0;
  float floor_db_ = 0;
  std::vector<uint16_t> values_, decoded_;  // [tokens][head_dim]
  std::vector<float> rotated_, squares_;    // [head_dim][tokens]
  std::vector<uint8_t> scratch_, codes_;
  simd::LadderScales scales_;
  EncodedTile tile_;
};

// All pieces of a block, plane by plane, before their offsets are known.
class Pieces {
 public:
  // Growing to their size would cost about what the encoder does.
  Pieces(const BlockShape& shape, const TileSizes& sizes, int planes)
      : planes_(planes), layers_(shape.layers), sizes_(size_t(planes) * shape.layers) {
    const size_t tiles = 2 * size_t{shape.layers} * shape.heads;
    for (int plane = 1; plane < planes; ++plane) bytes_[plane].reserve(tiles * sizes.CodePlane(plane));
  }

  void Append(int plane, uint32_t layer, absl::Span<const uint8_t> bytes) {
    bytes_[plane].insert(bytes_[plane].end(), bytes.begin(), bytes.end());
    sizes_[size_t(plane) * layers_ + layer] += uint32_t(bytes.size());
  }

  uint64_t BlockBytes(uint64_t prefix_bytes) const {
    uint64_t end = prefix_bytes;
    for (uint32_t size_bytes : sizes_) end = AlignPlane(end) + size_bytes;
    return end;
  }

  // Writes planes and table. REQUIRES: `out` holds BlockBytes(prefix_bytes).
  void Write(uint64_t prefix_bytes, uint8_t* out) const {
    uint64_t end = prefix_bytes;
    for (int plane = 0; plane < planes_; ++plane) {
      const uint8_t* from = bytes_[plane].data();
      for (uint32_t layer = 0; layer < layers_; ++layer) {
        const size_t index = size_t(plane) * layers_ + layer, size_bytes = sizes_[index];
        const uint64_t offset = AlignPlane(end);
        std::memset(out + end, 0, offset - end);
        if (size_bytes != 0) std::memcpy(out + offset, from, size_bytes);
        uint8_t* entry = out + kHeaderBytes + index * kPlaneEntryBytes;
        StoreLe(offset, 4, entry);
        StoreLe(size_bytes, 4, entry + 4);
        StoreLe(XXH3_64bits(out + offset, size_bytes), 8, entry + 8);
        from += size_bytes;
        end = offset + size_bytes;
      }
    }
  }

 private:
  const int planes_;
  const uint32_t layers_;
  std::vector<uint32_t> sizes_;
  std::vector<uint8_t> bytes_[kMaxPlanes];
};

void EncodeLayer(const ConstPages& pages, const BlockBits& bits, uint32_t layer, TileEncoder& encoder, Pieces& pieces,
                 BlockHeader& header, double& worst_db) {
  const BlockShape& shape = header.shape;
  const size_t tiles = 2 * size_t{shape.heads};
  const int most_planes = header.Planes() - 1;
  std::vector<uint8_t> modes(2 * tiles), records;
  for (size_t i = 0; i < tiles; ++i) {
    const size_t kv = i / shape.heads, head = i % shape.heads;
    const int tile_bits = bits.Of(layer, kv, head);
    const EncodedTile& tile = encoder.Encode(pages, kv, layer, head, tile_bits);
    const bool own_codes = tile.mode == TileMode::kOwn && most_planes > 0;
    modes[i] = uint8_t(tile.mode);
    if (own_codes) modes[i] |= uint8_t((most_planes - CodePlanes(header.codec, tile_bits)) << 4);
    modes[tiles + i] = TileSqnr(tile.sqnr_db);
    worst_db = std::min(worst_db, tile.sqnr_db);
    records.insert(records.end(), tile.record.begin(), tile.record.end());
    for (int plane = 1; plane < header.Planes(); ++plane) pieces.Append(plane, layer, tile.planes[plane - 1]);
    if (!KeepsValues(header.codec) && tile.mode != TileMode::kOwn) ++header.raised_tiles;
  }
  if (!KeepsValues(header.codec)) pieces.Append(0, layer, modes);
  pieces.Append(0, layer, records);
}

void EncodeTiles(const ConstPages& pages, const EncodeOptions& options, const BlockBits& bits, Pieces& pieces,
                 BlockHeader& header, double& worst_db) {
  TileEncoder encoder(header.shape, header.identity, options);
  for (uint32_t layer = 0; layer < header.shape.layers; ++layer) {
    EncodeLayer(pages, bits, layer, encoder, pieces, header, worst_db);
  }
}

void EncodeQ(const ConstPages& pages, const EncodeOptions& options, Pieces& pieces, BlockHeader& header,
             double& worst_db) {
  QEncoder encoder(header.identity, header.shape, pages, options, simd::Q());
  for (uint32_t layer = 0; layer < header.shape.layers; ++layer) {
    const QEncoder::Pieces of_layer = encoder.EncodeLayer(layer);
    pieces.Append(0, layer, of_layer.side);
    pieces.Append(1, layer, of_layer.stream);
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
  Pieces pieces(shape, TileSizes(options.codec, shape, identity.first_position), header.Planes());
  double worst_db = INFINITY;
  if (is_q) {
    EncodeQ(pages, options, pieces, header, worst_db);
  } else {
    EncodeTiles(pages, options, *bits, pieces, header, worst_db);
  }
  header.min_sqnr_db256 = BlockSqnr(worst_db);
  header.block_bytes = pieces.BlockBytes(header.PrefixBytes());
  if (header.block_bytes > out.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("block of ", header.block_bytes, " bytes; the output holds ", out.size()));
  }
  pieces.Write(header.PrefixBytes(), out.data());
  header.table_xxh3 = XXH3_64bits(out.data() + kHeaderBytes, header.PrefixBytes() - kHeaderBytes);
  WriteHeader(header, out.data());
  return size_t{header.block_bytes};
}

}  // namespace kvist
