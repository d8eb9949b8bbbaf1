#include "kernels/q/decode.h"

#include <cstring>

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

absl::Status DecodeLayer(const BlockView& block, uint32_t layer, const Profile& profile, const QFunctions& functions,
                         LayerRows& rows, History& history) {
  if (absl::Status status = functions.read_rows(profile, layer, block.shape().tokens, block.PlaneBytes(1, layer), rows);
      !status.ok()) {
    return status;
  }
  for (size_t kv : kSideOrder) {
    PredictSide(profile, layer, kv, block.shape().tokens, functions, history);
    AddFactors(profile, layer, kv, rows[kv], functions, history);
  }
  return absl::OkStatus();
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

void WriteQTile(const QTileSource& source, const TileBytes& tile, const QFunctions& functions,
                const TileTarget& target) {
  const ProfileFacts& facts = source.profile.facts();
  const size_t head_dim = facts.head_dim, at = source.head * head_dim;
  const auto row = [&](size_t t) { return target.base + t * target.token_stride; };
  if (tile.mode == TileMode::kRaw16) {
    for (size_t t = 0; t < source.tokens; ++t) std::memcpy(row(t), tile.values + t * 2 * head_dim, 2 * head_dim);
    return;
  }
  const size_t plain = tile.mode == TileMode::kOwn ? source.sinks : source.tokens;
  for (size_t t = 0; t < plain; ++t) {
    ReadPlainRow(tile.wide_rows + t * (1 + head_dim), head_dim, source.dtype, row(t));
  }
  functions.write_rows(
      {&source.profile.layer(source.layer).sides[source.kv].mean[at], &source.values[source.kv].rows[at], facts.Width(),
       source.kv == 0 ? facts.rope : RopeStyle::kNone, source.angles, head_dim, source.dtype, plain, source.tokens},
      target);
}

absl::Status DecodeQ(const BlockView& block, LayerRange layers, const Pages& pages, const Profile* profile,
                     const QFunctions& functions) {
  if (absl::Status status = CheckProfile(block, profile); !status.ok()) return status;
  const BlockShape& shape = block.shape();
  const ProfileFacts& facts = profile->facts();
  const Angles angles = BlockAngles(facts, block.identity().first_position, shape.tokens);
  const size_t sinks = SinksOf(Codec::kQ, block.identity().first_position);
  History history(facts);
  LayerRows rows;
  for (uint32_t layer = facts.LastReset(layers.first); layer < layers.last; ++layer) {
    absl::Status status = DecodeLayer(block, layer, *profile, functions, rows, history);
    if (!status.ok()) return status;
    if (layer >= layers.first) {
      absl::StatusOr<std::vector<TileBytes>> tiles = LayerTiles(block, layer, block.planes());
      if (!tiles.ok()) return tiles.status();
      for (size_t i = 0; i < tiles->size(); ++i) {
        const size_t kv = i / shape.heads, head = i % shape.heads;
        const QTileSource source = {*profile, layer,          kv,          head, shape.tokens,
                                    angles,   history.Next(), shape.dtype, sinks};
        WriteQTile(source, (*tiles)[i], functions, {pages.Row(kv, layer, head, 0), pages.token_stride});
      }
    }
    history.Push();
  }
  return absl::OkStatus();
}

}  // namespace kvist
