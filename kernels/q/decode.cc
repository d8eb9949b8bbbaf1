#include "kernels/q/decode.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/header.h"
#include "kernels/q/plain_row.h"
#include "kernels/q/stream_table.h"

namespace kvist {
namespace {

constexpr size_t kStreamsAtOnce = 2;

absl::Status CheckProfile(const BlockView& block, const Profile* profile) {
  const std::string digest = DigestText(block.identity().profile_digest);
  if (profile == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("a q block needs its profile, ", digest, "; none was given"));
  }
  if (profile->digest() != block.identity().profile_digest) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a q block of profile ", digest, "; the profile that was given is ", DigestText(profile->digest())));
  }
  if (absl::Status status = CheckProfileIsOf(*profile, block.shape()); !status.ok()) {
    return absl::DataLossError(status.message());
  }
  if (block.code_bits() == LayersBetweenResets(*profile)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("header: ", block.code_bits(), " layers between resets; its profile has ",
                                          LayersBetweenResets(*profile)));
}

// One call of Decode.
struct Request {
  const BlockView& block;
  const LayerRange layers;
  const Pages& pages;
  const Profile& profile;
  const QFunctions& functions;
  const Angles angles;
  std::vector<std::vector<TileBytes>> tiles = {};  // of the layers that are asked for, all heads
};

// As many streams of a group as are read at once, from layers.first on.
absl::Status ReadStreams(const Request& request, size_t index, LayerRange layers, absl::Span<LayerRows> rows) {
  const std::vector<HeadGroup>& groups = request.profile.groups();
  const size_t count = std::min<size_t>(kStreamsAtOnce, layers.last - layers.first);
  std::array<absl::Span<const uint8_t>, kStreamsAtOnce> streams;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t layer = layers.first + uint32_t(i);
    const auto stream = GroupStream(request.block.PlaneBytes(1, layer), index, groups.size());
    if (!stream.ok()) return absl::DataLossError(absl::StrCat("layer ", layer, ": ", stream.status().message()));
    streams[i] = *stream;
  }
  const absl::Status read = request.functions.read_rows(groups[index], layers.first, request.block.shape().tokens,
                                                        absl::MakeSpan(streams).first(count), rows.first(count));
  if (read.ok()) return read;
  return absl::DataLossError(absl::StrCat(request.profile.facts().GroupPrefix(index), read.message()));
}

void WriteLayer(const Request& request, size_t index, const LayerSource& source) {
  const std::vector<TileBytes>& tiles = request.tiles[source.layer - request.layers.first];
  const size_t heads = source.group.facts().heads, first = index * heads;
  for (size_t kv = 0; kv < 2; ++kv) {
    for (size_t head = 0; head < heads; ++head) {
      const TileTarget target = {request.pages.Row(kv, source.layer, first + head, 0), request.pages.token_stride};
      const TileBytes& tile = tiles[kv * request.block.shape().heads + first + head];
      WriteQTile(source, kv, head, tile, request.functions, target);
    }
  }
}

absl::Status DecodeGroup(const Request& request, size_t index) {
  const BlockShape& shape = request.block.shape();
  const HeadGroup& group = request.profile.groups()[index];
  const QFunctions& functions = request.functions;
  const size_t sinks = SinksOf(Codec::kQ, request.block.identity().first_position);
  const LayerRange& asked = request.layers;
  const uint32_t start = group.facts().LastReset(asked.first);
  History history(group.facts());
  std::array<LayerRows, kStreamsAtOnce> rows;
  for (uint32_t layer = start; layer < asked.last; ++layer) {
    const size_t at = (layer - start) % kStreamsAtOnce;
    if (at == 0) {
      absl::Status status = ReadStreams(request, index, {layer, asked.last}, absl::MakeSpan(rows));
      if (!status.ok()) return status;
    }
    for (size_t kv : kSideOrder) {
      PredictSide(group, layer, kv, shape.tokens, functions, history);
      AddFactors(group, layer, kv, rows[at][kv], functions, history);
    }
    if (layer >= asked.first) {
      WriteLayer(request, index, {group, layer, shape.tokens, request.angles, history.Next(), shape.dtype, sinks});
    }
    history.Push();
  }
  return absl::OkStatus();
}

}  // namespace

int LayersBetweenResets(const Profile& profile) {
  const uint32_t layers = profile.facts().layers_between_resets;
  return layers == 0 ? kNeverResets : int(layers);
}

void WriteQTile(const LayerSource& source, size_t kv, size_t head, const TileBytes& tile, const QFunctions& functions,
                const TileTarget& target) {
  const ProfileFacts& facts = source.group.facts();
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
      {&source.group.layer(source.layer).sides[kv].mean[at], &source.values[kv].rows[at], facts.Width(),
       kv == 0 ? facts.rope : RopeStyle::kNone, source.angles, head_dim, source.dtype, plain, source.tokens},
      target);
}

absl::Status DecodeQ(const BlockView& block, LayerRange layers, const Pages& pages, const Profile* profile,
                     const QFunctions& functions) {
  if (absl::Status status = CheckProfile(block, profile); !status.ok()) return status;
  Request request = {block,     layers,
                     pages,     *profile,
                     functions, BlockAngles(profile->facts(), block.identity().first_position, block.shape().tokens)};
  for (uint32_t layer = layers.first; layer < layers.last; ++layer) {
    absl::StatusOr<std::vector<TileBytes>> tiles = LayerTiles(block, layer, block.planes());
    if (!tiles.ok()) return tiles.status();
    request.tiles.push_back(*std::move(tiles));
  }
  for (size_t index = 0; index < profile->groups().size(); ++index) {
    if (absl::Status status = DecodeGroup(request, index); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kvist
