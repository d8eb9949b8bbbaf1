#include "kernels/reference/decode.h"

#include <cstring>

namespace kvist::reference {
namespace {

// FORMAT.md, "Planes of the ladder": the code of element i of a tile from its leading `bits` bits.
int CodeAt(const TileView& tile, size_t i, int bits) {
  const size_t strip = i / kStrip, in_strip = i % kStrip;
  const uint8_t two = tile.codes[0][strip * 64 + in_strip % 64];
  int code = two >> (2 * (in_strip / 64)) & 3;
  for (int plane = 1; plane < bits - 1; ++plane) {
    const uint8_t one = tile.codes[plane][strip * 32 + in_strip % 32];
    code = code << 1 | (one >> (in_strip / 32) & 1);
  }
  return code;
}

// FORMAT.md, "The integer transform": Walsh-Hadamard in natural order, in 16 bits.
void Transform(int16_t* values, uint32_t size) {
  for (uint32_t h = 1; h < size; h *= 2) {
    for (uint32_t i = 0; i < size; i += 2 * h) {
      for (uint32_t j = i; j < i + h; ++j) {
        const int16_t a = values[j], b = values[j + h];
        values[j] = static_cast<int16_t>(a + b);
        values[j + h] = static_cast<int16_t>(a - b);
      }
    }
  }
}

// x = (float(Y) * N) * S + M, each operation rounded by itself.
void WriteRow(int16_t* row, const TileView& tile, Basis basis, float factor, const float* norm, const float* mean, uint16_t* out) {
  if (basis == Basis::kOriginal) {
    uint32_t begin = 0;
    for (uint32_t block : BlocksOf(tile.head_dim).size) {
      Transform(row + begin, block);
      begin += block;
    }
  }
  for (uint32_t d = 0; d < tile.head_dim; ++d) {
    const float rotated_back = static_cast<float>(row[d]) * norm[d];
    const float scaled = rotated_back * factor;
    const float value = scaled + mean[d];
    out[d] = RoundTo(tile.dtype, value);
  }
}

// A sink, or a token of a raised tile: 8-bit codes of the rotated vector.
void DecodeRotated8(const TileView& tile, uint8_t scale, const uint8_t* codes, Basis basis, const float* norm, uint16_t* out) {
  static constexpr float kNoMean[256] = {};
  int16_t row[256];
  for (uint32_t d = 0; d < tile.head_dim; ++d) row[d] = static_cast<int8_t>(codes[d]);
  WriteRow(row, tile, basis, LogScale(scale), norm, kNoMean, out);
}

void DecodeLadder(const TileView& tile, int bits, Basis basis, const TileRows& out) {
  LadderChannels channels;
  PrepareChannels(tile, basis, &channels);
  const LadderSide side = SplitLadderSide(tile);
  const absl::Span<const int8_t> levels = Levels(bits);
  const int shift = LevelShift(tile.head_dim);
  for (uint32_t t = 0; t < tile.sinks; ++t) {
    const uint8_t* sink = side.sinks + t * (1 + tile.head_dim);
    DecodeRotated8(tile, sink[0], sink + 1, basis, channels.norm.data(), out.Row(t));
  }
  for (uint32_t t = tile.sinks; t < tile.tokens; ++t) {
    int16_t row[256];
    for (uint32_t d = 0; d < tile.head_dim; ++d) {
      const int32_t level = levels[CodeAt(tile, size_t{t} * tile.head_dim + d, bits)] * (1 << shift);
      row[d] = static_cast<int16_t>((level * channels.multiplier[d] + (1 << 14)) >> 15);
    }
    WriteRow(row, tile, basis, TokenFactor(tile, side.token_scales[t]), channels.norm.data(), channels.mean.data(), out.Row(t));
  }
}

void DecodeRaised8(const TileView& tile, Basis basis, const TileRows& out) {
  static constexpr auto kOnes = [] {
    std::array<float, 256> ones{};
    ones.fill(1.0f);
    return ones;
  }();
  const float* norm = basis == Basis::kOriginal ? RotationNorms(tile.head_dim).data() : kOnes.data();
  const uint8_t* codes = tile.side + tile.tokens;
  for (uint32_t t = 0; t < tile.tokens; ++t) {
    DecodeRotated8(tile, tile.side[t], codes + size_t{t} * tile.head_dim, basis, norm, out.Row(t));
  }
}

void DecodeI8(const TileView& tile, const TileRows& out) {
  for (uint32_t t = 0; t < tile.tokens; ++t) {
    const float scale = LogScale(tile.side[t]);
    const uint8_t* codes = tile.codes[0] + size_t{t} * tile.head_dim;
    for (uint32_t d = 0; d < tile.head_dim; ++d) {
      out.Row(t)[d] = RoundTo(tile.dtype, static_cast<float>(static_cast<int8_t>(codes[d])) * scale);
    }
  }
}

void DecodeRaw(const TileView& tile, const TileRows& out) {
  const size_t row_bytes = 2 * size_t{tile.head_dim};
  for (uint32_t t = 0; t < tile.tokens; ++t) std::memcpy(out.Row(t), tile.side + t * row_bytes, row_bytes);
}

}  // namespace

void DecodeTile(const TileView& tile, int bits, Basis basis, const TileRows& out) {
  if (tile.mode == TileMode::kRaw) return DecodeRaw(tile, out);
  if (tile.mode == TileMode::kRaised8) return DecodeRaised8(tile, basis, out);
  if (tile.codec == Codec::kI8) return DecodeI8(tile, out);
  DecodeLadder(tile, bits, basis, out);
}

}  // namespace kvist::reference
