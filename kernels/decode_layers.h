// The part of decoding that no vector unit matters to: checks what was asked for, finds each tile, hands it on.
#ifndef KVIST_KERNELS_DECODE_LAYERS_H_
#define KVIST_KERNELS_DECODE_LAYERS_H_

#include "absl/status/status.h"
#include "kernels/codec.h"
#include "kernels/q/reconstruct.h"
#include "kernels/tile.h"

namespace kvist {

// What does the arithmetic.
struct DecodeFunctions {
  DecodeTileFunction decode_tile;
  const QFunctions& q;
};

// Contract of Decode (codec.h).
absl::Status DecodeLayers(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages,
                          bool stream, const DecodeFunctions& functions, const Profile* profile);

}  // namespace kvist

#endif  // KVIST_KERNELS_DECODE_LAYERS_H_
