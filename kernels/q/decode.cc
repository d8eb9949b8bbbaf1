#include "kernels/q/decode.h"

#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/header.h"
#include "kernels/q/plain_row.h"

namespace kvist {
namespace {

std::string Hex(const std::array<uint8_t, 16>& digest) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

absl::Status CheckProfile(const BlockView& block, const Profile* profile) {
  const std::string digest = Hex(block.identity().profile_digest);
  if (profile == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("a q block needs its profile, ", digest, "; none was given"));
  }
  if (profile->digest() != block.identity().profile_digest) {
    return absl::FailedPreconditionError(
        absl::StrCat("a q block of profile ", digest, "; the profile that was given is ", Hex(profile->digest())));
  }
  if (absl::Status status = CheckProfileShape(*profile, block.shape()); !status.ok()) {
    return absl::DataLossError(status.message());
  }
  if (block.code_bits() == LayersBetweenResets(*profile)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("header: ", block.code_bits(), " layers between resets; its profile has ",
                                          LayersBetweenResets(*profile)));
}

absl::StatusOr<LayerValues> DecodeLayer(const BlockView& block, uint32_t layer, const Profile& profile,
                                        const History& history, AddProductFunction add) {
  const size_t tokens = block.shape().tokens;
  absl::StatusOr<LayerCoefficients> coefficients = ReadCoefficients(profile, layer, tokens, block.PlaneBytes(1, layer));
  if (!coefficients.ok()) return coefficients.status();
  LayerValues values;
  for (size_t kv : kSideOrder) {
    values[kv] = Predicted(profile, layer, kv, tokens, history.Before(layer), values, add);
    AddCoefficients(profile, layer, kv, (*coefficients)[kv], add, values[kv]);
  }
  return values;
}

}  // namespace

absl::Status CheckProfileShape(const Profile& profile, const BlockShape& shape) {
  const ProfileFacts& facts = profile.facts();
  if (facts.layers == shape.layers && facts.heads == shape.heads && facts.head_dim == shape.head_dim) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("the profile is of ", facts.layers, " layers, ", facts.heads,
                                                 " heads and head_dim ", facts.head_dim, "; the block has ",
                                                 shape.layers, ", ", shape.heads, " and ", shape.head_dim));
}

int LayersBetweenResets(const Profile& profile) {
  const uint32_t layers = profile.facts().layers_between_resets;
  return layers == 0 ? kNeverResets : int(layers);
}

void WriteQTile(const QTileSource& source, const TileBytes& tile, const TileTarget& target) {
  const size_t head_dim = source.profile.facts().head_dim, width = source.profile.facts().Width();
  const size_t pairs = source.angles.size() / source.tokens;
  const size_t plain = tile.mode == TileMode::kOwn ? source.sinks : source.tokens;
  for (size_t t = 0; t < source.tokens; ++t) {
    uint16_t* out = target.base + t * target.token_stride;
    if (tile.mode == TileMode::kRaw16) {
      std::memcpy(out, tile.values + t * 2 * head_dim, 2 * head_dim);
    } else if (t < plain) {
      ReadPlainRow(tile.wide_rows + t * (1 + head_dim), head_dim, source.dtype, out);
    } else {
      WriteRow(source.profile, source.layer, source.kv, source.head, source.angles.subspan(t * pairs, pairs),
               source.dtype, &source.values[source.kv][t * width + source.head * head_dim], out);
    }
  }
}

absl::Status DecodeQ(const BlockView& block, LayerRange layers, const Pages& pages, const Profile* profile,
                     AddProductFunction add) {
  if (absl::Status status = CheckProfile(block, profile); !status.ok()) return status;
  const BlockShape& shape = block.shape();
  const ProfileFacts& facts = profile->facts();
  const std::vector<CosSin> angles = BlockAngles(facts, block.identity().first_position, shape.tokens);
  const size_t sinks = SinksOf(Codec::kQ, block.identity().first_position);
  History history(facts);
  for (uint32_t layer = facts.LastReset(layers.first); layer < layers.last; ++layer) {
    absl::StatusOr<LayerValues> values = DecodeLayer(block, layer, *profile, history, add);
    if (!values.ok()) return values.status();
    if (layer >= layers.first) {
      absl::StatusOr<std::vector<TileBytes>> tiles = LayerTiles(block, layer, block.planes());
      if (!tiles.ok()) return tiles.status();
      for (size_t i = 0; i < tiles->size(); ++i) {
        const size_t kv = i / shape.heads, head = i % shape.heads;
        const QTileSource source = {*profile, layer, kv, head, shape.tokens, angles, *values, shape.dtype, sinks};
        WriteQTile(source, (*tiles)[i], {pages.Row(kv, layer, head, 0), pages.token_stride});
      }
    }
    history.Push(*std::move(values));
  }
  return absl::OkStatus();
}

}  // namespace kvist
