// The small enumerations of the format, apart from the headers that need Abseil: device code includes this one.
#ifndef KVIST_KERNELS_KINDS_H_
#define KVIST_KERNELS_KINDS_H_

#include <cstdint>

namespace kvist {

enum class Dtype : uint8_t { kBf16 = 1, kF16 = 2 };
enum class Codec : uint8_t { kRaw16 = 1, kI8 = 2, kLadder = 3, kTrellis = 6 };
enum class TileMode : uint8_t { kOwn = 0, kRotatedI8 = 1, kRaw16 = 2 };

// What Decode writes for a codec that rotates: the original values, or each head's vector as the codec keeps it,
// multiplied by FORMAT.md's orthonormal matrix R (q.k is unchanged when q is rotated as well). A codec that does not
// rotate, and a ladder block with a tile that had to be kept raw16, refuse kKeptRotated with FailedPrecondition: one
// page must not mix two bases.
enum class Basis : uint8_t { kOriginal = 0, kKeptRotated = 1 };

// Codecs whose tiles are kept rotated, with sinks apart, and may have codes of different lengths.
constexpr bool IsRotated(Codec codec) { return codec == Codec::kLadder || codec == Codec::kTrellis; }

}  // namespace kvist

#endif  // KVIST_KERNELS_KINDS_H_
