#include "kernels/q/encode.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/encode_floor.h"
#include "kernels/header.h"
#include "kernels/q/profile.h"
#include "kernels/q/stream_table.h"

namespace kvist {

absl::Status CheckEncodesQ(const EncodeOptions& options, const BlockShape& shape) {
  if (options.profile == nullptr) return absl::InvalidArgumentError("q needs a profile; none was given");
  if (options.key_bits != 0 || options.value_bits != 0 || !options.tile_bits.empty()) {
    return absl::InvalidArgumentError("q has no bits to choose: its profile decides");
  }
  if (!options.profile->CanEncode()) {
    return absl::FailedPreconditionError("the profile was not prepared for encoding (PrepareEncoding)");
  }
  return CheckProfileIsOf(*options.profile, shape);
}

absl::Status CheckIdentityQ(const BlockIdentity& identity, const Profile& profile) {
  if (identity.profile_digest == profile.digest()) return absl::OkStatus();
  return absl::InvalidArgumentError("the identity's profile digest is not the profile's");
}

QEncoder::QEncoder(const BlockIdentity& identity, const BlockShape& shape, const ConstPages& pages,
                   const EncodeOptions& options, const QFunctions& functions)
    : angles_(BlockAngles(options.profile->facts(), identity.first_position, shape.tokens)) {
  BlockShape of_group = shape;
  ConstPages from = pages;
  groups_.reserve(options.profile->groups().size());
  for (const HeadGroup& group : options.profile->groups()) {
    of_group.heads = group.facts().heads;
    groups_.emplace_back(group, of_group, from, angles_, identity.first_position, TileFloorDb(options, 0), functions);
    from.base += of_group.heads * from.head_stride;
  }
}

QEncoder::Pieces QEncoder::EncodeLayer(uint32_t layer) {
  std::vector<CodedLayer> coded;
  for (GroupEncoder& group : groups_) coded.push_back(group.EncodeLayer(layer));
  Pieces pieces;
  std::vector<uint8_t> sqnr, records;
  pieces.worst_db = INFINITY;
  for (const size_t kv : {0, 1}) {  // the tiles of a layer: K of all heads, then V
    for (const CodedLayer& group : coded) {
      const size_t heads = group.modes.size() / 2;
      for (size_t tile = kv * heads; tile < (kv + 1) * heads; ++tile) {
        pieces.side.push_back(uint8_t(group.modes[tile]));
        pieces.raised_tiles += group.modes[tile] != TileMode::kOwn;
        sqnr.push_back(TileSqnr(group.sqnr_db[tile]));
        records.insert(records.end(), group.records[tile].begin(), group.records[tile].end());
        pieces.worst_db = std::min(pieces.worst_db, group.sqnr_db[tile]);
      }
    }
  }
  pieces.side.insert(pieces.side.end(), sqnr.begin(), sqnr.end());
  pieces.side.insert(pieces.side.end(), records.begin(), records.end());
  std::vector<std::vector<uint8_t>> streams;
  for (CodedLayer& group : coded) streams.push_back(std::move(group.stream));
  pieces.stream = JoinStreams(streams);
  return pieces;
}

}  // namespace kvist
