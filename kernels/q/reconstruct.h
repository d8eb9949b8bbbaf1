// From coefficients to values, with the same bits on every machine (FORMAT.md, "q", "Reconstruction"). Readers and the
// closed loop of the encoder share it.
//
// Shapes  values [tokens][d] of each side, centred, before the rotation of keys. Of the two sides 0 is K and 1 is V.
// Threads pure functions.
// Accuracy bit-identical: each element has one chain of fused multiply-adds, in the order of the sources and rows.
// Why     All the arithmetic of decoding is a vector times a matrix onto a row of sums. That alone has a form with vectors:
//         columns do not meet, so that any number of them may go side by side.
#ifndef KVIST_KERNELS_Q_RECONSTRUCT_H_
#define KVIST_KERNELS_Q_RECONSTRUCT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/codec.h"
#include "kernels/q/coefficients.h"
#include "kernels/q/profile.h"

namespace kvist {

using LayerValues = std::array<std::vector<float>, 2>;

// For i ascending with factors[i] not 0, and each j: sums[j] = fma(factors[i], matrix[i][j], sums[j]).
using AddProductFunction = void (*)(absl::Span<const float> factors, const float* matrix, absl::Span<float> sums);

// The decoded layers that may predict the next one, newest first, and forgotten at resets.
class History {
 public:
  explicit History(const ProfileFacts& facts) : facts_(facts) {}
  // What is there for `layer`. REQUIRES: layers come in order, from a reset on.
  absl::Span<const LayerValues> Before(uint32_t layer) const {
    return absl::MakeSpan(layers_).first(facts_.Before(layer));
  }
  void Push(LayerValues values);

 private:
  const ProfileFacts& facts_;
  std::vector<LayerValues> layers_;
};

// The prediction of one side; zeros where it has no sources. `own`: the layer's V, decoded, when kv is 0 (K).
std::vector<float> Predicted(const Profile& profile, uint32_t layer, size_t kv, size_t tokens,
                             absl::Span<const LayerValues> before, const LayerValues& own, AddProductFunction add);

// Adds the coefficients' part to a prediction.
void AddCoefficients(const Profile& profile, uint32_t layer, size_t kv, const SideCoefficients& coefficients,
                     AddProductFunction add, std::vector<float>& values);

// A token's step: theta * 2^(-step / 2).
float StepSize(float theta, int step);

// One entry for each pair of channels of a head, for each token.
std::vector<CosSin> BlockAngles(const ProfileFacts& facts, uint32_t first_position, size_t tokens);

// One row of one head as a page holds it: mean added, keys turned, narrowed.
void WriteRow(const Profile& profile, uint32_t layer, size_t kv, size_t head, absl::Span<const CosSin> angles,
              Dtype dtype, const float* centred, uint16_t* out);

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_RECONSTRUCT_H_
