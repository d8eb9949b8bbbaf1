#include "kernels/encode_tile.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/block_writer.h"
#include "kernels/simd/encode_loops.h"

namespace kvist {
namespace {

constexpr int kBalancePasses = 8;
constexpr float kTiny = 1e-30f;

// The log scale nearest to a value.
uint8_t NearestScale(float value, int most = 255) {
  return static_cast<uint8_t>(std::clamp(static_cast<int>(std::lround(8 * std::log2(std::max(value, kTiny)))) + 128, 0, most));
}

// The least log scale by which 127 reaches `max_abs`; 255 if none does (the error is then found and the tile raised).
uint8_t CoveringScale(float max_abs) {
  int u = std::max(0, NearestScale(max_abs / 127) - 1);
  while (u < 255 && 127 * LogScale(static_cast<uint8_t>(u)) < max_abs) ++u;
  return static_cast<uint8_t>(u);
}

float ToDb(double signal, double noise) {
  if (noise == 0) return kExactDb;
  return signal == 0 ? 0.0f : static_cast<float>(10 * std::log10(signal / noise));
}

}  // namespace

TileEncoder::TileEncoder(Codec codec, const BlockShape& shape, uint32_t first_position, float floor_db, DecodeTileFunction decode)
    : codec_(codec), shape_(shape), sinks_(SinksOf(codec, first_position)), floor_db_(floor_db), decode_(decode),
      plain_(elements()), rotated_(elements()), statistics_(elements()), squares_(elements()), cells_(elements()), decoded_(elements()) {}

void TileEncoder::Encode(const SourceRows& source, bool is_key, EncodedTile* out) {
  if (codec_ == Codec::kRaw16 || !Widen(source)) return EncodeRaw(source, out);
  if (codec_ == Codec::kLadder) {
    Rotate();
    EncodeLadder(is_key, out);
    out->sqnr_db = MeasureSqnr(is_key, *out);
    if (out->sqnr_db >= floor_db_) return;
    EncodeRaised8(out);
  } else {
    EncodeI8(out);
  }
  out->sqnr_db = MeasureSqnr(is_key, *out);
  if (out->sqnr_db < floor_db_) EncodeRaw(source, out);
}

bool TileEncoder::Widen(const SourceRows& source) {
  for (uint32_t t = 0; t < shape_.tokens; ++t) {
    if (!simd::WidenRow(shape_.dtype, source.Row(t), shape_.head_dim, plain_.data() + size_t{t} * shape_.head_dim)) return false;
  }
  return true;
}

void TileEncoder::Rotate() {
  rotated_ = plain_;
  for (uint32_t t = 0; t < shape_.tokens; ++t) simd::RotateRow(rotated_.data() + size_t{t} * shape_.head_dim, shape_.head_dim);
}

void TileEncoder::EncodeRaw(const SourceRows& source, EncodedTile* out) {
  const size_t row_bytes = 2 * size_t{shape_.head_dim};
  out->mode = codec_ == Codec::kRaw16 ? TileMode::kCodes : TileMode::kRaw;
  out->sqnr_db = kExactDb;
  out->side.resize(2 * elements());
  for (auto& codes : out->codes) codes.clear();
  for (uint32_t t = 0; t < shape_.tokens; ++t) std::memcpy(out->side.data() + t * row_bytes, source.Row(t), row_bytes);
}

void TileEncoder::EncodeI8(EncodedTile* out) {
  out->mode = TileMode::kCodes;
  out->side.resize(shape_.tokens);
  out->codes[0].resize(elements());
  for (uint32_t t = 0; t < shape_.tokens; ++t) {
    const float* row = plain_.data() + size_t{t} * shape_.head_dim;
    out->side[t] = CoveringScale(simd::MaxAbs(row, shape_.head_dim));
    simd::Int8Row(row, 1 / LogScale(out->side[t]), shape_.head_dim,
                  reinterpret_cast<int8_t*>(out->codes[0].data()) + size_t{t} * shape_.head_dim);
  }
}

void TileEncoder::EncodeRaised8(EncodedTile* out) {
  out->mode = TileMode::kRaised8;
  out->side.resize(shape_.tokens + elements());
  for (auto& codes : out->codes) codes.clear();
  for (uint32_t t = 0; t < shape_.tokens; ++t) {
    const float* row = rotated_.data() + size_t{t} * shape_.head_dim;
    out->side[t] = CoveringScale(simd::MaxAbs(row, shape_.head_dim));
    simd::Int8Row(row, 1 / LogScale(out->side[t]), shape_.head_dim,
                  reinterpret_cast<int8_t*>(out->side.data()) + shape_.tokens + size_t{t} * shape_.head_dim);
  }
}

// Alternately makes the channels' and the tokens' mean squares equal, until y = channel * token * (about unit variance).
void TileEncoder::BalanceScales(const float* mean, std::vector<float>* channel, std::vector<float>* token) {
  const uint32_t tokens = shape_.tokens, head_dim = shape_.head_dim;
  simd::CentredSquares(statistics_.data(), mean, tokens, head_dim, squares_.data());
  std::vector<float> channel_weight(head_dim, 1.0f), token_weight(tokens, 1.0f);
  channel->resize(head_dim);
  token->resize(tokens);
  for (int pass = 0; pass < kBalancePasses; ++pass) {
    simd::WeightedChannelMeans(squares_.data(), token_weight.data(), tokens, head_dim, channel->data());
    for (uint32_t d = 0; d < head_dim; ++d) channel_weight[d] = 1 / std::max((*channel)[d], kTiny);
    simd::WeightedTokenMeans(squares_.data(), channel_weight.data(), tokens, head_dim, token->data());
    for (uint32_t t = 0; t < tokens; ++t) token_weight[t] = 1 / std::max((*token)[t], kTiny);
  }
  for (float& value : *channel) value = std::sqrt(value);
}

void TileEncoder::EncodeLadder(bool is_key, EncodedTile* out) {
  const uint32_t tokens = shape_.tokens, head_dim = shape_.head_dim;
  out->mode = TileMode::kCodes;
  out->side.assign(SideBytes(codec_, out->mode, is_key, tokens, head_dim, sinks_), 0);
  TileView view;
  view.codec = codec_;
  view.mode = out->mode;
  view.is_key = is_key;
  view.tokens = tokens;
  view.head_dim = head_dim;
  view.sinks = sinks_;
  view.side = out->side.data();
  const LadderSide parts = SplitLadderSide(view);
  // The parts as places to write to.
  const auto writable = [out](const uint8_t* part) { return out->side.data() + (part - out->side.data()); };

  // Sinks are far from the rest; the statistics see the tokens behind them in their place.
  statistics_ = rotated_;
  std::copy_n(rotated_.data() + sinks_ * head_dim, sinks_ * head_dim, statistics_.data());
  std::vector<float> mean(head_dim, 0.0f), channel, token;
  if (is_key) simd::ChannelMeans(statistics_.data(), tokens, head_dim, mean.data());
  BalanceScales(mean.data(), &channel, &token);

  // Channel scales, relative to the largest; then the mean in units of them; then the tokens', given both as stored.
  const float largest = std::max(*std::max_element(channel.begin(), channel.end()), kTiny);
  std::vector<float> inverse_channel(head_dim), multiplier(head_dim);
  for (uint32_t d = 0; d < head_dim; ++d) {
    const uint8_t scale = NearestScale(channel[d] / largest, kMaxChannelScale);
    writable(parts.channel_scales)[d] = scale;
    multiplier[d] = std::max<int16_t>(ChannelMultiplier(scale), 1) * 0x1p-15f;
    inverse_channel[d] = 1 / multiplier[d];
  }
  if (is_key) {
    float reach = 0;
    for (uint32_t d = 0; d < head_dim; ++d) reach = std::max(reach, std::fabs(mean[d]) * inverse_channel[d]);
    const uint8_t scale = CoveringScale(reach);
    *writable(parts.mean_scale) = scale;
    for (uint32_t d = 0; d < head_dim; ++d) {
      const float code = std::clamp(std::nearbyint(mean[d] * inverse_channel[d] / LogScale(scale)), -127.0f, 127.0f);
      writable(parts.mean_codes)[d] = static_cast<uint8_t>(static_cast<int8_t>(code));
      mean[d] = code * multiplier[d] * LogScale(scale);
    }
  }
  simd::CentredSquares(statistics_.data(), mean.data(), tokens, head_dim, squares_.data());
  std::vector<float> weight(head_dim);
  for (uint32_t d = 0; d < head_dim; ++d) weight[d] = inverse_channel[d] * inverse_channel[d];
  simd::WeightedTokenMeans(squares_.data(), weight.data(), tokens, head_dim, token.data());
  for (uint32_t t = 0; t < tokens; ++t) {
    const uint8_t scale = NearestScale(std::sqrt(token[t]));
    writable(parts.token_scales)[t] = scale;
    simd::CellsOfRow(statistics_.data() + size_t{t} * head_dim, mean.data(), inverse_channel.data(), 1 / LogScale(scale), head_dim,
                     cells_.data() + size_t{t} * head_dim);
  }
  for (int plane = 1; plane <= 3; ++plane) out->codes[plane - 1].resize(CodeBytes(codec_, plane, tokens, head_dim));
  for (size_t strip = 0; strip < elements() / kStrip; ++strip) {
    simd::PackStrip(cells_.data() + strip * kStrip, out->codes[0].data() + strip * 64, out->codes[1].data() + strip * 32,
                    out->codes[2].data() + strip * 32);
  }
  for (uint32_t t = 0; t < sinks_; ++t) {
    uint8_t* sink = writable(parts.sinks) + t * (1 + head_dim);
    const float* row = rotated_.data() + size_t{t} * head_dim;
    sink[0] = CoveringScale(simd::MaxAbs(row, head_dim));
    simd::Int8Row(row, 1 / LogScale(sink[0]), head_dim, reinterpret_cast<int8_t*>(sink + 1));
  }
}

float TileEncoder::MeasureSqnr(bool is_key, const EncodedTile& tile) {
  TileView view;
  view.codec = codec_;
  view.mode = tile.mode;
  view.is_key = is_key;
  view.tokens = shape_.tokens;
  view.head_dim = shape_.head_dim;
  view.sinks = sinks_;
  view.dtype = shape_.dtype;
  view.side = tile.side.data();
  for (size_t plane = 0; plane < tile.codes.size(); ++plane) view.codes[plane] = tile.codes[plane].data();
  decode_(view, 4, Basis::kOriginal, {decoded_.data(), shape_.head_dim});
  double signal = 0, noise = 0;
  std::vector<float> row(shape_.head_dim);
  for (uint32_t t = 0; t < shape_.tokens; ++t) {
    const uint16_t* decoded = decoded_.data() + size_t{t} * shape_.head_dim;
    if (!simd::WidenRow(shape_.dtype, decoded, shape_.head_dim, row.data())) return 0;  // it overflowed to infinity
    simd::AddErrors(plain_.data() + size_t{t} * shape_.head_dim, row.data(), shape_.head_dim, &signal, &noise);
  }
  return ToDb(signal, noise);
}

}  // namespace kvist
