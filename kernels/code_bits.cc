#include "kernels/code_bits.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

bool HasBits(Codec codec, int bits) {
  return CodePlanes(codec, bits) != 0 || bits == DefaultBits(codec).key || IsKeptWide(codec, bits);
}

absl::Status CheckBits(Codec codec, int bits, absl::string_view name) {
  if (HasBits(codec, bits)) return absl::OkStatus();
  std::string known;
  for (int other = 1; other <= 16; ++other) {
    if (!HasBits(codec, other)) continue;
    absl::StrAppend(&known, known.empty() ? "" : ", ", other);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(name, " ", bits, "; ", std::string(CodecName(codec)), " has 0 (its own), ", known));
}

LayerBits Chosen(const LayerBits& asked, const LayerBits& otherwise) {
  return {asked.key == 0 ? otherwise.key : asked.key, asked.value == 0 ? otherwise.value : asked.value};
}

}  // namespace

absl::StatusOr<BlockBits> BitsOf(const EncodeOptions& options, const BlockShape& shape) {
  if (!options.layer_bits.empty() && options.layer_bits.size() != shape.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer_bits of ", options.layer_bits.size(), " layers; the block has ", shape.layers));
  }
  const LayerBits of_block = Chosen({options.key_bits, options.value_bits}, DefaultBits(options.codec));
  BlockBits bits;
  bits.layers.assign(shape.layers, of_block);
  for (size_t layer = 0; layer < options.layer_bits.size(); ++layer) {
    bits.layers[layer] = Chosen(options.layer_bits[layer], of_block);
  }
  for (size_t layer = 0; layer < bits.layers.size(); ++layer) {
    const LayerBits& of_layer = bits.layers[layer];
    for (const absl::Status& status :
         {CheckBits(options.codec, of_layer.key, "key_bits"), CheckBits(options.codec, of_layer.value, "value_bits")}) {
      if (!status.ok()) return status;
    }
    for (int of_side : {of_layer.key, of_layer.value}) {
      if (IsKeptWide(options.codec, of_side)) continue;
      bits.most = std::max(bits.most, of_side);
      bits.least = bits.least == 0 ? of_side : std::min(bits.least, of_side);
    }
  }
  if (bits.most != 0) return bits;
  return absl::InvalidArgumentError(absl::StrCat("all layers have 8 bits; ", std::string(CodecName(options.codec)),
                                                 " needs one with fewer, i8 is made for 8"));
}

}  // namespace kvist
