#include "kernels/simd/q.h"

#include <cmath>

#include "kernels/reference/q.h"
#include "kernels/simd/q_stream.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/q.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvist::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

void AddRows(const SparseRows& rows, const float* matrix, float* sums) { reference::AddRows(rows, matrix, sums); }
void Predict(const HeadGroup::Side& side, size_t tokens, absl::Span<const SideValues* const> sources, SideValues& out) {
  reference::Predict(side, tokens, sources, out);
}
void PrepareSource(size_t tokens, size_t width, SideValues& values) { reference::PrepareSource(tokens, width, values); }
void WriteRows(const HeadRows& rows, const TileTarget& target) { reference::WriteRows(rows, target); }

#else

constexpr size_t kLineFloats = 64 / sizeof(float);

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

// Keeps an address in its register: with an index beside it each load that is fused with its use is two steps again.
HWY_INLINE const float* Kept(const float* address) {
  asm("" : "+r"(address));
  return address;
}

// A profile is larger than the caches that are near, and no hardware sees where accesses to some columns go.
HWY_INLINE void PrefetchColumns(size_t width, const float* matrix, size_t columns) {
  for (size_t at = 0; at < width * width; at += width) {
    for (size_t j = 0; j < columns; j += kLineFloats) hwy::Prefetch(matrix + at + j);
  }
}

// Tokens that share loads of the matrix when all of them have factors for every row: the encoder's.
constexpr size_t kTogether = 4;

HWY_INLINE bool IsComplete(const SparseRows& rows, size_t t) {
  const size_t first = t / kTogether * kTogether;
  if (first + kTogether > rows.counts.size()) return false;
  const uint32_t* counts = &rows.counts[first];
  return std::all_of(counts, counts + kTogether, [&](uint32_t count) { return count == rows.width; });
}

// Some columns of complete tokens, in kTogether * kVectors chains.
template <size_t kVectors>
void AddCompleteColumns(const SparseRows& rows, const float* HWY_RESTRICT matrix, float* HWY_RESTRICT sums) {
  const DF d;
  const size_t lanes = hn::Lanes(d), width = rows.width;
  PrefetchColumns(width, matrix, kVectors * lanes);
  for (size_t first = 0; first < rows.counts.size(); first += kTogether) {
    if (!IsComplete(rows, first)) continue;
    const float* HWY_RESTRICT factors = rows.factors.data() + first * width;
    float* HWY_RESTRICT out = sums + first * width;
    VF totals[kTogether][kVectors];
    for (size_t t = 0; t < kTogether; ++t) {
      for (size_t v = 0; v < kVectors; ++v) totals[t][v] = hn::LoadU(d, out + t * width + v * lanes);
    }
    for (size_t i = 0; i < width; ++i) {
      VF row[kVectors];
      for (size_t v = 0; v < kVectors; ++v) row[v] = hn::LoadU(d, matrix + i * width + v * lanes);
#pragma GCC unroll 4
      for (size_t t = 0; t < kTogether; ++t) {
        const VF factor = hn::Set(d, factors[t * width + i]);
#pragma GCC unroll 3
        for (size_t v = 0; v < kVectors; ++v) totals[t][v] = hn::MulAdd(factor, row[v], totals[t][v]);
      }
    }
    for (size_t t = 0; t < kTogether; ++t) {
      for (size_t v = 0; v < kVectors; ++v) hn::StoreU(totals[t][v], d, out + t * width + v * lanes);
    }
  }
}

bool AddComplete(const SparseRows& rows, const float* matrix, float* sums) {
  constexpr size_t kMost = 3;
  bool all = true, any = false;
  for (size_t t = 0; t < rows.counts.size(); t += kTogether) {
    const bool complete = IsComplete(rows, t);
    all = all && complete;
    any = any || complete;
  }
  if (!any) return false;
  const size_t lanes = hn::Lanes(DF());
  size_t j = 0;
  for (; j + kMost * lanes <= rows.width; j += kMost * lanes) AddCompleteColumns<kMost>(rows, matrix + j, sums + j);
  for (; j < rows.width; j += lanes) AddCompleteColumns<1>(rows, matrix + j, sums + j);
  return all;
}

// Columns [first, first + kVectors * lanes) of the other tokens: the columns' part of the matrix stays in the first cache, a
// token's sums in registers. Eight chains hide the latency of a fused multiply-add.
template <size_t kVectors>
void AddColumns(const SparseRows& rows, const float* HWY_RESTRICT matrix, float* HWY_RESTRICT sums) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  PrefetchColumns(rows.width, matrix, kVectors * lanes);
  for (size_t t = 0; t < rows.counts.size(); ++t, sums += rows.width) {
    if (IsComplete(rows, t)) continue;
    const float* HWY_RESTRICT factors = rows.factors.data() + t * rows.width;
    const uint32_t* HWY_RESTRICT offsets = rows.offsets.data() + t * rows.width;
    VF totals[kVectors];
    for (size_t v = 0; v < kVectors; ++v) totals[v] = hn::LoadU(d, sums + v * lanes);
    for (size_t i = 0; i < rows.counts[t]; ++i) {
      const VF factor = hn::Set(d, factors[i]);
      const float* HWY_RESTRICT row = Kept(matrix + offsets[i]);
#pragma GCC unroll 8
      for (size_t v = 0; v < kVectors; ++v) totals[v] = hn::MulAdd(factor, hn::LoadU(d, row + v * lanes), totals[v]);
    }
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(totals[v], d, sums + v * lanes);
  }
}

void AddRows(const SparseRows& rows, const float* matrix, float* sums) {
  if (AddComplete(rows, matrix, sums)) return;
  constexpr size_t kMost = 8;
  const size_t lanes = hn::Lanes(DF());
  size_t j = 0;
  for (; j + kMost * lanes <= rows.width; j += kMost * lanes) AddColumns<kMost>(rows, matrix + j, sums + j);
  for (; j + 4 * lanes <= rows.width; j += 4 * lanes) AddColumns<4>(rows, matrix + j, sums + j);
  for (; j < rows.width; j += lanes) AddColumns<1>(rows, matrix + j, sums + j);
}

// Predictions take tokens side by side, for it is the matrix that has zeros now. A tile is so many tokens: the next one's,
// when `left` are left. Its columns lie together, [d][tile].
HWY_INLINE size_t TileOf(size_t left) {
  size_t tile = 8 * hn::Lanes(DF());
  while (tile > left) tile /= 2;
  return tile;
}

// One block of sources for all columns of a tile.
template <size_t kVectors>
void PredictBlock(const HeadGroup::SparseMatrix& matrix, size_t block, size_t width, const float* HWY_RESTRICT source,
                  float* HWY_RESTRICT sums) {
  const DF d;
  const size_t lanes = hn::Lanes(d), tile = kVectors * lanes;
  const HeadGroup::SparseMatrix::Entry* entry = matrix.entries.data();
  const uint32_t* ends = &matrix.ends[block * width];
  size_t at = block == 0 ? 0 : ends[-1];
  for (size_t j = 0; j < width; ++j, sums += tile) {
    if (at == ends[j]) continue;
    VF totals[kVectors];
    for (size_t v = 0; v < kVectors; ++v) totals[v] = hn::LoadU(d, sums + v * lanes);
    for (; at < ends[j]; ++at) {
      const VF factor = hn::Set(d, entry[at].value);
      const float* HWY_RESTRICT row = Kept(source + entry[at].row * tile);
#pragma GCC unroll 8
      for (size_t v = 0; v < kVectors; ++v) totals[v] = hn::MulAdd(factor, hn::LoadU(d, row + v * lanes), totals[v]);
    }
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(totals[v], d, sums + v * lanes);
  }
}

void PredictBlockOf(size_t tile, const HeadGroup::SparseMatrix& matrix, size_t block, size_t width, const float* source,
                    float* sums) {
  const size_t vectors = tile / hn::Lanes(DF());
  if (vectors == 8) return PredictBlock<8>(matrix, block, width, source, sums);
  if (vectors == 4) return PredictBlock<4>(matrix, block, width, source, sums);
  if (vectors == 2) return PredictBlock<2>(matrix, block, width, source, sums);
  return PredictBlock<1>(matrix, block, width, source, sums);
}

// Between rows of tokens and tiles of columns.
void RowsFromColumns(size_t tokens, size_t width, const float* HWY_RESTRICT columns, float* HWY_RESTRICT rows) {
  const Eight d;
  for (size_t first = 0, tile; first < tokens; first += tile) {
    tile = TileOf(tokens - first);
    for (size_t j = 0; j < width; j += 8) {
      for (size_t t = 0; t < tile; t += 8) {
        hn::Vec<Eight> v[8];
        for (size_t i = 0; i < 8; ++i) v[i] = hn::LoadU(d, columns + first * width + (j + i) * tile + t);
        Transpose(v);
        for (size_t i = 0; i < 8; ++i) hn::StoreU(v[i], d, rows + (first + t + i) * width + j);
      }
    }
  }
}

// A value is ordinary if it is 0 or between 2^-60 and 2^127: its products with a predictor's numbers, which are at least 2^-32
// large and have 24 bits, are multiples of 2^-138, and so are sums of them: none is lost below the smallest binary32, none
// is -0, and leaving out a product with 0 changes nothing.
constexpr uint32_t kLeastOrdinary = (127 - 60) << 23, kMostOrdinary = (127 + 127) << 23;

void PrepareSource(size_t tokens, size_t width, SideValues& values) {
  const Eight d;
  const hn::Repartition<uint32_t, Eight> du;
  const auto magnitude_bits = hn::Set(du, 0x7fffffffu), least = hn::Set(du, kLeastOrdinary);
  const auto range = hn::Set(du, kMostOrdinary - kLeastOrdinary);
  auto strange = hn::Zero(du);
  values.columns.resize(tokens * width);
  float* columns = values.columns.data();
  for (size_t first = 0, tile; first < tokens; first += tile) {
    tile = TileOf(tokens - first);
    for (size_t t = 0; t < tile; t += 8) {
      for (size_t j = 0; j < width; j += 8) {
        hn::Vec<Eight> v[8];
        for (size_t i = 0; i < 8; ++i) {
          v[i] = hn::LoadU(d, values.rows.data() + (first + t + i) * width + j);
          const auto magnitude = hn::And(hn::BitCast(du, v[i]), magnitude_bits);
          const auto above = hn::Sub(magnitude, least);  // wraps around below
          const auto outside = hn::Ne(hn::Max(above, range), range);
          strange = hn::Or(strange, hn::IfThenElseZero(outside, magnitude));
        }
        Transpose(v);
        for (size_t i = 0; i < 8; ++i) hn::StoreU(v[i], d, columns + first * width + (j + i) * tile + t);
      }
    }
  }
  values.ordinary = hn::AllTrue(du, hn::Eq(strange, hn::Zero(du)));
}

void Predict(const HeadGroup::Side& side, size_t tokens, absl::Span<const SideValues* const> sources, SideValues& out) {
  const size_t width = side.mean.size();
  bool ordinary = true;
  for (const SideValues* source : sources) ordinary = ordinary && source->ordinary;
  if (sources.empty() || !ordinary) return reference::Predict(side, tokens, sources, out);
  out.columns.assign(tokens * width, 0.0f);
  out.rows.resize(tokens * width);
  for (size_t first = 0, tile; first < tokens; first += tile) {
    tile = TileOf(tokens - first);
    size_t block = 0;
    for (const SideValues* source : sources) {
      for (size_t row = 0; row < width; row += kPredictorBlock, ++block) {
        PredictBlockOf(tile, side.sparse_predictor, block, width, &source->columns[first * width + row * tile],
                       &out.columns[first * width]);
      }
    }
  }
  RowsFromColumns(tokens, width, out.columns.data(), out.rows.data());
}

// The lowest or the highest half of a pair's turning for eight channels: x * cos + partner * sin, each operation rounded by
// itself. A sine with its sign gives the bits of a subtraction.
template <RopeStyle kRope, bool kF16>
void WriteHead(const HeadRows& rows, const TileTarget& target) {
  const Eight d;
  const hn::Repartition<uint32_t, Eight> du;
  const hn::Rebind<uint16_t, Eight> d16;
  const size_t half = rows.head_dim / 2;
  const auto value_at = [&](const float* centred, size_t at)
                            HWY_ATTR { return hn::Add(hn::LoadU(d, centred + at), hn::LoadU(d, rows.mean + at)); };
  for (size_t t = rows.first; t < rows.last; ++t) {
    const float* centred = rows.centred + t * rows.width;
    const size_t angle = t * rows.head_dim;
    uint16_t* out = target.base + t * target.token_stride;
    for (size_t at = 0; at < rows.head_dim; at += 8) {
      auto value = value_at(centred, at);
      if constexpr (kRope != RopeStyle::kNone) {
        const auto partner = kRope == RopeStyle::kInterleaved ? hn::Shuffle2301(value)
                                                              : value_at(centred, at < half ? at + half : at - half);
        const auto own = hn::Mul(value, hn::LoadU(d, rows.angles.cos.data() + angle + at));
        value = hn::Add(own, hn::Mul(partner, hn::LoadU(d, rows.angles.sin.data() + angle + at)));
      }
      if constexpr (kF16) {
        const hn::Rebind<hwy::float16_t, Eight> dh;
        const auto nan = hn::IsNaN(value);
        const auto finite = hn::PromoteTo(du, hn::BitCast(d16, hn::DemoteTo(dh, value)));
        hn::StoreU(
            hn::DemoteTo(d16, hn::BitCast(hn::Repartition<int32_t, Eight>(),
                                          hn::IfThenElse(hn::RebindMask(du, nan), hn::Set(du, 0x7fffu), finite))),
            d16, out + at);
      } else {
        const auto bits = hn::BitCast(du, value);
        const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
        const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd));
        const auto nan = hn::RebindMask(du, hn::IsNaN(value));
        hn::StoreU(hn::DemoteTo(d16, hn::BitCast(hn::Repartition<int32_t, Eight>(),
                                                 hn::IfThenElse(nan, hn::Set(du, 0x7fffu), rounded))),
                   d16, out + at);
      }
    }
  }
}

template <bool kF16>
void WriteRowsOf(const HeadRows& rows, const TileTarget& target) {
  switch (rows.rope) {
    case RopeStyle::kNone:
      return WriteHead<RopeStyle::kNone, kF16>(rows, target);
    case RopeStyle::kHalves:
      return WriteHead<RopeStyle::kHalves, kF16>(rows, target);
    case RopeStyle::kInterleaved:
      return WriteHead<RopeStyle::kInterleaved, kF16>(rows, target);
  }
}

void WriteRows(const HeadRows& rows, const TileTarget& target) {
  return rows.dtype == Dtype::kF16 ? WriteRowsOf<true>(rows, target) : WriteRowsOf<false>(rows, target);
}

#endif  // HWY_TARGET

}  // namespace kvist::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvist::simd {
namespace {

HWY_EXPORT(AddRows);
HWY_EXPORT(Predict);
HWY_EXPORT(PrepareSource);
HWY_EXPORT(WriteRows);

}  // namespace

const QFunctions& Q() {
  static constexpr QFunctions kFunctions = {
      .read_rows = &ReadRows,
      .add_rows =
          [](const SparseRows& rows, const float* matrix, float* sums) {
            HWY_DYNAMIC_DISPATCH(AddRows)
            (rows, matrix, sums);
          },
      .predict =
          [](const HeadGroup::Side& side, size_t tokens, absl::Span<const SideValues* const> sources, SideValues& out) {
            HWY_DYNAMIC_DISPATCH(Predict)
            (side, tokens, sources, out);
          },
      .prepare_source =
          [](size_t tokens, size_t width, SideValues& values) {
            HWY_DYNAMIC_DISPATCH(PrepareSource)
            (tokens, width, values);
          },
      .write_rows =
          [](const HeadRows& rows, const TileTarget& target) {
            HWY_DYNAMIC_DISPATCH(WriteRows)
            (rows, target);
          },
  };
  return kFunctions;
}

}  // namespace kvist::simd
#endif  // HWY_ONCE
