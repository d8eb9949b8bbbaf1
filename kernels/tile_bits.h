// Shares bits out among the tiles of a block: more to the heads' keys and values whose errors cost answers most.
//
// Units   bits of a code, in the mean over layers, heads, keys and values.
// Threads pure function.
// Errors  InvalidArgument     a codec whose codes all have one length, or a mean that its codes cannot have: what is allowed.
//         FailedPrecondition  the profile does not say how sensitive its heads are.
// Why     A profile's sensitivity is what errors as large as the values would cost (KLD, up to a factor); a code of b bits leaves a
//         known part of that, so that the best share is found by giving each next bit where it saves most. SmolLM2, ladder, E2 of
//         kvist eval: at 4, 3, 2 bits for all KLD .0035, .0172, .099; at 4.03, 3.07, 2.07 in the mean .0020, .0079, .060.
#ifndef KVIST_KERNELS_TILE_BITS_H_
#define KVIST_KERNELS_TILE_BITS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/codec.h"

namespace kvist {

// [layers][2][heads] of the profile, for EncodeOptions::tile_bits.
absl::StatusOr<std::vector<uint8_t>> BitsByTile(const Profile& profile, Codec codec, float mean_bits);

}  // namespace kvist

#endif  // KVIST_KERNELS_TILE_BITS_H_
