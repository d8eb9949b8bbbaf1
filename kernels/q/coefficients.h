// The stream of one layer and head group of codec q as numbers: what each token's step is, and the coefficients in units of it.
//
// Shapes  q [tokens][coded rows] of each side. Of the two sides 0 is K and 1 is V.
// Units   a step symbol k is kept as k, from -8 to 23: a half of a power of two.
// Threads pure functions.
// Errors  Read: DataLoss says what is wrong with the stream; never a read outside of it.
// Why     Entropy and arithmetic apart: the encoder closes its loop over these numbers and writes the stream at the end, when
//         it may choose each token's shift by what its whole row costs.
#ifndef KVIST_KERNELS_Q_COEFFICIENTS_H_
#define KVIST_KERNELS_Q_COEFFICIENTS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/q/head_group.h"

namespace kvist {

inline constexpr int kLeastStep = -8, kMostStep = 23;
inline constexpr int kLeastShift = -3;
inline constexpr int kMostPlain = 15;           // the largest coefficient with a symbol of its own
inline constexpr int kMostCoefficient = 65550;  // 16 + 2^15 - 1 + 2^15 - 1
inline constexpr uint32_t kEscape = 31;

struct SideCoefficients {
  std::vector<int8_t> steps;  // [tokens]
  std::vector<int32_t> q;     // [tokens][coded rows]
};
using LayerCoefficients = std::array<SideCoefficients, 2>;

// 0: the coefficient is 0 and has no symbol.
inline int ClassOf(int base, int step, int shift) { return std::clamp(base + 2 * step + shift, 0, int(kClasses) - 1); }

// An empty stream stands for zeros.
absl::StatusOr<LayerCoefficients> ReadCoefficients(const HeadGroup& group, uint32_t layer, size_t tokens,
                                                   absl::Span<const uint8_t> stream);

// The same in the parts that a target with vectors does itself, or leaves to these where it cannot.
struct BatchSteps {
  std::array<int, kRansLanes> steps, shifts;
};
BatchSteps ReadBatchSteps(const HeadGroup& group, size_t kv, RansDecoder& decoder);
// One row of a batch, q[kRansLanes].
void ReadRow(const HeadGroup& group, int base_class, const BatchSteps& batch, RansDecoder& decoder, int32_t* q);
// Of the lanes whose bits are set.
void ReadEscapes(RansDecoder& decoder, uint32_t lanes, int32_t* q);
// What the decoder says at the end of a layer's stream.
absl::Status StreamStatus(uint32_t layer, const RansDecoder& decoder);

// Writes streams of one head group.
class CoefficientWriter {
 public:
  explicit CoefficientWriter(const HeadGroup& group);

  // REQUIRES: |q| <= kMostCoefficient, and 0 where ClassOf(base, step, 0) is 0.
  std::vector<uint8_t> Write(uint32_t layer, size_t tokens, const LayerCoefficients& coefficients) const;

 private:
  static constexpr int kCostMargin = kShiftSymbols;  // classes on either side that are clamped
  static constexpr size_t kCostClasses = kClasses + 2 * kCostMargin;

  int BestShift(const HeadGroup::Side& side, size_t kv, int step, const int32_t* q) const;
  void WriteBatch(const HeadGroup::Side& side, size_t kv, size_t batch, const SideCoefficients& from,
                  RansEncoder& encoder) const;

  const HeadGroup& group_;
  // Bits of each symbol by class, an escape without the bits after it. Class 0 takes zeros only.
  std::array<std::array<double, kCostClasses>, kEscape + 1> costs_;
  std::array<std::array<double, kShiftSymbols>, 2> shift_costs_;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_COEFFICIENTS_H_
