// The part of decoding that no vector unit matters to: checks what was asked for, finds each tile, hands it on.
#ifndef KVIST_KERNELS_DECODE_LAYERS_H_
#define KVIST_KERNELS_DECODE_LAYERS_H_

#include "absl/status/status.h"
#include "kernels/codec.h"
#include "kernels/tile.h"

namespace kvist {

// Contract of Decode (codec.h), with `decode_tile` doing the arithmetic.
absl::Status DecodeLayers(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages,
                          bool stream, DecodeTileFunction decode_tile);

}  // namespace kvist

#endif  // KVIST_KERNELS_DECODE_LAYERS_H_
