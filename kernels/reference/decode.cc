#include "kernels/reference/decode.h"

#include "kernels/decode_layers.h"
#include "kernels/reference/decode_tile.h"
#include "kernels/reference/q.h"

namespace kvist::reference {

absl::Status Decode(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages,
                    const Profile* profile) {
  return DecodeLayers(block, layers, precision, basis, pages, /*stream=*/false, {&DecodeTile, Q()}, profile);
}

}  // namespace kvist::reference
