#include "kernels/reference/q.h"

#include <cmath>

namespace kvist::reference {

void AddScaled(float factor, const float* row, size_t count, float* sums) {
  for (size_t i = 0; i < count; ++i) sums[i] = std::fma(factor, row[i], sums[i]);
}

}  // namespace kvist::reference
