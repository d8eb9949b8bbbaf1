// Encodes one tile, at the least precision that keeps its floor. Shared by all CPUs: FORMAT.md leaves an encoder only the
// choice of scales, and this is the one place that makes it.
#ifndef KVIST_KERNELS_ENCODE_TILE_H_
#define KVIST_KERNELS_ENCODE_TILE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/tile.h"

namespace kvist {

struct EncodedTile {
  TileMode mode = TileMode::kCodes;
  float sqnr_db = 0;  // of the decoded 16-bit values; kExactDb if they are equal
  std::vector<uint8_t> side;
  std::array<std::vector<uint8_t>, 3> codes;  // of planes 1, 2, 3
};

struct SourceRows {
  const uint16_t* base;
  size_t token_stride;
  const uint16_t* Row(size_t token) const { return base + token * token_stride; }
};

// Reuses its memory from tile to tile. Not thread-safe.
class TileEncoder {
 public:
  // `decode` decodes what was encoded, to measure it.
  TileEncoder(Codec codec, const BlockShape& shape, uint32_t first_position, float floor_db, DecodeTileFunction decode);

  void Encode(const SourceRows& source, bool is_key, EncodedTile* out);

 private:
  bool Widen(const SourceRows& source);
  void EncodeI8(EncodedTile* out);
  void EncodeLadder(bool is_key, EncodedTile* out);
  void EncodeRaised8(EncodedTile* out);
  void EncodeRaw(const SourceRows& source, EncodedTile* out);
  void BalanceScales(const float* mean, std::vector<float>* channel, std::vector<float>* token);
  float MeasureSqnr(bool is_key, const EncodedTile& tile);
  void Rotate();
  size_t elements() const { return size_t{shape_.tokens} * shape_.head_dim; }

  const Codec codec_;
  const BlockShape shape_;
  const uint32_t sinks_;
  const float floor_db_;
  const DecodeTileFunction decode_;
  std::vector<float> plain_, rotated_, statistics_, squares_;
  std::vector<uint8_t> cells_;
  std::vector<uint16_t> decoded_;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_ENCODE_TILE_H_
