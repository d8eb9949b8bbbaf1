#include "kernels/q/decode.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/header.h"
#include "kernels/q/plain_row.h"

namespace kvist {
namespace {

constexpr size_t kStreamsAtOnce = 2;

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

// As many streams as are read at once, from layers.first on.
absl::Status ReadStreams(const BlockView& block, LayerRange layers, const Profile& profile, const QFunctions& functions,
                         absl::Span<LayerRows> rows) {
  const size_t count = std::min<size_t>(kStreamsAtOnce, layers.last - layers.first);
  std::array<absl::Span<const uint8_t>, kStreamsAtOnce> streams;
  for (size_t i = 0; i < count; ++i) streams[i] = block.PlaneBytes(1, layers.first + uint32_t(i));
  return functions.read_rows(profile, layers.first, block.shape().tokens, absl::MakeSpan(streams).first(count),
                             rows.first(count));
}

absl::Status WriteLayer(const BlockView& block, const LayerSource& source, const QFunctions& functions,
                        const Pages& pages) {
  absl::StatusOr<std::vector<TileBytes>> tiles = LayerTiles(block, source.layer, block.planes());
  if (!tiles.ok()) return tiles.status();
  const size_t heads = block.shape().heads;
  for (size_t i = 0; i < tiles->size(); ++i) {
    const size_t kv = i / heads, head = i % heads;
    WriteQTile(source, kv, head, (*tiles)[i], functions, {pages.Row(kv, source.layer, head, 0), pages.token_stride});
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

void WriteQTile(const LayerSource& source, size_t kv, size_t head, const TileBytes& tile, const QFunctions& functions,
                const TileTarget& target) {
  const ProfileFacts& facts = source.profile.facts();
  const size_t head_dim = facts.head_dim, at = head * head_dim;
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
      {&source.profile.layer(source.layer).sides[kv].mean[at], &source.values[kv].rows[at], facts.Width(),
       kv == 0 ? facts.rope : RopeStyle::kNone, source.angles, head_dim, source.dtype, plain, source.tokens},
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
  std::array<LayerRows, kStreamsAtOnce> rows;
  for (uint32_t layer = facts.LastReset(layers.first); layer < layers.last; ++layer) {
    const size_t at = (layer - facts.LastReset(layers.first)) % kStreamsAtOnce;
    if (at == 0) {
      absl::Status status = ReadStreams(block, {layer, layers.last}, *profile, functions, absl::MakeSpan(rows));
      if (!status.ok()) return status;
    }
    for (size_t kv : kSideOrder) {
      PredictSide(*profile, layer, kv, shape.tokens, functions, history);
      AddFactors(*profile, layer, kv, rows[at][kv], functions, history);
    }
    if (layer >= layers.first) {
      const LayerSource source = {*profile, layer, shape.tokens, angles, history.Next(), shape.dtype, sinks};
      absl::Status status = WriteLayer(block, source, functions, pages);
      if (!status.ok()) return status;
    }
    history.Push();
  }
  return absl::OkStatus();
}

}  // namespace kvist
