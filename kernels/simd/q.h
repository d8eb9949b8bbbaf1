// Codec q's arithmetic with vectors: bit-identical to reference/q.h. Internal to kernels.
//
// Threads pure functions.
// Why     Only where a fused multiply-add is one instruction; elsewhere this is the oracle.
#ifndef KVIST_KERNELS_SIMD_Q_H_
#define KVIST_KERNELS_SIMD_Q_H_

#include "kernels/q/reconstruct.h"

namespace kvist::simd {

const QFunctions& Q();

}  // namespace kvist::simd

#endif  // KVIST_KERNELS_SIMD_Q_H_
