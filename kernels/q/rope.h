// Cosines and sines of rotary positions with the same bits on every machine: codec q codes keys as they are before the
// rotation, so that turning them back is part of its decoding (FORMAT.md, "q").
//
// Units   a turn is 2^64: phase = position * turns, modulo 2^64, is exact at every position.
// Threads pure functions.
// Accuracy within one unit in the last place of binary32 before the factor.
// Why     cosf and sinf differ between libraries, and inv_freq * position in binary32 has lost four digits at position
//         100,000. Binary64 with additions and multiplications apart is the same everywhere, and needs no table.
#ifndef KVIST_KERNELS_Q_ROPE_H_
#define KVIST_KERNELS_Q_ROPE_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace kvist {

// Which channels of a head turn together: i and i + head_dim / 2, or 2i and 2i + 1.
enum class RopeStyle : uint8_t { kNone = 0, kHalves = 1, kInterleaved = 2 };

struct CosSin {
  float cos = 1, sin = 0;
};

// Of the angle position * turns / 2^64 turns, both times `factor` (1, or YaRN's attention factor).
CosSin CosSinAt(uint32_t position, uint64_t turns, float factor);

struct RopePair {
  size_t first = 0, second = 0;  // channels of a head
};
constexpr RopePair RopePairAt(RopeStyle style, size_t pair, size_t head_dim) {
  return style == RopeStyle::kInterleaved ? RopePair{2 * pair, 2 * pair + 1} : RopePair{pair, pair + head_dim / 2};
}

// Turns one head's row in place; `angles` holds one entry a pair. `Unturn` is the inverse up to rounding: encoders only.
void Turn(RopeStyle style, absl::Span<const CosSin> angles, absl::Span<float> row);
void Unturn(RopeStyle style, absl::Span<const CosSin> angles, absl::Span<float> row);

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_ROPE_H_
