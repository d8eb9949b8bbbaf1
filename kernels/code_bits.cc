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

absl::Status CheckSides(Codec codec, const SideBits& sides) {
  if (absl::Status status = CheckBits(codec, sides.key, "key_bits"); !status.ok()) return status;
  return CheckBits(codec, sides.value, "value_bits");
}

}  // namespace

absl::StatusOr<BlockBits> BitsOf(const EncodeOptions& options, const BlockShape& shape) {
  const size_t heads = shape.heads, tiles = size_t{shape.layers} * 2 * heads;
  const absl::Span<const uint8_t> own = options.tile_bits;
  if (!own.empty() && own.size() != tiles) {
    return absl::InvalidArgumentError(absl::StrCat("tile_bits of ", own.size(), " tiles; the block has ", tiles));
  }
  SideBits sides = DefaultBits(options.codec);
  if (options.key_bits != 0) sides.key = options.key_bits;
  if (options.value_bits != 0) sides.value = options.value_bits;
  if (absl::Status status = CheckSides(options.codec, sides); !status.ok()) return status;
  BlockBits bits{.heads = heads, .tiles = std::vector<uint8_t>(tiles)};
  for (size_t i = 0; i < tiles; ++i) {
    const int of_side = i / heads % 2 == 0 ? sides.key : sides.value;
    const int of_tile = own.empty() || own[i] == 0 ? of_side : own[i];
    if (absl::Status status = CheckBits(options.codec, of_tile, "tile_bits"); !status.ok()) return status;
    bits.tiles[i] = uint8_t(of_tile);
    if (IsKeptWide(options.codec, of_tile) || i % heads + options.exact_heads >= heads) continue;
    bits.most = std::max(bits.most, of_tile);
    bits.least = bits.least == 0 ? of_tile : std::min(bits.least, of_tile);
  }
  if (bits.most != 0) return bits;
  return absl::InvalidArgumentError(absl::StrCat("all tiles have 8 bits; ", std::string(CodecName(options.codec)),
                                                 " needs one with fewer, i8 is made for 8"));
}

}  // namespace kvist
