// Values, blocks and broken blocks for the kernels' tests.
#ifndef KVIST_TESTS_KERNELS_BLOCK_BUILDER_H_
#define KVIST_TESTS_KERNELS_BLOCK_BUILDER_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/codec.h"
#include "kernels/half.h"
#include "kernels/header.h"

// After "kernels/*.h": macros of the hash.
#include <xxhash.h>

namespace kvist {

inline std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

inline BlockIdentity IdentityAt(uint32_t first_position) {
  BlockIdentity identity;
  for (size_t i = 0; i < identity.key.size(); ++i) identity.key[i] = uint8_t(i + 1);
  for (size_t i = 0; i < 16; ++i) identity.namespace_digest[i] = uint8_t(0xa0 + i);
  identity.first_position = first_position;
  return identity;
}

// Value of (kv, layer, head, token, channel) before rounding to the block's dtype.
using ValueOf = std::function<float(size_t kv, size_t layer, size_t head, size_t token, size_t d)>;

inline std::vector<uint16_t> Values(const BlockShape& shape, const ValueOf& value_of) {
  std::vector<uint16_t> values;
  values.reserve(shape.Elements());
  for (size_t kv = 0; kv < 2; ++kv)
    for (size_t layer = 0; layer < shape.layers; ++layer)
      for (size_t head = 0; head < shape.heads; ++head)
        for (size_t token = 0; token < shape.tokens; ++token)
          for (size_t d = 0; d < shape.head_dim; ++d)
            values.push_back(Narrow(value_of(kv, layer, head, token, d), shape.dtype));
  return values;
}

inline std::vector<uint16_t> NormalValues(const BlockShape& shape, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  return Values(shape, [&](size_t, size_t, size_t, size_t, size_t) { return normal(random); });
}

inline std::vector<uint8_t> EncodeOrDie(const BlockShape& shape, const std::vector<uint16_t>& values,
                                        const EncodeOptions& options, uint32_t first_position) {
  std::vector<uint8_t> bytes(MaxBlockBytes(shape, options.codec));
  const auto size = Encode(IdentityAt(first_position), shape, ContiguousPages(values.data(), shape, shape.tokens),
                           options, absl::MakeSpan(bytes));
  EXPECT_TRUE(size.ok()) << MessageOf(size.status());
  bytes.resize(size.value_or(0));
  return bytes;
}

inline std::vector<uint8_t> EncodeOrDie(const BlockShape& shape, const std::vector<uint16_t>& values, Codec codec,
                                        uint32_t first_position, float floor_db = 0) {
  return EncodeOrDie(shape, values, EncodeOptions{codec, floor_db}, first_position);
}

inline BlockView ParseOrDie(absl::Span<const uint8_t> bytes) {
  const auto view = BlockView::Parse(bytes);
  EXPECT_TRUE(view.ok()) << MessageOf(view.status());
  return view.value();
}

inline std::vector<uint16_t> DecodeOrDie(const BlockView& view, int precision = 0, Basis basis = Basis::kOriginal) {
  const BlockShape& shape = view.shape();
  std::vector<uint16_t> values(shape.PlainBytes() / 2, 0x5555);
  const absl::Status status =
      Decode(view, {0, shape.layers}, precision, basis, ContiguousPages(values.data(), shape, shape.tokens));
  EXPECT_TRUE(status.ok()) << MessageOf(status);
  return values;
}

// SQNR in dB over a range of two equally long arrays.
inline double SqnrDb(const BlockShape& shape, const std::vector<uint16_t>& values, const std::vector<uint16_t>& decoded,
                     size_t first = 0, size_t count = SIZE_MAX) {
  double signal = 0, noise = 0;
  for (size_t i = first; i < values.size() && i - first < count; ++i) {
    const double value = Widen(values[i], shape.dtype), off = Widen(decoded[i], shape.dtype) - value;
    signal += value * value;
    noise += off * off;
  }
  return noise > 0 ? 10 * std::log10(signal / noise) : INFINITY;
}

// Makes the checksums of table and header right again after a test has changed the bytes under them.
inline void Reseal(std::vector<uint8_t>& bytes) {
  const size_t layers = LoadLe(&bytes[16], 4), planes = bytes[13];
  const size_t prefix = kHeaderBytes + layers * planes * kPlaneEntryBytes;
  if (prefix <= bytes.size()) StoreLe(XXH3_64bits(&bytes[kHeaderBytes], prefix - kHeaderBytes), 8, &bytes[112]);
  StoreLe(XXH3_64bits(bytes.data(), 120), 8, &bytes[120]);
}

// The same for one piece, whose bytes a test has changed.
inline void ResealPiece(std::vector<uint8_t>& bytes, size_t index) {
  uint8_t* entry = &bytes[kHeaderBytes + index * kPlaneEntryBytes];
  StoreLe(XXH3_64bits(&bytes[0] + LoadLe(entry, 4), LoadLe(entry + 4, 4)), 8, entry + 8);
  Reseal(bytes);
}

}  // namespace kvist

#endif  // KVIST_TESTS_KERNELS_BLOCK_BUILDER_H_
