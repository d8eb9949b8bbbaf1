// Decode of codec q behind the waist: for each head group, finds the pieces of each layer since the last reset, and gives out
// those asked for.
#ifndef KVIST_KERNELS_Q_DECODE_H_
#define KVIST_KERNELS_Q_DECODE_H_

#include "absl/status/status.h"
#include "kernels/codec.h"
#include "kernels/q/profile.h"
#include "kernels/q/reconstruct.h"
#include "kernels/tile.h"

namespace kvist {

// As headers have it: kNeverResets for never.
int LayersBetweenResets(const Profile& profile);

// Contract of Decode (codec.h). REQUIRES: the pieces of the layers since the last reset are there.
absl::Status DecodeQ(const BlockView& block, LayerRange layers, const Pages& pages, const Profile* profile,
                     const QFunctions& functions);

// Where the tiles of a layer and head group come from when they are read, each its rows of the stream's values or its record.
struct LayerSource {
  const HeadGroup& group;
  uint32_t layer;
  size_t tokens;
  const Angles& angles;  // of the whole block
  const DecodedLayer& values;
  Dtype dtype;
  size_t sinks;  // leading tokens that are in the record of a tile of its own mode
};
// `head` counts from the group's first.
void WriteQTile(const LayerSource& source, size_t kv, size_t head, const TileBytes& tile, const QFunctions& functions,
                const TileTarget& target);

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_DECODE_H_
