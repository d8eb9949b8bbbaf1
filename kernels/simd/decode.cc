#include "kernels/simd/decode.h"
#include "kernels/reference/decode.h"
namespace kvist::simd {
void DecodeTile(const TileView& tile, int bits, Basis basis, const TileRows& out) { reference::DecodeTile(tile, bits, basis, out); }
}  // namespace kvist::simd
