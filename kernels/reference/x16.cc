#include "kernels/reference/x16.h"

#include <algorithm>

#include "kernels/tables.h"
#include "kernels/x16.h"

namespace kvist::reference {

void DecodeX16(const DecodeParameters& parameters, const TileBytes& tile, const TileTarget& target) {
  const size_t head_dim = parameters.head_dim;
  const uint8_t *low = tile.planes[0], *codes = tile.planes[1], *escaped = tile.exponents + kX16RecordBytes;
  for (size_t t = 0; t < parameters.tokens; ++t, low += head_dim, codes += head_dim / 2) {
    for (size_t d = 0; d < head_dim; ++d) {
      const size_t first = d / kStrip * kStrip, half = std::min<size_t>(kStrip, head_dim - first) / 2;
      const size_t i = d - first;
      const uint8_t pair = codes[first / 2 + i % half], code = i < half ? pair & 15 : pair >> 4;
      const uint8_t exponent = code == kX16Escape ? *escaped++ : tile.exponents[code];
      target.base[t * target.token_stride + d] = X16Value(exponent, low[d]);
    }
  }
}

}  // namespace kvist::reference
