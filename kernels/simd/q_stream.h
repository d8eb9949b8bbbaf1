// Codec q's stream with vectors: the same rows as reference/q.h, and the same word of a wrong stream. Internal to kernels.
#ifndef KVIST_KERNELS_SIMD_Q_STREAM_H_
#define KVIST_KERNELS_SIMD_Q_STREAM_H_

#include "kernels/q/reconstruct.h"

namespace kvist::simd {

// Of QFunctions.
absl::Status ReadRows(const HeadGroup& group, uint32_t first_layer, size_t tokens,
                      absl::Span<const absl::Span<const uint8_t>> streams, absl::Span<LayerRows> out);

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_Q_STREAM_H_
