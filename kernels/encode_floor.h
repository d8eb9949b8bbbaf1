// Which floor a block promises, and what the errors of a tile are in dB.
//
// Units   dB; in the names of FORMAT.md: a tile's byte is dB * 4, a block's number dB * 256, both rounded down.
// Threads pure functions.
// Errors  FloorOf: InvalidArgument for an unknown codec or a floor out of range.
// Why     The device's encoder measures sums and leaves their logarithm to the host: one function decides for both, so
//         that both write the same block.
#ifndef KVIST_KERNELS_ENCODE_FLOOR_H_
#define KVIST_KERNELS_ENCODE_FLOOR_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/codec.h"

namespace kvist {

// The floor that goes into the header, dB * 256, rounded up, so that what is promised is kept.
// A block with tiles of several lengths promises what its shortest codes can keep.
absl::StatusOr<uint16_t> FloorOf(const EncodeOptions& options, int least_bits = 0);

// What a tile whose codes have `bits` bits has to keep; never below what the block promises.
float TileFloorDb(const EncodeOptions& options, int bits);

// From the sums of squares of a tile's values and of the differences. +infinity for identical tiles, -infinity where the
// ratio means nothing. `finite`: all decoded values are.
double TileSqnrDb(double signal, double noise, bool identical, bool finite);

uint8_t TileSqnr(double db);
uint16_t BlockSqnr(double db);

}  // namespace kvist

#endif  // KVIST_KERNELS_ENCODE_FLOOR_H_
