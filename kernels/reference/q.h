// The scalar oracle of codec q's arithmetic, to be read beside FORMAT.md ("q").
#ifndef KVIST_KERNELS_REFERENCE_Q_H_
#define KVIST_KERNELS_REFERENCE_Q_H_

#include "kernels/q/reconstruct.h"

namespace kvist::reference {

// QFunctions.
absl::Status ReadRows(const HeadGroup& group, uint32_t first_layer, size_t tokens,
                      absl::Span<const absl::Span<const uint8_t>> streams, absl::Span<LayerRows> out);
void AddRows(const SparseRows& rows, const float* matrix, float* sums);
void Predict(const HeadGroup::Side& side, size_t tokens, absl::Span<const SideValues* const> sources, SideValues& out);
void PrepareSource(size_t tokens, size_t width, SideValues& values);
void WriteRows(const HeadRows& rows, const TileTarget& target);

const QFunctions& Q();

}  // namespace kvist::reference

#endif  // KVIST_KERNELS_REFERENCE_Q_H_
