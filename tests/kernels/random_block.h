// Blocks whose codes, scales and means are random bytes: every value that a hostile block could hold, not only what the
// encoder writes.
#ifndef KVIST_TESTS_KERNELS_RANDOM_BLOCK_H_
#define KVIST_TESTS_KERNELS_RANDOM_BLOCK_H_

#include <random>
#include <vector>

#include "kernels/tile.h"
#include "kernels/x16.h"
#include "tests/kernels/block_builder.h"

namespace kvist {

// Parts of an x16 tile of its own mode: one code in sixteen is an escape.
inline void AppendX16(const TileSizes& sizes, std::mt19937_64& random, std::vector<uint8_t>& side,
                      std::vector<uint8_t>& low, std::vector<uint8_t>& codes) {
  for (size_t i = 0; i < sizes.CodePlane(1); ++i) low.push_back(uint8_t(random()));
  size_t escapes = 0;
  for (size_t i = 0; i < sizes.CodePlane(2); ++i) {
    codes.push_back(uint8_t(random()));
    escapes += size_t((codes.back() & 15) == kX16Escape) + size_t(codes.back() >> 4 == kX16Escape);
  }
  for (size_t i = 0; i < kX16Exponents; ++i) side.push_back(uint8_t(random()));
  side.push_back(uint8_t(escapes));
  side.push_back(uint8_t(escapes >> 8));
  for (size_t i = 0; i < escapes; ++i) side.push_back(uint8_t(random()));
}

// A block of this shape whose tiles have the mode bytes `modes` in turn (planes that a tile lacks in the upper half) and
// whose other bytes are random (channel scales in range). raw16 and fp8p have no modes. code_bits: 0 = the codec's own.
inline std::vector<uint8_t> RandomBlock(const BlockShape& shape, Codec codec, uint32_t first_position,
                                        const std::vector<uint8_t>& modes, std::mt19937_64& random, int code_bits = 0) {
  const TileSizes sizes(codec, shape, first_position);
  BlockHeader header;
  header.codec = codec;
  header.code_bits = code_bits;
  for (uint8_t mode : modes) header.mixed_bits |= mode >= 16;
  header.shape = shape;
  header.identity = IdentityAt(first_position);
  header.min_sqnr_db256 = 65535;
  std::vector<std::vector<uint8_t>> pieces(header.Pieces());
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    const size_t tiles = 2 * shape.heads;
    std::vector<uint8_t>& side = pieces[layer];
    if (KeepsValues(codec)) {
      side.resize(tiles * sizes.Record(TileMode::kRaw16, false));
      for (uint8_t& byte : side) byte = uint8_t(random());
      continue;
    }
    side.resize(2 * tiles);
    for (size_t i = 0; i < tiles; ++i) {
      const uint8_t byte = modes[(i + layer) % modes.size()];
      const TileMode mode = TileMode(byte & 15);
      side[i] = byte;
      if (codec == Codec::kX16 && mode == TileMode::kOwn) {
        AppendX16(sizes, random, side, pieces[shape.layers + layer], pieces[2 * shape.layers + layer]);
        continue;
      }
      header.raised_tiles += mode != TileMode::kOwn;
      const size_t at = side.size();
      side.resize(at + sizes.Record(mode, i < shape.heads));
      for (size_t j = at; j < side.size(); ++j) side[j] = uint8_t(random());
      if (mode != TileMode::kOwn) continue;
      for (size_t d = 0; IsRotated(codec) && d < shape.head_dim; ++d)
        side[at + sizes.rows + d] = uint8_t(random() % 129);
      for (int plane = 1; plane < header.Planes() - (byte >> 4); ++plane) {
        for (size_t j = 0; j < sizes.CodePlane(plane); ++j)
          pieces[plane * shape.layers + layer].push_back(uint8_t(random()));
      }
    }
  }
  std::vector<uint8_t> bytes(header.PrefixBytes());
  for (size_t i = 0; i < pieces.size(); ++i) {
    bytes.resize(AlignPlane(bytes.size()));
    StoreLe(bytes.size(), 4, &bytes[kHeaderBytes + 16 * i]);
    StoreLe(pieces[i].size(), 4, &bytes[kHeaderBytes + 16 * i + 4]);
    bytes.insert(bytes.end(), pieces[i].begin(), pieces[i].end());
  }
  header.block_bytes = bytes.size();
  WriteHeader(header, bytes.data());
  for (size_t i = 0; i < pieces.size(); ++i) ResealPiece(bytes, i);
  return bytes;
}

}  // namespace kvist

#endif  // KVIST_TESTS_KERNELS_RANDOM_BLOCK_H_
