// The 128 header bytes as a struct: field by field what FORMAT.md, "Header" lists. Shared by the writer and the parser.
//
// Units   SQNR in 1/256 dB (65535 = exact).
// Threads pure functions.
#ifndef KVIST_KERNELS_HEADER_H_
#define KVIST_KERNELS_HEADER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/block_format.h"
#include "kernels/code_bits.h"

namespace kvist {

inline constexpr uint8_t kFlagSinks = 1, kFlagRaised = 2, kFlagMixedBits = 4;
inline constexpr uint16_t kSqnrExact = 65535;
inline constexpr uint8_t kCodecVersion = 1;
inline constexpr int kNeverResets = 255;  // in the place of q's layers between resets

struct CodecTraits {
  int planes, code_bits;
};
// Of a block whose codes have `code_bits` bits; 0 = the codec's own number.
constexpr CodecTraits TraitsOf(Codec codec, int code_bits = 0) {
  if (code_bits == 0) code_bits = DefaultBits(codec).key;
  return {1 + CodePlanes(codec, code_bits), code_bits};
}

// A block of a rotated codec that starts its prompt keeps its first tokens apart.
constexpr bool HasSinks(Codec codec, uint32_t first_position) { return IsRotated(codec) && first_position == 0; }

// Leading tokens that are kept in the side's records.
constexpr uint32_t SinksOf(Codec codec, uint32_t first_position) {
  if (codec == Codec::kQ) return first_position == 0 ? 1 : 0;
  return HasSinks(codec, first_position) ? kSinkTokens : 0;
}

struct BlockHeader {
  Codec codec = Codec::kRaw16;
  int code_bits = 0;  // 0 = the codec's own; of q layers between resets
  bool mixed_bits = false;
  BlockShape shape;
  BlockIdentity identity;
  uint64_t block_bytes = 0;
  uint16_t floor_db256 = 0, min_sqnr_db256 = kSqnrExact;
  uint32_t raised_tiles = 0;
  uint64_t table_xxh3 = 0;

  int Planes() const { return TraitsOf(codec, code_bits).planes; }
  size_t Pieces() const { return size_t(Planes()) * shape.layers; }
  size_t PrefixBytes() const { return kHeaderBytes + Pieces() * kPlaneEntryBytes; }
};

// REQUIRES: `out` holds kHeaderBytes. Computes the header's own checksum.
void WriteHeader(const BlockHeader& header, uint8_t* out);

// Errors as BlockView::Parse.
absl::StatusOr<BlockHeader> ReadHeader(absl::Span<const uint8_t> bytes);

// "known are 1 (raw16), ...": for messages about a number that is none of them.
std::string KnownCodecs();

absl::Status CheckTakes(Codec codec, Dtype dtype);  // InvalidArgument names what the codec takes

// Little-endian on every machine; `at` needs no alignment.
uint64_t LoadLe(const uint8_t* at, int size_bytes);
void StoreLe(uint64_t value, int size_bytes, uint8_t* at);

constexpr uint64_t AlignPlane(uint64_t offset) {
  return (offset + kPlaneAlignment - 1) / kPlaneAlignment * kPlaneAlignment;
}

}  // namespace kvist

#endif  // KVIST_KERNELS_HEADER_H_
