#include "kernels/reference/q.h"

#include <cmath>

namespace kvist::reference {

void AddProduct(absl::Span<const float> factors, const float* matrix, absl::Span<float> sums) {
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] == 0) continue;
    for (size_t j = 0; j < sums.size(); ++j) sums[j] = std::fma(factors[i], matrix[i * sums.size() + j], sums[j]);
  }
}

}  // namespace kvist::reference
