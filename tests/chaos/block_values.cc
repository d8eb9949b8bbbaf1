#include "tests/chaos/block_values.h"

#include <algorithm>
#include <cstdlib>

namespace kvist::testing {

uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

BlockValues::BlockValues(const Namespace& ns, Codec codec, uint64_t salt)
    : shape_(ns.Shape()), codec_(codec), salt_(salt), values_(shape_.Elements()) {
  const Digest digest = NamespaceDigest(ns);
  std::copy_n(digest.begin(), identity_.namespace_digest.size(), identity_.namespace_digest.begin());
  identity_.profile_digest = ns.profile_digest;
  if (codec != Codec::kRaw16) encoded_.resize(MaxBlockBytes(shape_, codec));
}

void BlockValues::Plain(const Key& key, uint16_t* out) const {
  const uint64_t start = Mix(key.Prefix64() ^ Mix(salt_));
  // Raw: all bits but those that would make NaN and Inf. Else magnitudes of 1 to 2, which no codec has to keep raw.
  const uint64_t keep = codec_ == Codec::kRaw16 ? 0xbfffbfffbfffbfff : 0x807f807f807f807f;
  const uint64_t set = codec_ == Codec::kRaw16 ? 0 : 0x3f803f803f803f80;
  for (size_t i = 0; i < shape_.Elements(); i += 4) {
    const uint64_t word = (Mix(start + i) & keep) | set;
    for (size_t j = 0; j < 4; ++j) out[i + j] = static_cast<uint16_t>(word >> (16 * j));
  }
}

const std::vector<uint16_t>& BlockValues::Expected(const Key& key, size_t block) {
  Plain(key, values_.data());
  if (codec_ == Codec::kRaw16) return values_;
  identity_.key = key.bytes;
  identity_.first_position = static_cast<uint32_t>(block * shape_.tokens);
  const auto encoded = Encode(identity_, shape_, ContiguousPages<const uint16_t>(values_.data(), shape_, shape_.tokens),
                              {codec_, 0}, absl::MakeSpan(encoded_));
  if (!encoded.ok()) std::abort();  // the codec refuses values that it must take
  const auto view = BlockView::Parse(absl::MakeConstSpan(encoded_).first(*encoded));
  if (!view.ok() || !Decode(*view, {0, shape_.layers}, 0, Basis::kOriginal,
                            ContiguousPages<uint16_t>(values_.data(), shape_, shape_.tokens))
                         .ok()) {
    std::abort();
  }
  return values_;
}

}  // namespace kvist::testing
