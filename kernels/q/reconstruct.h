// From coefficients to values, with the same bits on every machine (FORMAT.md, "q", "Reconstruction"). Readers and the
// closed loop of the encoder share it.
//
// Shapes  values [tokens][d] of each side, centred, before the rotation of keys. Of the two sides 0 is K and 1 is V.
// Threads pure functions.
// Accuracy bit-identical: each element has one chain of fused multiply-adds, in the order of the sources and rows.
// Why     All the arithmetic of decoding is a vector times a matrix onto a row of sums, but for the turning of keys. Columns
//         do not meet and tokens do not meet, so that any number of either may go side by side; of a sum's own terms
//         only those that are not zero are worth a step.
#ifndef KVIST_KERNELS_Q_RECONSTRUCT_H_
#define KVIST_KERNELS_Q_RECONSTRUCT_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/codec.h"
#include "kernels/q/head_group.h"
#include "kernels/tile.h"

namespace kvist {

using LayerValues = std::array<std::vector<float>, 2>;

// One side's values while its block is decoded. The last two are for predictions from it, and a target's own affair.
struct SideValues {
  AlignedFloats rows;     // [tokens][d]
  AlignedFloats columns;  // the same, with the tokens side by side
  bool ordinary = false;  // no value is so small or so large that a product with 0 or a sum of products could be lost
};
using DecodedLayer = std::array<SideValues, 2>;

// Each token's factors, in ascending order of the rows of the matrix that they stand for. Of those that are 0 none is there
// where the bits of the sums matter; where only their values do, and the matrix is finite, a 0 changes nothing.
struct SparseRows {
  size_t width = 0;
  std::vector<float> factors;     // [tokens][width], the first counts[t] of a row are there
  std::vector<uint32_t> offsets;  // [tokens][width]: row * width
  std::vector<uint32_t> counts;   // [tokens]

  // Empties all rows.
  void Reset(size_t tokens, size_t row_width) {
    width = row_width;
    factors.resize(tokens * width);
    offsets.resize(tokens * width);
    counts.assign(tokens, 0);
  }
  // REQUIRES: rows of a token in ascending order.
  void Append(size_t token, size_t row, float factor) {
    const size_t at = token * width + counts[token]++;
    factors[at] = factor;
    offsets[at] = uint32_t(row * width);
  }
  // Of rows from 0 on those whose q is not 0, as q * size. No branch depends on them. REQUIRES: the token has none yet.
  void AppendNonzero(size_t token, absl::Span<const int32_t> q, float size) {
    size_t next = token * width;
    for (size_t row = 0; row < q.size(); ++row) {
      factors[next] = float(q[row]) * size;
      offsets[next] = uint32_t(row * width);
      next += q[row] != 0;
    }
    counts[token] = uint32_t(next - token * width);
  }
  // REQUIRES: as Append.
  void AppendAll(size_t token, size_t first_row, absl::Span<const float> from) {
    const size_t at = token * width + counts[token];
    for (size_t i = 0; i < from.size(); ++i) {
      factors[at + i] = from[i];
      offsets[at + i] = uint32_t((first_row + i) * width);
    }
    counts[token] += uint32_t(from.size());
  }
};
using LayerRows = std::array<SparseRows, 2>;

// How the keys of a block are turned: for each pair of channels, and laid out as rows of a head.
struct Angles {
  std::vector<CosSin> pairs;    // [tokens][head_dim / 2]
  std::vector<float> cos, sin;  // [tokens][head_dim]; the sine of a pair's first channel is negative
};

// Some rows of one head as a page will hold them.
struct HeadRows {
  const float* mean;     // [head_dim]
  const float* centred;  // of token 0 of the block
  size_t width;          // from one token to the next
  RopeStyle rope;        // kNone for V
  const Angles& angles;
  size_t head_dim;
  Dtype dtype;
  size_t first, last;  // tokens
};

// What does the arithmetic.
struct QFunctions {
  // The streams of one layer or two neighbours as factors of their synthesis matrices. DataLoss says what is wrong with the
  // first bad one; never a read outside of them.
  absl::Status (*read_rows)(const HeadGroup& group, uint32_t first_layer, size_t tokens,
                            absl::Span<const absl::Span<const uint8_t>> streams, absl::Span<LayerRows> out);
  // For each token t and column j: sums[t][j] = fma(factor, matrix[row][j], sums[t][j]) for its factors in their order.
  void (*add_rows)(const SparseRows& rows, const float* matrix, float* sums);
  // out.rows: for each token and column j, from 0 on, the sum over all sources of fma(value, predictor[source][j], sum).
  void (*predict)(const HeadGroup::Side& side, size_t tokens, absl::Span<const SideValues* const> sources,
                  SideValues& out);
  // To be called once `values.rows` are final and may be a source.
  void (*prepare_source)(size_t tokens, size_t width, SideValues& values);
  // Mean added, keys turned, narrowed; NaN as 7fff.
  void (*write_rows)(const HeadRows& rows, const TileTarget& target);
};

// The decoded layers that may predict the next one, and room for it.
class History {
 public:
  explicit History(const ProfileFacts& facts) : facts_(facts), layers_(facts.layers_before + 1) {}
  // Where the values of the next layer go. What was there before are old values.
  DecodedLayer& Next() { return layers_.front(); }
  const DecodedLayer& Next() const { return layers_.front(); }
  // Makes the next layer, now decoded, the newest of those before.
  void Push() { std::rotate(layers_.begin(), layers_.end() - 1, layers_.end()); }
  // The sources of one side of `layer`, the next one, in FORMAT.md's order. REQUIRES: layers come in order, from a reset on.
  std::vector<const SideValues*> Sources(uint32_t layer, size_t kv) const;

 private:
  const ProfileFacts& facts_;
  std::vector<DecodedLayer> layers_;  // the next one, then from the newest to the oldest
};

// One side of the next layer, in history.Next(): first what is predicted, then with what its factors add to it.
// REQUIRES: V before K.
void PredictSide(const HeadGroup& group, uint32_t layer, size_t kv, size_t tokens, const QFunctions& functions,
                 History& history);
void AddFactors(const HeadGroup& group, uint32_t layer, size_t kv, const SparseRows& rows, const QFunctions& functions,
                History& history);

// A token's step: theta * 2^(-step / 2).
float StepSize(float theta, int step);

Angles BlockAngles(const ProfileFacts& facts, uint32_t first_position, size_t tokens);

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_RECONSTRUCT_H_
