#include "kernels/simd/q_stream.h"

#include <algorithm>

#include "kernels/q/coefficients.h"
#include "kernels/reference/q.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/q_stream.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>

#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

absl::Status ReadRows(const HeadGroup& group, uint32_t first_layer, size_t tokens,
                      absl::Span<const absl::Span<const uint8_t>> streams, absl::Span<LayerRows> out) {
  return reference::ReadRows(group, first_layer, tokens, streams, out);
}

#else

using U32 = hn::Repartition<uint32_t, Eight>;
using I32 = hn::Repartition<int32_t, Eight>;
using V = hn::Vec<U32>;
constexpr size_t kLanes = 8, kHalves = kRansLanes / kLanes;

// By which lanes are set: of each of them its place among those that are, and the lanes themselves in order. Highway's own
// Compress copies its table each time.
struct Places {
  HWY_ALIGN uint8_t of[256][kLanes] = {};
  HWY_ALIGN uint8_t lane[256][kLanes] = {};
  constexpr Places() {
    for (int lanes = 0; lanes < 256; ++lanes) {
      for (size_t i = 0, next = 0; i < kLanes; ++i) {
        of[lanes][i] = uint8_t(next);
        if ((lanes >> i & 1) != 0) lane[lanes][next++] = uint8_t(i);
      }
    }
  }
};
constexpr Places kPlaces;

HWY_INLINE uint32_t Bits(hn::Mask<U32> mask) {
  uint8_t bits[8];
  hn::StoreMaskBits(U32(), mask, bits);
  return bits[0];
}

constexpr size_t kStepBytes = 2 * kRansLanes;  // the most that a step takes

// The last words of a stream, with zeros behind: there a step that reads past the end reads what the oracle does.
struct Tail {
  uint8_t bytes[2 * kStepBytes] = {};
  bool in_use = false;

  // REQUIRES: fewer than kStepBytes are left. False: they are here already, or are no whole words.
  bool Take(RansDecoder& decoder) {
    absl::Span<const uint8_t>& words = decoder.words();
    if (in_use || words.size() % 2 != 0) return false;
    in_use = true;
    std::copy(words.begin(), words.end(), bytes);
    words = {bytes, words.size()};
    return true;
  }
};

// The states of all lanes in registers, and the words that they take next. The decoder is where they come from, and
// where they go when something is left to it.
class Lanes {
 public:
  HWY_INLINE Lanes(RansDecoder& decoder, const Tail& tail) { Load(decoder, tail); }

  // A step of every lane. REQUIRES: kRansLanes words are left, `tables` below kClasses; of table 0 nothing is taken.
  HWY_INLINE void Step(const uint32_t* HWY_RESTRICT steps, const V (&tables)[kHalves], V (&symbols)[kHalves]) {
    const U32 d;
    const I32 di;
    const auto low_bits = hn::Set(d, kRansTotal - 1);
    V next[kHalves];
#pragma GCC unroll 2
    for (size_t i = 0; i < kHalves; ++i) {
      const auto index = hn::Or(hn::ShiftLeft<kRansBits>(tables[i]), hn::And(states_[i], low_bits));
      const auto step = hn::GatherIndex(d, steps, hn::BitCast(di, index));
      const auto offset = hn::And(hn::ShiftRight<5>(step), low_bits);
      next[i] = hn::Add(hn::Mul(hn::ShiftRight<19>(step), hn::ShiftRight<kRansBits>(states_[i])), offset);
      symbols[i] = hn::And(step, hn::Set(d, 31u));
    }
#pragma GCC unroll 2
    for (size_t i = 0; i < kHalves; ++i) {
      const auto taken = hn::Gt(hn::BitCast(di, tables[i]), hn::Zero(di));
      const auto low = hn::Eq(hn::ShiftRight<16>(next[i]), hn::Zero(d));
      states_[i] = Refilled(next[i], hn::And(hn::RebindMask(d, taken), low));
    }
  }

  HWY_INLINE bool HasWords() const { return words_ < limit_; }

  HWY_INLINE void Load(RansDecoder& decoder, const Tail& tail) {
    const U32 d;
    for (size_t i = 0; i < kHalves; ++i) states_[i] = hn::LoadU(d, decoder.states().data() + i * kLanes);
    words_ = decoder.words().data();
    end_ = words_ + decoder.words().size();
    const size_t room = tail.in_use ? decoder.words().size() + kStepBytes : decoder.words().size();
    limit_ = room < kStepBytes ? words_ : words_ + (room - kStepBytes + 1);
  }
  HWY_INLINE void Store(RansDecoder& decoder) const {
    const U32 d;
    for (size_t i = 0; i < kHalves; ++i) hn::StoreU(states_[i], d, decoder.states().data() + i * kLanes);
    const uint8_t* words = std::min(words_, end_);
    decoder.words() = {words, size_t(end_ - words)};
    if (words_ > end_) decoder.NoteMissing();
  }

 private:
  // The lanes of `low` take a word each, in their order.
  HWY_INLINE V Refilled(V states, hn::Mask<U32> low) {
    const U32 d;
    const hn::Rebind<uint16_t, U32> d16;
    const hn::Rebind<uint8_t, U32> d8;
    const uint32_t bits = Bits(low);
    const auto words = hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(words_)));
    const auto places = hn::PromoteTo(d, hn::LoadU(d8, kPlaces.of[bits]));
    const auto own = hn::TableLookupLanes(words, hn::IndicesFromVec(d, places));
    words_ += 2 * hn::CountTrue(d, low);
    return hn::IfThenElse(low, hn::Or(hn::ShiftLeft<16>(states), own), states);
  }

  V states_[kHalves];
  const uint8_t *words_, *end_, *limit_;  // a step may read from before the last
};

// A batch of one side: what its tokens' classes and factors are made of, and its rows as factors, [rows][kRansLanes].
struct Batch {
  HWY_ALIGN float factors[kMaxGroupWidth * kRansLanes];
  HWY_ALIGN float sizes[kRansLanes];
  HWY_ALIGN int32_t shifts[kRansLanes];
  BatchSteps steps;
  int most_shift;
  Tail tail;  // of the stream

  void Start(const HeadGroup& group, size_t kv, RansDecoder& decoder) {
    steps = ReadBatchSteps(group, kv, decoder);
    for (size_t lane = 0; lane < kRansLanes; ++lane) {
      shifts[lane] = 2 * steps.steps[lane] + steps.shifts[lane];
      sizes[lane] = StepSize(group.facts().step, steps.steps[lane]);
    }
    most_shift = *std::max_element(shifts, shifts + kRansLanes);
  }
};

// Reads a batch row by row.
class BatchReader {
 public:
  HWY_INLINE BatchReader(const HeadGroup& group, RansDecoder& decoder, Batch& batch)
      : group_(group), decoder_(decoder), batch_(batch), lanes_(decoder, batch.tail) {
    for (size_t i = 0; i < kHalves; ++i) {
      shifts_[i] = hn::Load(I32(), batch.shifts + i * kLanes);
      sizes_[i] = hn::Load(Eight(), batch.sizes + i * kLanes);
    }
  }

  HWY_INLINE void Row(const uint32_t* HWY_RESTRICT class_steps, int base, size_t c) {
    const U32 d;
    const I32 di;
    const Eight df;
    float* HWY_RESTRICT out = batch_.factors + c * kRansLanes;
    if (base + batch_.most_shift <= 0) {  // no class is above 0
      for (size_t i = 0; i < kHalves; ++i) hn::Store(hn::Zero(df), df, out + i * kLanes);
      return;
    }
    if (HWY_UNLIKELY(!lanes_.HasWords()) && !MoveToTail()) return LeaveRow(base, out);
    V tables[kHalves], symbols[kHalves];
    for (size_t i = 0; i < kHalves; ++i) {
      const auto of_class =
          hn::Min(hn::Max(hn::Add(shifts_[i], hn::Set(di, base)), hn::Zero(di)), hn::Set(di, int(kClasses) - 1));
      tables[i] = hn::BitCast(d, of_class);
    }
    lanes_.Step(class_steps, tables, symbols);
    hn::Mask<U32> escapes[kHalves];
    for (size_t i = 0; i < kHalves; ++i) {
      const auto value = hn::Sub(hn::BitCast(di, symbols[i]), hn::Set(di, kMostPlain));
      escapes[i] = hn::Eq(symbols[i], hn::Set(d, kEscape));
      hn::Store(hn::Mul(hn::ConvertTo(df, value), sizes_[i]), df, out + i * kLanes);
    }
    if (HWY_LIKELY(hn::AllFalse(d, hn::Or(escapes[0], escapes[1])))) return;
    LeaveEscapes(Bits(escapes[0]) | Bits(escapes[1]) << kLanes, out);
  }

  HWY_INLINE void Finish() { lanes_.Store(decoder_); }

 private:
  HWY_INLINE bool MoveToTail() {
    lanes_.Store(decoder_);
    const bool moved = batch_.tail.Take(decoder_);
    lanes_.Load(decoder_, batch_.tail);
    return moved;
  }
  HWY_INLINE void LeaveRow(int base, float* out) {
    int32_t q[kRansLanes];
    lanes_.Store(decoder_);
    ReadRow(group_, base, batch_.steps, decoder_, q);
    lanes_.Load(decoder_, batch_.tail);
    for (size_t i = 0; i < kRansLanes; ++i) out[i] = float(q[i]) * batch_.sizes[i];
  }
  HWY_INLINE void LeaveEscapes(uint32_t lanes, float* out) {
    int32_t q[kRansLanes];
    lanes_.Store(decoder_);
    ReadEscapes(decoder_, lanes, q);
    lanes_.Load(decoder_, batch_.tail);
    for (; lanes != 0; lanes &= lanes - 1) {
      const size_t lane = hwy::Num0BitsBelowLS1Bit_Nonzero32(lanes);
      out[lane] = float(q[lane]) * batch_.sizes[lane];
    }
  }

  const HeadGroup& group_;
  RansDecoder& decoder_;
  Batch& batch_;
  Lanes lanes_;
  hn::Vec<I32> shifts_[kHalves];
  hn::Vec<Eight> sizes_[kHalves];
};

// One layer's stream on its way.
struct LayerStream {
  LayerStream(const HeadGroup::Layer& layer, absl::Span<const uint8_t> stream) : layer(layer), decoder(stream) {}
  const HeadGroup::Layer& layer;
  RansDecoder decoder;
  Batch batch;
};

void ReadBatch(const HeadGroup& group, size_t kv, LayerStream& stream) {
  const HeadGroup::Side& side = stream.layer.sides[kv];
  const uint32_t* class_steps = group.class_steps().steps.data();
  stream.batch.Start(group, kv, stream.decoder);
  BatchReader reader(group, stream.decoder, stream.batch);
  for (size_t c = 0; c < side.coded_rows; ++c) reader.Row(class_steps, side.base_classes[c], c);
  reader.Finish();
}

// Two streams side by side: a step of one waits for its table most of the time.
void ReadBatches(const HeadGroup& group, size_t kv, LayerStream& a, LayerStream& b) {
  const HeadGroup::Side &side_a = a.layer.sides[kv], &side_b = b.layer.sides[kv];
  const uint32_t* class_steps = group.class_steps().steps.data();
  a.batch.Start(group, kv, a.decoder);
  b.batch.Start(group, kv, b.decoder);
  BatchReader reader_a(group, a.decoder, a.batch), reader_b(group, b.decoder, b.batch);
  const size_t both = std::min(side_a.coded_rows, side_b.coded_rows);
  for (size_t c = 0; c < both; ++c) {
    reader_a.Row(class_steps, side_a.base_classes[c], c);
    reader_b.Row(class_steps, side_b.base_classes[c], c);
  }
  for (size_t c = both; c < side_a.coded_rows; ++c) reader_a.Row(class_steps, side_a.base_classes[c], c);
  for (size_t c = both; c < side_b.coded_rows; ++c) reader_b.Row(class_steps, side_b.base_classes[c], c);
  reader_a.Finish();
  reader_b.Finish();
}

// Appends the factors that are not 0 to the rows of the batch's tokens.
void Collect(Batch& batch, size_t coded_rows, size_t first_token, SparseRows& out) {
  std::fill(batch.factors + coded_rows * kRansLanes, batch.factors + hwy::RoundUpTo(coded_rows, kLanes) * kRansLanes,
            0.0f);
  const Eight d;
  const U32 du;
  const hn::Rebind<uint8_t, U32> d8;
  float* HWY_RESTRICT factors = out.factors.data() + first_token * out.width;
  uint32_t* HWY_RESTRICT row_offsets = out.offsets.data() + first_token * out.width;
  uint32_t* HWY_RESTRICT counts = out.counts.data() + first_token;
  for (size_t c = 0; c < coded_rows; c += kLanes) {
    const auto offsets = hn::Mul(hn::Iota(du, uint32_t(c)), hn::Set(du, uint32_t(out.width)));
    for (size_t half = 0; half < kHalves; ++half) {
      hn::Vec<Eight> v[8];
      for (size_t i = 0; i < 8; ++i) v[i] = hn::Load(d, batch.factors + (c + i) * kRansLanes + half * kLanes);
      Transpose(v);
#pragma GCC unroll 8
      for (size_t i = 0; i < 8; ++i) {
        const size_t at = (half * kLanes + i) * out.width + counts[half * kLanes + i];
        const uint32_t bits = Bits(hn::RebindMask(du, hn::Ne(v[i], hn::Zero(d))));
        const auto lanes = hn::PromoteTo(du, hn::LoadU(d8, kPlaces.lane[bits]));
        hn::StoreU(hn::TableLookupLanes(v[i], hn::IndicesFromVec(d, lanes)), d, factors + at);
        hn::StoreU(hn::TableLookupLanes(offsets, hn::IndicesFromVec(du, lanes)), du, row_offsets + at);
        counts[half * kLanes + i] += uint32_t(hwy::PopCount(bits));
      }
    }
  }
}

void ReadLayer(const HeadGroup& group, size_t tokens, LayerStream& stream, LayerRows& out) {
  for (size_t kv : kSideOrder) {
    for (size_t first = 0; first < tokens; first += kRansLanes) {
      ReadBatch(group, kv, stream);
      Collect(stream.batch, stream.layer.sides[kv].coded_rows, first, out[kv]);
    }
  }
}

void ReadLayers(const HeadGroup& group, size_t tokens, LayerStream& a, LayerStream& b, absl::Span<LayerRows> out) {
  for (size_t kv : kSideOrder) {
    for (size_t first = 0; first < tokens; first += kRansLanes) {
      ReadBatches(group, kv, a, b);
      Collect(a.batch, a.layer.sides[kv].coded_rows, first, out[0][kv]);
      Collect(b.batch, b.layer.sides[kv].coded_rows, first, out[1][kv]);
    }
  }
}

absl::Status ReadRows(const HeadGroup& group, uint32_t first_layer, size_t tokens,
                      absl::Span<const absl::Span<const uint8_t>> streams, absl::Span<LayerRows> out) {
  for (LayerRows& layer_rows : out) {
    for (SparseRows& rows : layer_rows) rows.Reset(tokens, group.facts().Width());
  }
  LayerStream a(group.layer(first_layer), streams[0]);
  if (streams.size() == 1) {
    if (streams[0].empty()) return absl::OkStatus();
    ReadLayer(group, tokens, a, out[0]);
    return StreamStatus(first_layer, a.decoder);
  }
  LayerStream b(group.layer(first_layer + 1), streams[1]);
  if (!streams[0].empty() && !streams[1].empty()) {
    ReadLayers(group, tokens, a, b, out);
  } else if (!streams[0].empty()) {
    ReadLayer(group, tokens, a, out[0]);
  } else if (!streams[1].empty()) {
    ReadLayer(group, tokens, b, out[1]);
  }
  if (!streams[0].empty()) {
    if (absl::Status status = StreamStatus(first_layer, a.decoder); !status.ok()) return status;
  }
  return streams[1].empty() ? absl::OkStatus() : StreamStatus(first_layer + 1, b.decoder);
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(ReadRows);

absl::Status ReadRows(const HeadGroup& group, uint32_t first_layer, size_t tokens,
                      absl::Span<const absl::Span<const uint8_t>> streams, absl::Span<LayerRows> out) {
  return HWY_DYNAMIC_DISPATCH(ReadRows)(group, first_layer, tokens, streams, out);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
