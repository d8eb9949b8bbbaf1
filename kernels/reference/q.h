// The scalar oracle of codec q's arithmetic: all else of its decoding is integers, or shared (q/reconstruct.h).
#ifndef KVIST_KERNELS_REFERENCE_Q_H_
#define KVIST_KERNELS_REFERENCE_Q_H_

#include <cstddef>

namespace kvist::reference {

// sums[j] = fma(factor, row[j], sums[j]), one rounding each.
void AddScaled(float factor, const float* row, size_t count, float* sums);

}  // namespace kvist::reference

#endif  // KVIST_KERNELS_REFERENCE_Q_H_
