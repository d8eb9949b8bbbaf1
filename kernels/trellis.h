// The trellis code's constants: FORMAT.md, "Trellis". A code's level depends on the codes of the tokens before it, so that
// 64 levels are chosen among with 3 or 2 bits.
//
// Units   a level is a multiple of a unit, by bits and by K or V: the units of decoding carry an unbiased gain.
// Threads constants and pure functions.
#ifndef KVIST_KERNELS_TRELLIS_H_
#define KVIST_KERNELS_TRELLIS_H_

#include <bit>
#include <cstdint>

namespace kvist {

inline constexpr uint32_t kTrellisStates = 64;

// By state: the last 6 bits of codes of a channel, the token's own lowest.
inline constexpr int8_t kTrellisLevels3[kTrellisStates] = {
    -3, -92, 12, -55, 28, -35, 50, -19, 56, -18, 103,  2,  -74, 18, -46, 34, -36, 39, -19, 71, -5, 127,
    13, -71, 13, -56, 29, -32, 47, -17, 81, -3,  -126, 0,  -61, 20, -45, 37, -24, 57, -19, 66, -4, -102,
    11, -70, 30, -41, 31, -35, 51, -15, 79, 0,   -83,  14, -57, 18, -38, 40, -23, 63, -5,  93};
inline constexpr int8_t kTrellisLevels2[kTrellisStates] = {
    -4,  78,  -44, 32,  -90, 3,   46,   -34, 13,  -78, -22,  54,  -59, 23,  84,  -14, 34,  -47, -4,  92, -32, 41,
    -88, 4,   54,  -24, 14,  -75, -14,  71,  -54, 22,  -126, -5,  37,  -43, 3,   105, -33, 42,  -70, 15, 59,  -22,
    21,  -57, -13, 68,  -40, 31,  -106, -2,  45,  -36, 5,    127, -20, 59,  -63, 15,  76,  -14, 25,  -57};
constexpr const int8_t* TrellisLevels(int bits) { return bits == 3 ? kTrellisLevels3 : kTrellisLevels2; }

// The next state of a channel.
constexpr uint32_t NextState(uint32_t state, uint32_t code, int bits) {
  return ((state << bits) | code) & (kTrellisStates - 1);
}

// The unit with the least error, for the encoder's choices.
constexpr float TrellisUnit(int bits) { return std::bit_cast<float>(bits == 3 ? 0x3cba44a9u : 0x3ca56bbdu); }

// The unit with the gain. Values are averaged by attention and need all of it; keys half of it.
constexpr float TrellisUnitOf(int bits, bool is_key) {
  if (bits == 3) return std::bit_cast<float>(is_key ? 0x3cbc59abu : 0x3cbe6eadu);
  return std::bit_cast<float>(is_key ? 0x3cac8334u : 0x3cb39aabu);
}

}  // namespace kvist

#endif  // KVIST_KERNELS_TRELLIS_H_
