// The constants of FORMAT.md ("Log scales", "Rotation", "Levels") as code. Every float is given by its bits or is an
// exact power of two times such a one, so that no compiler and no library can change it.
//
// Threads constants and pure functions.
#ifndef KVIST_KERNELS_TABLES_H_
#define KVIST_KERNELS_TABLES_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace kvist {

// s(u) = 2^((u - 128) / 8), 2^-16 to 2^15.875: a mantissa (2^(i/8), nearest f32) and an exponent, no arithmetic.
// Tables that functions look into are inside them: device code sees no constant array of the host.
constexpr float LogScale(uint8_t u) {
  constexpr uint32_t kMantissas[8] = {0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7,
                                      0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7};
  const int exponent = u / 8 - 16;
  return std::bit_cast<float>(kMantissas[u % 8] + (uint32_t(exponent) << 23));
}

// The same as a table.
inline constexpr std::array<float, 256> kLogScales = [] {
  std::array<float, 256> scales{};
  for (int u = 0; u < 256; ++u) scales[u] = LogScale(uint8_t(u));
  return scales;
}();

// A WHT block: its length and 1/sqrt(length).
struct RotationBlock {
  uint32_t first = 0, length = 0;
  constexpr float Norm() const {
    if (length == 16) return 0.25f;
    if (length == 32) return std::bit_cast<float>(0x3e3504f3u);
    if (length == 64) return 0.125f;
    return length == 128 ? std::bit_cast<float>(0x3db504f3u) : 0.0625f;
  }
};

// head_dim as powers of two, largest first: 80 = 64 + 16, 96 = 64 + 32, the others are one block.
struct RotationBlocks {
  std::array<RotationBlock, 2> blocks;
  int count;
};
constexpr RotationBlocks BlocksOf(uint32_t head_dim) {
  if (head_dim == 80 || head_dim == 96) return {{{{0, 64}, {64, head_dim - 64}}}, 2};
  return {{{{0, head_dim}, {}}}, 1};
}

// Codes are packed in strips of 64 channels; what is left (16 or 32) is a strip of its own.
inline constexpr uint32_t kStrip = 64;

// SHA-256("kvist.rotation.v1"): channel d is negated if bit d (byte d / 8, bit d % 8) is set.
constexpr float SignOf(size_t channel) {
  constexpr uint8_t kSignBits[32] = {0x22, 0x78, 0xa0, 0x22, 0x8a, 0x26, 0x39, 0xaa, 0x38, 0x2b, 0x8c,
                                     0x51, 0xef, 0x7d, 0x35, 0x8b, 0xdc, 0xa4, 0xae, 0x27, 0xce, 0xc7,
                                     0xc9, 0x8b, 0x37, 0x20, 0xd0, 0x98, 0x1b, 0x1e, 0xa7, 0x43};
  return (kSignBits[channel / 8] >> (channel % 8)) & 1 ? -1.0f : 1.0f;
}

// Levels by the index of the 4-bit code; at 3 and 2 bits the codes that share their leading bits share a level.
inline constexpr int8_t kLevels4[16] = {-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127};
inline constexpr int8_t kLevels3[16] = {-107, -107, -67, -67, -38, -38, -12, -12, 12, 12, 38, 38, 67, 67, 107, 107};
inline constexpr int8_t kLevels2[16] = {-84, -84, -84, -84, -26, -26, -26, -26, 26, 26, 26, 26, 84, 84, 84, 84};
// At 8 bits a level is 256 * base + step * part; base and step by the upper 4 bits of the code, part by the lower 4: 16 * i
// + 8, but kOuterParts in the two outermost cells.
inline constexpr int8_t kBases8[16] = {-128, -64, -49, -38, -29, -21, -14, -7, 0, 7, 14, 21, 29, 38, 49, 64};
inline constexpr int8_t kSteps8[16] = {64, 15, 11, 9, 8, 7, 7, 7, 7, 7, 7, 8, 9, 11, 15, 64};
inline constexpr uint8_t kOuterParts[16] = {3, 9, 16, 23, 30, 38, 47, 56, 66, 77, 90, 105, 122, 143, 172, 217};
constexpr int16_t Level8(uint8_t code) {
  const int cell = code >> 4, i = code & 15;
  const int part = cell == 15 ? kOuterParts[i] : cell == 0 ? 256 - kOuterParts[15 - i] : 16 * i + 8;
  return int16_t(256 * kBases8[cell] + kSteps8[cell] * part);
}

constexpr const int8_t* LevelsOf(int precision) {
  if (precision == 4) return kLevels4;
  return precision == 3 ? kLevels3 : kLevels2;
}

// Value of one level step: 2.7325896 / (1 - 0.0095010) / 127, the largest Lloyd-Max level with its unbiased gain.
inline constexpr float kLevelUnit = std::bit_cast<float>(0x3cb1f41au);

// The same at 8 bits, where v is a quarter of a level: 0.03774 / 64.
inline constexpr float kLevelUnit8 = std::bit_cast<float>(0x3a1a9542u);

// Where 4-bit codes change on the axis of N(0, 1): kBases8 in steps of 64 * kLevelUnit8. The negative thresholds mirror
// these, and zero is the eighth.
inline constexpr float kThresholds[7] = {0.26418f, 0.52836f, 0.79254f, 1.09446f, 1.43412f, 1.84926f, 2.41536f};

// Largest relative channel scale, s(128) = 1.
inline constexpr uint8_t kMaxChannelScale = 128;

// How much room int16 leaves above a level: the sum of a WHT block's magnitudes stays within 32767 (FORMAT.md, proof).
constexpr int HeadroomBits(uint32_t head_dim) { return head_dim == 256 ? 0 : head_dim == 128 ? 1 : 2; }

// A = round(2^(7 + k) * s(u)): the integer multiplier of a channel.
constexpr int16_t ChannelMultiplier(uint8_t u, uint32_t head_dim) {
  return int16_t(LogScale(u) * float(128 << HeadroomBits(head_dim)) + 0.5f);
}

// The same in a quarter of the unit of 8-bit levels: |level * H| <= 2^15 * 2^13, and the product's upper bits are v.
constexpr int16_t ChannelMultiplier8(uint8_t u, uint32_t head_dim) {
  return int16_t(ChannelMultiplier(u, head_dim) << (6 - HeadroomBits(head_dim)));
}

// Exact power of two that undoes HeadroomBits, and the one that undoes a channel multiplier.
constexpr float HeadroomScale(uint32_t head_dim) { return 1.0f / float(1 << HeadroomBits(head_dim)); }
constexpr float MultiplierScale(uint32_t head_dim) { return 1.0f / float(128 << HeadroomBits(head_dim)); }

}  // namespace kvist

#endif  // KVIST_KERNELS_TABLES_H_
