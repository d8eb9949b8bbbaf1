// The small enumerations of the format, apart from the headers that need Abseil: device code includes this one.
#ifndef KVIST_KERNELS_KINDS_H_
#define KVIST_KERNELS_KINDS_H_

#include <cstdint>

namespace kvist {

enum class Dtype : uint8_t { kBf16 = 1, kF16 = 2, kF8E4M3 = 3, kF8E5M2 = 4, kU8 = 5 };  // u8: opaque bytes
enum class Codec : uint8_t { kRaw16 = 1, kI8 = 2, kLadder = 3, kX16 = 4, kFp8p = 5, kTrellis = 6, kQ = 7 };
enum class TileMode : uint8_t { kOwn = 0, kRotatedI8 = 1, kRaw16 = 2 };

// Of one element. fp8p takes the dtypes of one byte, and only these; all other codecs the others.
constexpr uint32_t ElementBytes(Dtype dtype) { return dtype == Dtype::kBf16 || dtype == Dtype::kF16 ? 2 : 1; }
constexpr bool TakesDtype(Codec codec, Dtype dtype) { return (codec == Codec::kFp8p) == (ElementBytes(dtype) == 1); }

// Codecs that keep values as they are and say nothing beside them.
constexpr bool KeepsValues(Codec codec) { return codec == Codec::kRaw16 || codec == Codec::kFp8p; }

// What Decode writes for a codec that rotates: the original values, or each head's vector as the codec keeps it,
// multiplied by FORMAT.md's orthonormal matrix R (q.k is unchanged when q is rotated as well). A codec that does not
// rotate, and a ladder block with a tile that had to be kept raw16, refuse kKeptRotated with FailedPrecondition: one
// page must not mix two bases.
enum class Basis : uint8_t { kOriginal = 0, kKeptRotated = 1 };

// Codecs whose tiles are kept rotated, with sinks apart, and may have codes of different lengths.
constexpr bool IsRotated(Codec codec) { return codec == Codec::kLadder || codec == Codec::kTrellis; }

}  // namespace kvist

#endif  // KVIST_KERNELS_KINDS_H_
