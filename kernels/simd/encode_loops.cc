#include "kernels/simd/encode_loops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/encode_loops.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

// Plain loops over contiguous floats: the compiler vectorizes them for each target (-O3, see BUILD).
HWY_BEFORE_NAMESPACE();
namespace kvist::simd {
namespace HWY_NAMESPACE {

constexpr size_t kPartials = 16;

bool WidenRow(Dtype dtype, const uint16_t* HWY_RESTRICT bits, size_t n, float* HWY_RESTRICT out) {
  const uint16_t exponent = dtype == Dtype::kBf16 ? 0x7f80 : 0x7c00;
  uint16_t special = 0;
  for (size_t i = 0; i < n; ++i) special |= (bits[i] & exponent) == exponent;
  if (special) return false;
  if (dtype == Dtype::kBf16) {
    for (size_t i = 0; i < n; ++i) {
      const uint32_t wide = uint32_t{bits[i]} << 16;
      std::memcpy(out + i, &wide, sizeof(wide));
    }
  } else {
    for (size_t i = 0; i < n; ++i) out[i] = Widen(dtype, bits[i]);
  }
  return true;
}

void Butterflies(float* HWY_RESTRICT row, size_t size) {
  for (size_t h = 1; h < size; h *= 2) {
    for (size_t i = 0; i < size; i += 2 * h) {
      for (size_t j = i; j < i + h; ++j) {
        const float a = row[j], b = row[j + h];
        row[j] = a + b;
        row[j + h] = a - b;
      }
    }
  }
}

void RotateRow(float* HWY_RESTRICT row, size_t head_dim) {
  const float* HWY_RESTRICT norms = RotationNorms(static_cast<uint32_t>(head_dim)).data();
  for (size_t d = 0; d < head_dim; ++d) row[d] *= norms[d];
  size_t begin = 0;
  for (uint32_t block : BlocksOf(static_cast<uint32_t>(head_dim)).size) {
    Butterflies(row + begin, block);
    begin += block;
  }
}

void ChannelMeans(const float* HWY_RESTRICT tile, size_t tokens, size_t head_dim, float* HWY_RESTRICT out) {
  std::fill(out, out + head_dim, 0.0f);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t d = 0; d < head_dim; ++d) out[d] += tile[t * head_dim + d];
  }
  for (size_t d = 0; d < head_dim; ++d) out[d] /= static_cast<float>(tokens);
}

void CentredSquares(const float* HWY_RESTRICT tile, const float* HWY_RESTRICT mean, size_t tokens, size_t head_dim,
                    float* HWY_RESTRICT squares) {
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t d = 0; d < head_dim; ++d) {
      const float centred = tile[t * head_dim + d] - mean[d];
      squares[t * head_dim + d] = centred * centred;
    }
  }
}

void WeightedChannelMeans(const float* HWY_RESTRICT squares, const float* HWY_RESTRICT weight, size_t tokens, size_t head_dim,
                          float* HWY_RESTRICT out) {
  std::fill(out, out + head_dim, 0.0f);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t d = 0; d < head_dim; ++d) out[d] += squares[t * head_dim + d] * weight[t];
  }
  for (size_t d = 0; d < head_dim; ++d) out[d] /= static_cast<float>(tokens);
}

void WeightedTokenMeans(const float* HWY_RESTRICT squares, const float* HWY_RESTRICT weight, size_t tokens, size_t head_dim,
                        float* HWY_RESTRICT out) {
  for (size_t t = 0; t < tokens; ++t) {
    float partial[kPartials] = {};
    const float* HWY_RESTRICT row = squares + t * head_dim;
    for (size_t d = 0; d < head_dim; d += kPartials) {
      for (size_t j = 0; j < kPartials; ++j) partial[j] += row[d + j] * weight[d + j];
    }
    float sum = 0;
    for (float p : partial) sum += p;
    out[t] = sum / static_cast<float>(head_dim);
  }
}

void CellsOfRow(const float* HWY_RESTRICT row, const float* HWY_RESTRICT mean, const float* HWY_RESTRICT inverse_channel,
                float inverse_token, size_t n, uint8_t* HWY_RESTRICT codes) {
  for (size_t d = 0; d < n; ++d) {
    const float z = (row[d] - mean[d]) * inverse_channel[d] * inverse_token;
    const float magnitude = std::fabs(z);
    int32_t above = 0;
    for (const float threshold : kThresholds) above += magnitude > threshold;
    codes[d] = static_cast<uint8_t>(z < 0 ? 7 - above : 8 + above);
  }
}

void Int8Row(const float* HWY_RESTRICT row, float inverse_scale, size_t n, int8_t* HWY_RESTRICT codes) {
  // Adding and taking away 1.5 * 2^23 rounds to nearest, ties to even; one operation each on every target.
  constexpr float kRounder = 12582912.0f;
  for (size_t d = 0; d < n; ++d) {
    const float clamped = std::min(127.0f, std::max(-127.0f, row[d] * inverse_scale));
    codes[d] = static_cast<int8_t>((clamped + kRounder) - kRounder);
  }
}

float MaxAbs(const float* HWY_RESTRICT row, size_t n) {
  float partial[kPartials] = {};
  for (size_t d = 0; d < n; d += kPartials) {
    for (size_t j = 0; j < kPartials; ++j) partial[j] = std::max(partial[j], std::fabs(row[d + j]));
  }
  return *std::max_element(partial, partial + kPartials);
}

void PackStrip(const uint8_t* HWY_RESTRICT codes, uint8_t* HWY_RESTRICT two, uint8_t* HWY_RESTRICT one, uint8_t* HWY_RESTRICT last) {
  for (size_t i = 0; i < 64; ++i) {
    two[i] = static_cast<uint8_t>(codes[i] >> 2 | codes[64 + i] >> 2 << 2 | codes[128 + i] >> 2 << 4 | codes[192 + i] >> 2 << 6);
  }
  for (size_t i = 0; i < 32; ++i) {
    uint8_t second = 0, third = 0;
    for (size_t j = 0; j < 8; ++j) {
      second = static_cast<uint8_t>(second | (codes[32 * j + i] >> 1 & 1) << j);
      third = static_cast<uint8_t>(third | (codes[32 * j + i] & 1) << j);
    }
    one[i] = second;
    last[i] = third;
  }
}

void AddErrors(const float* HWY_RESTRICT row, const float* HWY_RESTRICT decoded, size_t n, double* signal, double* noise) {
  float energy[kPartials] = {}, error[kPartials] = {};
  for (size_t d = 0; d < n; d += kPartials) {
    for (size_t j = 0; j < kPartials; ++j) {
      const float difference = row[d + j] - decoded[d + j];
      energy[j] += row[d + j] * row[d + j];
      error[j] += difference * difference;
    }
  }
  for (size_t j = 0; j < kPartials; ++j) {
    *signal += energy[j];
    *noise += error[j];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvist::simd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(WidenRow);
HWY_EXPORT(RotateRow);
HWY_EXPORT(ChannelMeans);
HWY_EXPORT(CentredSquares);
HWY_EXPORT(WeightedChannelMeans);
HWY_EXPORT(WeightedTokenMeans);
HWY_EXPORT(CellsOfRow);
HWY_EXPORT(Int8Row);
HWY_EXPORT(MaxAbs);
HWY_EXPORT(PackStrip);
HWY_EXPORT(AddErrors);

bool WidenRow(Dtype dtype, const uint16_t* bits, size_t n, float* out) { return HWY_DYNAMIC_DISPATCH(WidenRow)(dtype, bits, n, out); }
void RotateRow(float* row, size_t head_dim) { HWY_DYNAMIC_DISPATCH(RotateRow)(row, head_dim); }
void ChannelMeans(const float* tile, size_t tokens, size_t head_dim, float* out) {
  HWY_DYNAMIC_DISPATCH(ChannelMeans)(tile, tokens, head_dim, out);
}
void CentredSquares(const float* tile, const float* mean, size_t tokens, size_t head_dim, float* squares) {
  HWY_DYNAMIC_DISPATCH(CentredSquares)(tile, mean, tokens, head_dim, squares);
}
void WeightedChannelMeans(const float* squares, const float* weight, size_t tokens, size_t head_dim, float* out) {
  HWY_DYNAMIC_DISPATCH(WeightedChannelMeans)(squares, weight, tokens, head_dim, out);
}
void WeightedTokenMeans(const float* squares, const float* weight, size_t tokens, size_t head_dim, float* out) {
  HWY_DYNAMIC_DISPATCH(WeightedTokenMeans)(squares, weight, tokens, head_dim, out);
}
void CellsOfRow(const float* row, const float* mean, const float* inverse_channel, float inverse_token, size_t n, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(CellsOfRow)(row, mean, inverse_channel, inverse_token, n, codes);
}
void Int8Row(const float* row, float inverse_scale, size_t n, int8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Int8Row)(row, inverse_scale, n, codes);
}
float MaxAbs(const float* row, size_t n) { return HWY_DYNAMIC_DISPATCH(MaxAbs)(row, n); }
void PackStrip(const uint8_t* codes, uint8_t* two, uint8_t* one, uint8_t* last) {
  HWY_DYNAMIC_DISPATCH(PackStrip)(codes, two, one, last);
}
void AddErrors(const float* row, const float* decoded, size_t n, double* signal, double* noise) {
  HWY_DYNAMIC_DISPATCH(AddErrors)(row, decoded, n, signal, noise);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
