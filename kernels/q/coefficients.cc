#include "kernels/q/coefficients.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr int kSignAndLengthBits = 5;  // of an escape: the sign, then how many bits follow

int LengthOfEscape(int magnitude) { return std::bit_width(uint32_t(magnitude - kMostPlain)) - 1; }

int32_t ReadEscape(RansDecoder& decoder, size_t lane) {
  const uint32_t head = decoder.Raw(lane, kSignAndLengthBits);
  const int length = int(head >> 1);
  const int32_t magnitude = 16 + ((1 << length) - 1) + int32_t(decoder.Raw(lane, length));
  return (head & 1) != 0 ? -magnitude : magnitude;
}

void WriteEscape(RansEncoder& encoder, size_t lane, int32_t q) {
  const int magnitude = std::abs(q), length = LengthOfEscape(magnitude);
  encoder.Raw(lane, kSignAndLengthBits, uint32_t(length << 1 | (q < 0 ? 1 : 0)));
  encoder.Raw(lane, length, uint32_t(magnitude - 16 - ((1 << length) - 1)));
}

uint32_t SymbolOf(int32_t q) { return std::abs(q) <= kMostPlain ? uint32_t(q + kMostPlain) : kEscape; }

}  // namespace

BatchSteps ReadBatchSteps(const HeadGroup& group, size_t kv, RansDecoder& decoder) {
  BatchSteps batch;
  for (size_t lane = 0; lane < kRansLanes; ++lane) {
    batch.steps[lane] = int(decoder.Symbol(lane, group.step_table(kv))) + kLeastStep;
  }
  for (size_t lane = 0; lane < kRansLanes; ++lane) {
    batch.shifts[lane] = int(decoder.Symbol(lane, group.shift_table(kv))) + kLeastShift;
  }
  return batch;
}

void ReadEscapes(RansDecoder& decoder, uint32_t lanes, int32_t* q) {
  for (; lanes != 0; lanes &= lanes - 1) {
    const size_t lane = std::countr_zero(lanes);
    q[lane] = ReadEscape(decoder, lane);
  }
}

void ReadRow(const HeadGroup& group, int base_class, const BatchSteps& batch, RansDecoder& decoder, int32_t* q) {
  uint32_t escapes = 0;
  for (size_t lane = 0; lane < kRansLanes; ++lane) {
    const int of_class = ClassOf(base_class, batch.steps[lane], batch.shifts[lane]);
    const uint32_t symbol = of_class == 0 ? kMostPlain : decoder.Symbol(lane, group.class_table(of_class));
    q[lane] = int32_t(symbol) - kMostPlain;
    escapes |= uint32_t{symbol == kEscape} << lane;
  }
  ReadEscapes(decoder, escapes, q);
}

absl::Status StreamStatus(uint32_t layer, const RansDecoder& decoder) {
  const absl::Status status = decoder.Finish();
  if (status.ok()) return status;
  return absl::DataLossError(absl::StrCat("layer ", layer, ": ", status.message()));
}

absl::StatusOr<LayerCoefficients> ReadCoefficients(const HeadGroup& group, uint32_t layer, size_t tokens,
                                                   absl::Span<const uint8_t> stream) {
  LayerCoefficients coefficients;
  for (size_t kv : kSideOrder) {
    coefficients[kv].steps.resize(tokens);
    coefficients[kv].q.resize(tokens * group.layer(layer).sides[kv].coded_rows);
  }
  if (stream.empty()) return coefficients;
  RansDecoder decoder(stream);
  for (size_t kv : kSideOrder) {
    const HeadGroup::Side& side = group.layer(layer).sides[kv];
    for (size_t first = 0; first < tokens; first += kRansLanes) {
      const BatchSteps batch = ReadBatchSteps(group, kv, decoder);
      std::copy(batch.steps.begin(), batch.steps.end(), &coefficients[kv].steps[first]);
      for (size_t c = 0; c < side.coded_rows; ++c) {
        int32_t q[kRansLanes];
        ReadRow(group, side.base_classes[c], batch, decoder, q);
        for (size_t lane = 0; lane < kRansLanes; ++lane) {
          coefficients[kv].q[(first + lane) * side.coded_rows + c] = q[lane];
        }
      }
    }
  }
  if (absl::Status status = StreamStatus(layer, decoder); !status.ok()) return status;
  return coefficients;
}

CoefficientWriter::CoefficientWriter(const HeadGroup& group) : group_(group) {
  for (size_t symbol = 0; symbol <= kEscape; ++symbol) {
    for (size_t i = 0; i < kCostClasses; ++i) {
      const int of_class = std::clamp(int(i) - kCostMargin, 0, int(kClasses) - 1);
      const float bits = kRansBits - std::log2(float(group.class_table(of_class).frequency[symbol]));
      costs_[symbol][i] = of_class > 0 ? bits : symbol == kMostPlain ? 0 : INFINITY;
    }
  }
  for (size_t kv : kSideOrder) {
    for (size_t i = 0; i < kShiftSymbols; ++i) {
      shift_costs_[kv][i] = kRansBits - std::log2(double(group.shift_table(kv).frequency[i]));
    }
  }
}

// The shift under which a token's row costs least. 0 is always possible. Classes of neighbouring shifts are neighbours, so
// that a coefficient's costs under all of them lie together.
int CoefficientWriter::BestShift(const HeadGroup::Side& side, size_t kv, int step, const int32_t* q) const {
  std::array<double, kShiftSymbols> sums = shift_costs_[kv];
  for (size_t c = 0; c < side.coded_rows; ++c) {
    const int first = side.base_classes[c] + 2 * step + kLeastShift;
    const double* costs = &costs_[SymbolOf(q[c])][std::clamp(first, -kCostMargin, int(kClasses)) + kCostMargin];
    for (size_t i = 0; i < kShiftSymbols; ++i) sums[i] += costs[i];
  }
  return int(std::min_element(sums.begin(), sums.end()) - sums.begin()) + kLeastShift;
}

void CoefficientWriter::WriteBatch(const HeadGroup::Side& side, size_t kv, size_t batch, const SideCoefficients& from,
                                   RansEncoder& encoder) const {
  std::array<int, kRansLanes> above_base;
  const int8_t* steps = &from.steps[batch * kRansLanes];
  const auto row = [&](size_t lane) { return from.q.data() + (batch * kRansLanes + lane) * side.coded_rows; };
  for (size_t lane = 0; lane < kRansLanes; ++lane) {
    encoder.Symbol(lane, group_.step_table(kv), uint32_t(steps[lane] - kLeastStep));
  }
  for (size_t lane = 0; lane < kRansLanes; ++lane) {
    const int shift = BestShift(side, kv, steps[lane], row(lane));
    encoder.Symbol(lane, group_.shift_table(kv), uint32_t(shift - kLeastShift));
    above_base[lane] = 2 * steps[lane] + shift;
  }
  for (size_t c = 0; c < side.coded_rows; ++c) {
    uint32_t escapes = 0;
    for (size_t lane = 0; lane < kRansLanes; ++lane) {
      const int of_class = ClassOf(side.base_classes[c], 0, above_base[lane]);
      const uint32_t symbol = SymbolOf(row(lane)[c]);
      if (of_class != 0) encoder.Symbol(lane, group_.class_table(of_class), symbol);
      escapes |= uint32_t{symbol == kEscape} << lane;
    }
    for (; escapes != 0; escapes &= escapes - 1) {
      const size_t lane = std::countr_zero(escapes);
      WriteEscape(encoder, lane, row(lane)[c]);
    }
  }
}

std::vector<uint8_t> CoefficientWriter::Write(uint32_t layer, size_t tokens,
                                              const LayerCoefficients& coefficients) const {
  RansEncoder encoder(coefficients[0].q.size() + coefficients[1].q.size() + 4 * tokens);
  for (size_t kv : kSideOrder) {
    for (size_t batch = 0; batch < tokens / kRansLanes; ++batch) {
      WriteBatch(group_.layer(layer).sides[kv], kv, batch, coefficients[kv], encoder);
    }
  }
  return encoder.Finish();
}

}  // namespace kvist
