#include "kernels/reference/decode_tile.h"

#include <array>
#include <cstring>
#include <type_traits>

#include "kernels/half.h"
#include "kernels/reference/x16.h"
#include "kernels/tables.h"
#include "kernels/trellis.h"

namespace kvist::reference {
namespace {

constexpr size_t kMaxHeadDim = 256;
template <typename T>
using Row = std::array<T, kMaxHeadDim>;

// Walsh-Hadamard transform in natural order, in integers: exact, so the order of the butterflies does not matter.
// Unsigned arithmetic makes wrapping defined: codes that no encoder writes still decode alike everywhere.
template <typename Unsigned>
void Transform(Unsigned* row, size_t length) {
  for (size_t half = 1; half < length; half *= 2) {
    for (size_t i = 0; i < length; ++i) {
      if ((i & half) != 0) continue;
      const Unsigned a = row[i], b = row[i + half];
      row[i] = Unsigned(a + b);
      row[i + half] = Unsigned(a - b);
    }
  }
}

template <typename Unsigned>
void TransformRow(Unsigned* row, uint32_t head_dim) {
  const RotationBlocks split = BlocksOf(head_dim);
  for (int b = 0; b < split.count; ++b) Transform(row + split.blocks[b].first, split.blocks[b].length);
}

// N[d]: the channel's sign over the square root of its WHT block's length.
Row<float> Norms(uint32_t head_dim) {
  Row<float> norms{};
  const RotationBlocks split = BlocksOf(head_dim);
  for (int b = 0; b < split.count; ++b) {
    const RotationBlock& block = split.blocks[b];
    for (size_t d = block.first; d < block.first + block.length; ++d) norms[d] = SignOf(d) * block.Norm();
  }
  return norms;
}

// Code of channel `d` in a row of a plane that holds `bits` bits a code.
uint32_t PlaneCode(const uint8_t* row, uint32_t head_dim, int bits, size_t d) {
  const size_t first = d / kStrip * kStrip, length = head_dim - first < kStrip ? head_dim - first : kStrip;
  const size_t i = d - first, position = i < length / 2 ? 2 * i : 2 * (i - length / 2) + 1;
  const size_t run = length * bits / 8;  // bytes of the strip; each holds 8 / bits positions, `run` apart
  const uint8_t byte = row[first * bits / 8 + position % run];
  return (byte >> (position / run * bits)) & ((1u << bits) - 1);
}

class LadderDecoder {
 public:
  LadderDecoder(const DecodeParameters& parameters, const TileBytes& tile)
      : parameters_(parameters), tile_(tile), head_dim_(parameters.head_dim), norms_(Norms(head_dim_)) {
    for (size_t d = 0; tile.channel_scales != nullptr && d < head_dim_; ++d) {
      multipliers_[d] = ChannelMultiplier(tile.channel_scales[d], head_dim_);
    }
    if (tile.mean_codes != nullptr) ReadMean();
  }

  void Decode(const TileTarget& target) const {
    const bool own = tile_.mode == TileMode::kOwn;
    const size_t wide = own ? parameters_.sinks : parameters_.tokens;
    for (size_t t = 0; t < parameters_.tokens; ++t) {
      uint16_t* out = target.base + t * target.token_stride;
      t < wide ? DecodeWide(t, out) : DecodeOwn(t - wide, out);
    }
  }

 private:
  void ReadMean() {
    const float scale = LogScale(tile_.mean_scale) * MultiplierScale(head_dim_);
    Row<uint32_t> sums{};
    for (size_t d = 0; d < head_dim_; ++d) sums[d] = uint32_t(int8_t(tile_.mean_codes[d]) * multipliers_[d]);
    const bool rotate = parameters_.basis == Basis::kOriginal;
    if (rotate) TransformRow(sums.data(), head_dim_);
    for (size_t d = 0; d < head_dim_; ++d) {
      const float sum = float(int32_t(sums[d]));
      means_[d] = rotate ? (sum * norms_[d]) * scale : sum * scale;
    }
  }

  void DecodeWide(size_t t, uint16_t* out) const {
    const uint8_t* bytes = tile_.wide_rows + t * (1 + head_dim_);
    Row<uint16_t> v;
    for (size_t d = 0; d < head_dim_; ++d) v[d] = uint16_t(int8_t(bytes[1 + d]));
    Finish(v, LogScale(bytes[0]), Row<float>{}, out);
  }

  uint32_t Code4(size_t row, size_t d) const {
    uint32_t code = PlaneCode(tile_.planes[0] + row * head_dim_ / 4, head_dim_, 2, d) << 2;
    if (parameters_.precision >= 3) code |= PlaneCode(tile_.planes[1] + row * head_dim_ / 8, head_dim_, 1, d) << 1;
    if (parameters_.precision >= 4) code |= PlaneCode(tile_.planes[2] + row * head_dim_ / 8, head_dim_, 1, d);
    return code;
  }

  void DecodeOwn(size_t row, uint16_t* out) const {
    if (parameters_.codec == Codec::kTrellis) return DecodeOwnTrellis(row, out);
    if (parameters_.precision == 8) return DecodeOwn8(row, out);
    const int8_t* levels = LevelsOf(parameters_.precision);
    Row<uint16_t> v;
    for (size_t d = 0; d < head_dim_; ++d) v[d] = uint16_t((levels[Code4(row, d)] * multipliers_[d] + 64) >> 7);
    Finish(v, LogScale(tile_.token_scales[row]) * (kLevelUnit * HeadroomScale(head_dim_)), means_, out);
  }

  void DecodeOwn8(size_t row, uint16_t* out) const {
    Row<uint32_t> v;
    for (size_t d = 0; d < head_dim_; ++d) {
      const uint32_t code = Code4(row, d) << 4 | PlaneCode(tile_.planes[3] + row * head_dim_ / 2, head_dim_, 4, d);
      v[d] = uint32_t((Level8(uint8_t(code)) * ChannelMultiplier8(tile_.channel_scales[d], head_dim_) + 16384) >> 15);
    }
    Finish(v, LogScale(tile_.token_scales[row]) * kLevelUnit8, means_, out);
  }

  // The state that a channel's code in `row` makes: with those of the rows before it, which are the tile's last ones
  // before row 0.
  uint32_t State(size_t row, size_t d) const {
    const int bits = parameters_.precision;
    const size_t rows = parameters_.tokens - parameters_.sinks;
    uint32_t state = 0;
    for (size_t back = 6 / bits; back-- > 0;) {
      const size_t at = (row + rows - back) % rows;
      uint32_t code = PlaneCode(tile_.planes[0] + at * head_dim_ / 4, head_dim_, 2, d);
      if (bits == 3) code = code << 1 | PlaneCode(tile_.planes[1] + at * head_dim_ / 8, head_dim_, 1, d);
      state = NextState(state, code, bits);
    }
    return state;
  }

  void DecodeOwnTrellis(size_t row, uint16_t* out) const {
    const int bits = parameters_.precision;
    Row<uint16_t> v;
    for (size_t d = 0; d < head_dim_; ++d) {
      v[d] = uint16_t((TrellisLevels(bits)[State(row, d)] * multipliers_[d] + 64) >> 7);
    }
    const float unit = TrellisUnitOf(bits, tile_.mean_codes != nullptr) * HeadroomScale(head_dim_);
    Finish(v, LogScale(tile_.token_scales[row]) * unit, means_, out);
  }

  template <typename Unsigned>
  void Finish(Row<Unsigned> v, float scale, const Row<float>& means, uint16_t* out) const {
    const bool rotate = parameters_.basis == Basis::kOriginal;
    if (rotate) TransformRow(v.data(), head_dim_);
    for (size_t d = 0; d < head_dim_; ++d) {
      float value = float(std::make_signed_t<Unsigned>(v[d]));
      if (rotate) value = value * norms_[d];
      value = value * scale;
      out[d] = Narrow(value + means[d], parameters_.dtype);
    }
  }

  const DecodeParameters& parameters_;
  const TileBytes& tile_;
  const uint32_t head_dim_;
  const Row<float> norms_;
  Row<int16_t> multipliers_{};
  Row<float> means_{};
};

void DecodeI8(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  for (size_t t = 0; t < parameters.tokens; ++t) {
    const float scale = LogScale(tile.token_scales[t]);
    for (size_t d = 0; d < parameters.head_dim; ++d) {
      const float code = int8_t(tile.planes[0][t * parameters.head_dim + d]);
      target.base[t * target.token_stride + d] = Narrow(code * scale, parameters.dtype);
    }
  }
}

}  // namespace

void DecodeTile(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  if (tile.mode == TileMode::kRaw16) {
    const size_t row_bytes = 2 * size_t{parameters.head_dim};
    for (size_t t = 0; t < parameters.tokens; ++t) {
      std::memcpy(target.base + t * target.token_stride, tile.values + t * row_bytes, row_bytes);
    }
  } else if (parameters.codec == Codec::kX16) {
    DecodeX16(parameters, tile, target);
  } else if (parameters.codec == Codec::kI8) {
    DecodeI8(parameters, tile, target);
  } else {
    LadderDecoder(parameters, tile).Decode(target);
  }
}

}  // namespace kvist::reference
