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
constexpr int kFirstTokens = 4, kLeastStepOfFirst = 4;  // tokens that all others attend to

int32_t Quantized(float value, float step) {
  const float magnitude = std::abs(value) / step + kRounding;
  if (std::isnan(magnitude)) return 0;
  const int32_t q = magnitude < kMostCoefficient ? int32_t(magnitude) : kMostCoefficient;
  return value < 0 ? -q : q;
}

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
  for (size_t t = 0; t < shape_.tokens; ++t) {
    const uint16_t* row = pages_.Row(kv, layer, head, t);
    const auto finite = [&](uint16_t bits) { return kvist::IsFinite(bits, shape_.dtype); };
    if (!std::all_of(row, row + shape_.head_dim, finite)) return false;
  }
  return true;
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
        const absl::Span<float> row = absl::MakeSpan(values[kv]).subspan(t * width + head * dim, dim);
        for (size_t d = 0; d < dim; ++d) row[d] = Widen(from[d], shape_.dtype);
        if (kv == 0 && !angles_.pairs.empty()) {
          Unturn(group_.facts().rope, absl::MakeSpan(angles_.pairs).subspan(t * dim / 2, dim / 2), row);
        }
        for (size_t d = 0; d < dim; ++d) row[d] -= mean[head * dim + d];
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
  const size_t width = group_.facts().Width();
  const AlignedFloats& predicted = history_.Next()[kv].rows;
  residuals_.Reset(shape_.tokens, width);
  for (size_t t = sinks_; t < shape_.tokens; ++t) {
    for (size_t i = 0; i < width; ++i) {
      if (work.coded.modes[kv * shape_.heads + i / shape_.head_dim] != TileMode::kOwn) continue;
      const float left = work.values[kv][t * width + i] - predicted[t * width + i];
      if (left != 0) residuals_.Append(t, i, left);
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
  for (size_t c = 0; c < side.coded_rows; ++c) {
    if (ClassOf(side.base_classes[c], step, 0) == 0) continue;
    const int32_t q = Quantized(transformed[c], size);
    out.q[token * side.coded_rows + c] = q;
    if (q != 0) factors_.Append(token, c, float(q) * size);
  }
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
  const size_t kv = tile / shape_.heads, head = tile % shape_.heads, dim = shape_.head_dim;
  std::vector<uint16_t> decoded(shape_.TileElements());
  const LayerSource source = {group_, work.layer, shape_.tokens, angles_, history_.Next(), shape_.dtype, sinks_};
  const TileBytes bytes = ReadRecord(sizes_, work.coded.modes[tile], kv == 0, work.coded.records[tile].data());
  WriteQTile(source, kv, head, bytes, functions_, {decoded.data(), dim});
  double signal = 0, noise = 0;
  bool identical = true, finite = true;
  for (size_t i = 0; i < decoded.size(); ++i) {
    const uint16_t original = pages_.Row(kv, work.layer, head, i / dim)[i % dim];
    const double value = Widen(original, shape_.dtype), got = Widen(decoded[i], shape_.dtype);
    finite = finite && kvist::IsFinite(decoded[i], shape_.dtype);
    identical = identical && value == got;
    signal += value * value;
    noise += (got - value) * (got - value);
  }
  work.coded.sqnr_db[tile] =
      work.coded.modes[tile] == TileMode::kRaw16 ? INFINITY : TileSqnrDb(signal, noise, identical, finite);
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
