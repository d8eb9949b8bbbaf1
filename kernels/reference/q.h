// The scalar oracle of codec q's arithmetic: all else of its decoding is integers, or shared (q/reconstruct.h).
#ifndef KVIST_KERNELS_REFERENCE_Q_H_
#define KVIST_KERNELS_REFERENCE_Q_H_

#include "absl/types/span.h"

namespace kvist::reference {

// An AddProductFunction.
void AddProduct(absl::Span<const float> factors, const float* matrix, absl::Span<float> sums);

}  // namespace kvist::reference

#endif  // KVIST_KERNELS_REFERENCE_Q_H_
