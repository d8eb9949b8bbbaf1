// Rows of codec q that are kept beside the stream: u8 log scale, i8 code[head_dim] (FORMAT.md, "q"). The first token of a
// prompt, and tiles below their floor.
//
// Threads pure functions.
#ifndef KVIST_KERNELS_Q_PLAIN_ROW_H_
#define KVIST_KERNELS_Q_PLAIN_ROW_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/half.h"
#include "kernels/tables.h"

namespace kvist {

inline void ReadPlainRow(const uint8_t* record, size_t head_dim, Dtype dtype, uint16_t* out) {
  const float scale = LogScale(record[0]);
  for (size_t d = 0; d < head_dim; ++d) out[d] = Narrow(float(int8_t(record[1 + d])) * scale, dtype);
}

// Takes the least scale that reaches the largest value; beyond the last scale codes are clipped.
// REQUIRES: finite values.
inline void WritePlainRow(const uint16_t* values, size_t head_dim, Dtype dtype, uint8_t* record) {
  float largest = 0;
  for (size_t d = 0; d < head_dim; ++d) largest = std::max(largest, std::abs(Widen(values[d], dtype)));
  int scale = 0;
  while (scale < 255 && 127 * LogScale(uint8_t(scale)) < largest) ++scale;
  record[0] = uint8_t(scale);
  for (size_t d = 0; d < head_dim; ++d) {
    const float code = std::nearbyint(Widen(values[d], dtype) / LogScale(uint8_t(scale)));
    record[1 + d] = uint8_t(int8_t(std::clamp(code, -127.0f, 127.0f)));
  }
}

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_PLAIN_ROW_H_
