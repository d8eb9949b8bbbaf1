#include "kernels/q/head_group.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/half.h"
#include "kernels/tables.h"

namespace kvist {
namespace {

std::vector<float> Widened(const std::vector<uint16_t>& bits) {
  std::vector<float> values(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) values[i] = Widen(bits[i], Dtype::kBf16);
  return values;
}

AlignedFloats Expanded(const ProfileMatrix& matrix) {
  AlignedFloats values(matrix.codes.size());
  const size_t columns = matrix.column_scales.size();
  for (size_t i = 0; i < values.size(); ++i) {
    const float by_row = float(matrix.codes[i]) * LogScale(matrix.row_scales[i / columns]);
    values[i] = by_row * LogScale(matrix.column_scales[i % columns]);
  }
  return values;
}

HeadGroup::SparseMatrix Sparse(const AlignedFloats& matrix, size_t width) {
  HeadGroup::SparseMatrix sparse;
  for (size_t source = 0; source < matrix.size(); source += width * width) {
    for (size_t block = 0; block < width; block += kPredictorBlock) {
      const size_t rows = std::min(kPredictorBlock, width - block);
      for (size_t column = 0; column < width; ++column) {
        for (size_t row = 0; row < rows; ++row) {
          const float value = matrix[source + (block + row) * width + column];
          if (value != 0) sparse.entries.push_back({value, uint32_t(row)});
        }
        sparse.ends.push_back(uint32_t(sparse.entries.size()));
      }
    }
  }
  return sparse;
}

RansTable ClassTable(absl::Span<const uint16_t> frequencies) {
  std::array<uint16_t, 32> of_symbols;
  for (int q = -15; q <= 15; ++q) of_symbols[q + 15] = frequencies[std::abs(q)];
  of_symbols[31] = frequencies[16];
  return RansTable(of_symbols);
}

// Gauss and Jordan with the largest pivot of each column. False: no inverse, as far as binary64 can tell.
bool Invert(std::vector<double>& matrix, size_t n) {
  double largest = 0;
  for (double value : matrix) largest = std::max(largest, std::abs(value));
  std::vector<double> inverse(n * n);
  for (size_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (size_t column = 0; column < n; ++column) {
    size_t pivot = column;
    for (size_t row = column; row < n; ++row) {
      if (std::abs(matrix[row * n + column]) > std::abs(matrix[pivot * n + column])) pivot = row;
    }
    const double value = matrix[pivot * n + column];
    if (!(std::abs(value) > 1e-12 * largest)) return false;
    std::swap_ranges(&matrix[pivot * n], &matrix[pivot * n] + n, &matrix[column * n]);
    std::swap_ranges(&inverse[pivot * n], &inverse[pivot * n] + n, &inverse[column * n]);
    for (size_t i = 0; i < n; ++i) {
      matrix[column * n + i] /= value;
      inverse[column * n + i] /= value;
    }
    for (size_t row = 0; row < n; ++row) {
      const double factor = matrix[row * n + column];
      if (row == column || factor == 0) continue;
      for (size_t i = 0; i < n; ++i) {
        matrix[row * n + i] -= factor * matrix[column * n + i];
        inverse[row * n + i] -= factor * inverse[column * n + i];
      }
    }
  }
  matrix = std::move(inverse);
  return true;
}

}  // namespace

HeadGroup::HeadGroup(ProfileFacts facts, ProfileGroup&& from) : facts_(std::move(facts)) {
  for (size_t c = 0; c < kClasses; ++c) {
    class_tables_.push_back(
        ClassTable(absl::MakeSpan(from.class_frequencies).subspan(c * kClassFrequencies, kClassFrequencies)));
  }
  class_steps_ = RansSteps(class_tables_, /*symbol_of_first=*/15);
  for (size_t kv : kSideOrder) {
    step_tables_[kv] = RansTable(from.step_frequencies[kv]);
    shift_tables_[kv] = RansTable(from.shift_frequencies[kv]);
  }
  for (ProfileLayer& from_layer : from.layers) {
    Layer& layer = layers_.emplace_back();
    layer.deviations = Widened(from_layer.deviations);
    for (size_t kv : kSideOrder) {
      const ProfileSide& side = from_layer.sides[kv];
      layer.sides[kv] = {.mean = Widened(side.mean),
                         .predictor = Expanded(side.predictor),
                         .synthesis = Expanded(side.synthesis),
                         .coded_rows = side.coded_rows,
                         .base_classes = side.base_classes,
                         .own = Widened(side.own),
                         .around = Widened(side.around),
                         .sensitivity = Widened(side.sensitivity)};
      layer.sides[kv].sparse_predictor = Sparse(layer.sides[kv].predictor, facts_.Width());
    }
    from_layer = {};
  }
}

absl::Status HeadGroup::PrepareEncoding() {
  const size_t width = facts_.Width();
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    for (size_t kv : kSideOrder) {
      Side& side = layers_[layer].sides[kv];
      std::vector<double> matrix(side.synthesis.begin(), side.synthesis.end());
      const bool inverted = Invert(matrix, width);
      side.analysis.assign(matrix.begin(), matrix.end());
      const auto finite = [](float value) { return std::isfinite(value); };
      if (!inverted || !std::all_of(side.analysis.begin(), side.analysis.end(), finite)) {
        return absl::InvalidArgumentError(
            absl::StrCat("layer ", layer, ": the matrix of ", kv == 0 ? "K" : "V", " has no inverse"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace kvist
