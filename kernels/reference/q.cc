#include "kernels/reference/q.h"

#include <cmath>

#include "kernels/half.h"
#include "kernels/q/coefficients.h"

namespace kvist::reference {

namespace {

absl::Status ReadLayer(const HeadGroup& group, uint32_t layer, size_t tokens, absl::Span<const uint8_t> stream,
                       LayerRows& out) {
  const size_t width = group.facts().Width();
  for (SparseRows& rows : out) rows.Reset(tokens, width);
  const absl::StatusOr<LayerCoefficients> layer_coefficients = ReadCoefficients(group, layer, tokens, stream);
  if (!layer_coefficients.ok()) return layer_coefficients.status();
  for (size_t kv : kSideOrder) {
    const SideCoefficients& coefficients = (*layer_coefficients)[kv];
    const size_t coded_rows = group.layer(layer).sides[kv].coded_rows;
    for (size_t t = 0; t < tokens; ++t) {
      const float step = StepSize(group.facts().step, coefficients.steps[t]);
      for (size_t c = 0; c < coded_rows; ++c) {
        const int32_t q = coefficients.q[t * coded_rows + c];
        if (q != 0) out[kv].Append(t, c, float(q) * step);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadRows(const HeadGroup& group, uint32_t first_layer, size_t tokens,
                      absl::Span<const absl::Span<const uint8_t>> streams, absl::Span<LayerRows> out) {
  for (size_t i = 0; i < streams.size(); ++i) {
    absl::Status status = ReadLayer(group, first_layer + uint32_t(i), tokens, streams[i], out[i]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void AddRows(const SparseRows& rows, const float* matrix, float* sums) {
  for (size_t t = 0; t < rows.counts.size(); ++t) {
    for (size_t i = t * rows.width; i < t * rows.width + rows.counts[t]; ++i) {
      const float* row = matrix + rows.offsets[i];
      for (size_t j = 0; j < rows.width; ++j) {
        sums[t * rows.width + j] = std::fma(rows.factors[i], row[j], sums[t * rows.width + j]);
      }
    }
  }
}

void Predict(const HeadGroup::Side& side, size_t tokens, absl::Span<const SideValues* const> sources, SideValues& out) {
  const size_t width = side.mean.size();
  out.rows.assign(tokens * width, 0.0f);
  for (size_t t = 0; t < tokens; ++t) {
    const float* row = side.predictor.data();
    for (const SideValues* source : sources) {
      for (size_t i = 0; i < width; ++i, row += width) {
        const float value = source->rows[t * width + i];
        if (value == 0) continue;
        for (size_t j = 0; j < width; ++j) out.rows[t * width + j] = std::fma(value, row[j], out.rows[t * width + j]);
      }
    }
  }
}

void PrepareSource(size_t, size_t, SideValues&) {}

void WriteRows(const HeadRows& rows, const TileTarget& target) {
  const size_t pairs = rows.head_dim / 2;
  for (size_t t = rows.first; t < rows.last; ++t) {
    std::array<float, 256> row;
    for (size_t d = 0; d < rows.head_dim; ++d) row[d] = rows.centred[t * rows.width + d] + rows.mean[d];
    if (rows.rope != RopeStyle::kNone) {
      Turn(rows.rope, absl::MakeSpan(rows.angles.pairs).subspan(t * pairs, pairs),
           absl::MakeSpan(row).first(rows.head_dim));
    }
    uint16_t* out = target.base + t * target.token_stride;
    for (size_t d = 0; d < rows.head_dim; ++d) {
      out[d] = std::isnan(row[d]) ? uint16_t(0x7fff) : Narrow(row[d], rows.dtype);
    }
  }
}

const QFunctions& Q() {
  static constexpr QFunctions kFunctions = {&ReadRows, &AddRows, &Predict, &PrepareSource, &WriteRows};
  return kFunctions;
}

}  // namespace kvist::reference
