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

absl::Status ReadRows(const Profile& profile, uint32_t layer, size_t tokens, absl::Span<const uint8_t> stream,
                      LayerRows& out) {
  return reference::ReadRows(profile, layer, tokens, stream, out);
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

// The states of all lanes in registers, and the words that they take next. The decoder is where they come from, and
// where they go when something is left to it.
class Lanes {
 public:
  explicit HWY_INLINE Lanes(RansDecoder& decoder) { Load(decoder); }

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

  HWY_INLINE bool HasWords() const { return size_t(end_ - words_) >= 2 * kRansLanes; }

  HWY_INLINE void Load(RansDecoder& decoder) {
    const U32 d;
    for (size_t i = 0; i < kHalves; ++i) states_[i] = hn::LoadU(d, decoder.states().data() + i * kLanes);
    words_ = decoder.words().data();
    end_ = words_ + decoder.words().size();
  }
  HWY_INLINE void Store(RansDecoder& decoder) const {
    const U32 d;
    for (size_t i = 0; i < kHalves; ++i) hn::StoreU(states_[i], d, decoder.states().data() + i * kLanes);
    decoder.words() = {words_, size_t(end_ - words_)};
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
  const uint8_t *words_, *end_;
};

// One group's rows as factors: [rows][kRansLanes], rows that are not coded 0.
struct Group {
  HWY_ALIGN float factors[kMaxProfileWidth * kRansLanes];
};

void ReadGroup(const Profile& profile, const Profile::Side& side, const GroupSteps& steps, RansDecoder& decoder,
               Group& group) {
  Lanes lanes(decoder);
  const U32 d;
  const I32 di;
  const Eight df;
  hn::Vec<I32> shifts[kHalves];
  hn::Vec<Eight> sizes[kHalves];
  int most = -128;
  HWY_ALIGN int32_t shift[kRansLanes];
  HWY_ALIGN float size[kRansLanes];
  for (size_t lane = 0; lane < kRansLanes; ++lane) {
    shift[lane] = 2 * steps.steps[lane] + steps.shifts[lane];
    most = std::max(most, int(shift[lane]));
    size[lane] = StepSize(profile.facts().step, steps.steps[lane]);
  }
  for (size_t i = 0; i < kHalves; ++i) {
    shifts[i] = hn::Load(di, shift + i * kLanes);
    sizes[i] = hn::Load(df, size + i * kLanes);
  }
  const uint32_t* table = profile.class_steps().steps.data();
  for (size_t c = 0; c < side.coded_rows; ++c) {
    float* out = group.factors + c * kRansLanes;
    const int base = side.base_classes[c];
    if (base + most <= 0) {
      std::fill_n(out, kRansLanes, 0.0f);
      continue;
    }
    HWY_ALIGN int32_t q[kRansLanes];
    if (HWY_UNLIKELY(!lanes.HasWords())) {
      lanes.Store(decoder);
      ReadRow(profile, base, steps, decoder, q);
      lanes.Load(decoder);
      for (size_t i = 0; i < kRansLanes; ++i) out[i] = float(q[i]) * size[i];
      continue;
    }
    V tables[kHalves], symbols[kHalves];
    for (size_t i = 0; i < kHalves; ++i) {
      const auto of_class = hn::Min(hn::Max(hn::Add(shifts[i], hn::Set(di, base)), hn::Zero(di)),
                                    hn::Set(di, int(kClasses) - 1));
      tables[i] = hn::BitCast(d, of_class);
    }
    lanes.Step(table, tables, symbols);
    hn::Mask<U32> escapes[kHalves];
    for (size_t i = 0; i < kHalves; ++i) {
      const auto value = hn::Sub(hn::BitCast(di, symbols[i]), hn::Set(di, kMostPlain));
      escapes[i] = hn::Eq(symbols[i], hn::Set(d, kEscape));
      hn::Store(hn::Mul(hn::ConvertTo(df, value), sizes[i]), df, out + i * kLanes);
    }
    if (!hn::AllFalse(d, hn::Or(escapes[0], escapes[1]))) {
      const uint32_t bits = Bits(escapes[0]) | Bits(escapes[1]) << kLanes;
      lanes.Store(decoder);
      ReadEscapes(decoder, bits, q);
      lanes.Load(decoder);
      for (uint32_t left = bits; left != 0; left &= left - 1) {
        const size_t lane = hwy::Num0BitsBelowLS1Bit_Nonzero32(left);
        out[lane] = float(q[lane]) * size[lane];
      }
    }
  }
  lanes.Store(decoder);
  std::fill(group.factors + side.coded_rows * kRansLanes,
            group.factors + hwy::RoundUpTo(side.coded_rows, kLanes) * kRansLanes, 0.0f);
}

// Appends the factors that are not 0 to the rows of the group's tokens.
void Collect(const Group& group, size_t coded_rows, size_t first_token, SparseRows& out) {
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
      for (size_t i = 0; i < 8; ++i) v[i] = hn::Load(d, group.factors + (c + i) * kRansLanes + half * kLanes);
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

absl::Status ReadRows(const Profile& profile, uint32_t layer, size_t tokens, absl::Span<const uint8_t> stream,
                      LayerRows& out) {
  for (SparseRows& rows : out) rows.Reset(tokens, profile.facts().Width());
  if (stream.empty()) return absl::OkStatus();
  RansDecoder decoder(stream);
  Group group;
  for (size_t kv : kSideOrder) {
    const Profile::Side& side = profile.layer(layer).sides[kv];
    for (size_t first = 0; first < tokens; first += kRansLanes) {
      const GroupSteps steps = ReadGroupSteps(profile, kv, decoder);
      ReadGroup(profile, side, steps, decoder, group);
      Collect(group, side.coded_rows, first, out[kv]);
    }
  }
  return StreamStatus(layer, decoder);
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {

HWY_EXPORT(ReadRows);

absl::Status ReadRows(const Profile& profile, uint32_t layer, size_t tokens, absl::Span<const uint8_t> stream,
                      LayerRows& out) {
  return HWY_DYNAMIC_DISPATCH(ReadRows)(profile, layer, tokens, stream, out);
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
