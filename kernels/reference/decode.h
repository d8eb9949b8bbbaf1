// Decode by the scalar oracle alone; the contract is kvist::Decode's. For tests and for reading beside FORMAT.md.
#ifndef KVIST_KERNELS_REFERENCE_DECODE_H_
#define KVIST_KERNELS_REFERENCE_DECODE_H_

#include "kernels/codec.h"

namespace kvist::reference {

absl::Status Decode(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages,
                    const Profile* profile = nullptr);

}  // namespace kvist::reference

#endif  // KVIST_KERNELS_REFERENCE_DECODE_H_
