#include "kernels/q/encode_group.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/encode_floor.h"
#include "kernels/half.h"
#include "kernels/header.h"
#include "kernels/q/coefficients.h"
#include "kernels/q/decode.h"
#include "kernels/q/plain_row.h"

namespace kvist {
namespace {

constexpr float kStepsPerWeight = 0.7f;  // half powers of two of the step for each doubling of the weight
constexpr float kRounding = 0.46f;       // a little less than half: the smaller coefficient is cheaper
constexpr size_t kMostHeadDim = 256;
constexpr int kFirstTokens = 4, kLeastStepOfFirst = 4;  // tokens that all others attend to

// Without branches: several values go side by side. NaN is 0.
int32_t Quantized(float value, float step) {
  const float magnitude = std::abs(value) / step + kRounding;
  const float bounded = magnitude < kMostCoefficient ? magnitude : float(kMostCoefficient);
  const int32_t q = int32_t(bounded) & -int32_t(magnitude == magnitude);
  return value < 0 ? -q : q;
}

void WidenRow(const uint16_t* bits, size_t count, Dtype dtype, float* values) {
  if (dtype == Dtype::kBf16) {
    for (size_t i = 0; i < count; ++i) values[i] = Widen(bits[i], Dtype::kBf16);
  } else {
    for (size_t i = 0; i < count; ++i) values[i] = Widen(bits[i], dtype);
  }
}

// Sums over the values of a tile, in their order.
struct Errors {
  double signal = 0, noise = 0;

  void AddRow(const uint16_t* values, const uint16_t* decoded, size_t count, Dtype dtype) {
    std::array<float, kMostHeadDim> wanted, got;
    std::array<double, kMostHeadDim> squares, differences;
    WidenRow(values, count, dtype, wanted.data());
    WidenRow(decoded, count, dtype, got.data());
    for (size_t i = 0; i < count; ++i) {
      const double value = wanted[i], difference = got[i] - value;
      squares[i] = value * value;
      differences[i] = difference * difference;
    }
    for (size_t i = 0; i < count; ++i) {
      signal += squares[i];
      noise += differences[i];
    }
  }
};

}  // namespace

GroupEncoder::GroupEncoder(const HeadGroup& group, const BlockShape& shape, const ConstPages& pages,
                           const Angles& angles, uint32_t first_position, float floor_db, const QFunctions& functions)
    : group_(group),
      shape_(shape),
      pages_(pages),
      angles_(angles),
      functions_(functions),
      first_position_(first_position),
      sinks_(SinksOf(Codec::kQ, first_position)),
      floor_db_(floor_db),
      sizes_(Codec::kQ, shape, first_position),
      importance_(group, shape.tokens),
      history_(group.facts()),
      writer_(group) {
  for (uint32_t layer = 0; layer < shape.layers; ++layer) importance_.AddLayer(layer, Load(layer));
}

bool GroupEncoder::IsFinite(size_t kv, uint32_t layer, size_t head) const {
  int16_t largest = 0;
  for (size_t t = 0; t < shape_.tokens; ++t) {
    const uint16_t* row = pages_.Row(kv, layer, head, t);
    for (size_t d = 0; d < shape_.head_dim; ++d) largest = std::max(largest, int16_t(row[d] & 0x7fff));
  }
  return kvist::IsFinite(uint16_t(largest), shape_.dtype);
}

// Centred, keys turned back. Of a tile with NaN or infinity zeros: it touches no other tile.
LayerValues GroupEncoder::Load(uint32_t layer) const {
  const size_t width = group_.facts().Width(), dim = shape_.head_dim;
  LayerValues values;
  for (size_t kv = 0; kv < 2; ++kv) {
    values[kv].resize(shape_.tokens * width);
    const std::vector<float>& mean = group_.layer(layer).sides[kv].mean;
    for (size_t head = 0; head < shape_.heads; ++head) {
      if (!IsFinite(kv, layer, head)) continue;
      for (size_t t = 0; t < shape_.tokens; ++t) {
        const uint16_t* from = pages_.Row(kv, layer, head, t);
        float* row = &values[kv][t * width + head * dim];
        WidenRow(from, dim, shape_.dtype, row);
        if (kv == 0 && !angles_.pairs.empty()) {
          Unturn(group_.facts().rope, absl::MakeSpan(angles_.pairs).subspan(t * dim / 2, dim / 2), {row, dim});
        }
        const float* of_head = &mean[head * dim];
        for (size_t d = 0; d < dim; ++d) row[d] -= of_head[d];
      }
    }
  }
  return values;
}

int GroupEncoder::StepOf(size_t kv, uint32_t layer, size_t token) const {
  if (token < sinks_) return kLeastStep;
  const float log2_weight = importance_.At(kv, layer, token) * 1.442695f;
  const float step = std::nearbyint(kStepsPerWeight * log2_weight);
  int bounded = std::isnan(step) ? 0 : int(std::clamp(step, float(kLeastStep), float(kMostStep)));
  if (first_position_ == 0 && token < kFirstTokens) bounded = std::max(bounded, kLeastStepOfFirst);
  return bounded;
}

// What the prediction leaves, but for channels and tokens that are stored elsewhere, in the coordinates that are coded.
void GroupEncoder::TransformResiduals(const Work& work, size_t kv) {
  const size_t width = group_.facts().Width(), dim = shape_.head_dim;
  const AlignedFloats& predicted = history_.Next()[kv].rows;
  residuals_.Reset(shape_.tokens, width);
  for (size_t t = sinks_; t < shape_.tokens; ++t) {
    for (size_t head = 0; head < shape_.heads; ++head) {
      if (work.coded.modes[kv * shape_.heads + head] != TileMode::kOwn) continue;
      std::array<float, kMostHeadDim> left;
      const float* values = &work.values[kv][t * width + head * dim];
      const float* expected = &predicted[t * width + head * dim];
      for (size_t d = 0; d < dim; ++d) left[d] = values[d] - expected[d];
      residuals_.AppendAll(t, head * dim, {left.data(), dim});
    }
  }
  transformed_.assign(shape_.tokens * width, 0);
  functions_.add_rows(residuals_, group_.layer(work.layer).sides[kv].analysis.data(), transformed_.data());
}

void GroupEncoder::CodeRow(Work& work, size_t kv, size_t token) {
  const HeadGroup::Side& side = group_.layer(work.layer).sides[kv];
  SideCoefficients& out = work.coefficients[kv];
  const int step = StepOf(kv, work.layer, token);
  out.steps[token] = int8_t(step);
  const float size = StepSize(group_.facts().step, step);
  const float* transformed = &transformed_[token * group_.facts().Width()];
  const int8_t* base_classes = side.base_classes.data();
  int32_t* q = out.q.data() + token * side.coded_rows;
  for (size_t c = 0; c < side.coded_rows; ++c) {
    q[c] = Quantized(transformed[c], size) & -int32_t(ClassOf(base_classes[c], step, 0) != 0);
  }
  factors_.AppendNonzero(token, {q, side.coded_rows}, size);
}

void GroupEncoder::CodeSide(Work& work, size_t kv) {
  SideCoefficients& coefficients = work.coefficients[kv];
  coefficients.steps.assign(shape_.tokens, 0);
  coefficients.q.assign(shape_.tokens * group_.layer(work.layer).sides[kv].coded_rows, 0);
  PredictSide(group_, work.layer, kv, shape_.tokens, functions_, history_);
  TransformResiduals(work, kv);
  factors_.Reset(shape_.tokens, group_.facts().Width());
  for (size_t t = 0; t < shape_.tokens; ++t) CodeRow(work, kv, t);
  AddFactors(group_, work.layer, kv, factors_, functions_, history_);
}

void GroupEncoder::Code(Work& work) {
  for (size_t kv : kSideOrder) CodeSide(work, kv);
}

void GroupEncoder::MakeRecord(Work& work, size_t tile) const {
  const size_t kv = tile / shape_.heads, head = tile % shape_.heads, dim = shape_.head_dim;
  const TileMode mode = work.coded.modes[tile];
  std::vector<uint8_t>& record = work.coded.records[tile];
  record.resize(sizes_.Record(mode, kv == 0));
  const size_t plain = mode == TileMode::kOwn ? sinks_ : shape_.tokens;
  for (size_t t = 0; t < plain; ++t) {
    const uint16_t* row = pages_.Row(kv, work.layer, head, t);
    if (mode == TileMode::kRaw16) {
      std::memcpy(&record[t * 2 * dim], row, 2 * dim);
    } else {
      WritePlainRow(row, dim, shape_.dtype, &record[t * (1 + dim)]);
    }
  }
}

// Reads the tile as every reader will, and compares.
void GroupEncoder::Measure(Work& work, size_t tile) const {
  if (work.coded.modes[tile] == TileMode::kRaw16) {
    work.coded.sqnr_db[tile] = INFINITY;
    return;
  }
  const size_t kv = tile / shape_.heads, head = tile % shape_.heads, dim = shape_.head_dim;
  std::vector<uint16_t> decoded(shape_.TileElements());
  const LayerSource source = {group_, work.layer, shape_.tokens, angles_, history_.Next(), shape_.dtype, sinks_};
  const TileBytes bytes = ReadRecord(sizes_, work.coded.modes[tile], kv == 0, work.coded.records[tile].data());
  WriteQTile(source, kv, head, bytes, functions_, {decoded.data(), dim});
  Errors errors;
  for (size_t t = 0; t < shape_.tokens; ++t) {
    errors.AddRow(pages_.Row(kv, work.layer, head, t), &decoded[t * dim], dim, shape_.dtype);
  }
  // The values are finite. No difference of such is so small that its square is 0, nor so large that it is not finite.
  work.coded.sqnr_db[tile] = TileSqnrDb(errors.signal, errors.noise, errors.noise == 0, std::isfinite(errors.noise));
}

// Stores tiles below the floor at the next mode that keeps it. True: a tile has left the stream.
bool GroupEncoder::RaiseTiles(Work& work) const {
  bool left = false;
  for (size_t tile = 0; tile < work.coded.modes.size(); ++tile) {
    MakeRecord(work, tile);
    Measure(work, tile);
    while (work.coded.sqnr_db[tile] < floor_db_) {
      left |= work.coded.modes[tile] == TileMode::kOwn;
      work.coded.modes[tile] = work.coded.modes[tile] == TileMode::kOwn ? TileMode::kRotatedI8 : TileMode::kRaw16;
      MakeRecord(work, tile);
      Measure(work, tile);
    }
  }
  return left;
}

void GroupEncoder::StoreValues(Work& work) {
  work.coded.stream.clear();
  work.coded.modes.assign(work.coded.modes.size(), TileMode::kRaw16);
  Code(work);
  RaiseTiles(work);
}

void GroupEncoder::WriteStream(Work& work) const {
  const auto own = [](TileMode mode) { return mode == TileMode::kOwn; };
  if (std::any_of(work.coded.modes.begin(), work.coded.modes.end(), own)) {
    work.coded.stream = writer_.Write(work.layer, shape_.tokens, work.coefficients);
  }
}

bool GroupEncoder::IsLargerThanValues(const CodedLayer& coded) const {
  size_t bytes = coded.stream.size();
  for (const std::vector<uint8_t>& record : coded.records) bytes += record.size();
  return bytes > coded.records.size() * sizes_.Record(TileMode::kRaw16, false);
}

CodedLayer GroupEncoder::EncodeLayer(uint32_t layer) {
  const size_t tiles = 2 * size_t{shape_.heads};
  Work work = {layer, Load(layer), {}, {}};
  work.coded.records.resize(tiles);
  work.coded.sqnr_db.resize(tiles);
  for (size_t tile = 0; tile < tiles; ++tile) {
    const bool finite = IsFinite(tile / shape_.heads, layer, tile % shape_.heads);
    work.coded.modes.push_back(finite ? TileMode::kOwn : TileMode::kRaw16);
  }
  do {
    Code(work);
  } while (RaiseTiles(work));
  WriteStream(work);
  if (IsLargerThanValues(work.coded)) StoreValues(work);
  history_.Push();
  return std::move(work.coded);
}

}  // namespace kvist
