// The self-describing block: 128-byte header, plane table, planes. FORMAT.md is the specification; this is its face
// in C++.
//
// Units   bytes in names that end in _bytes, tokens in first_position and tokens, dB in names that end in _db.
// Threads BlockView is immutable after Parse and refers to bytes that the caller keeps alive.
#ifndef KVIST_KERNELS_BLOCK_FORMAT_H_
#define KVIST_KERNELS_BLOCK_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kinds.h"

namespace kvist {

// Every codec of this version, by number.
inline constexpr Codec kKnownCodecs[] = {Codec::kRaw16, Codec::kI8,      Codec::kLadder, Codec::kX16,
                                         Codec::kFp8p,  Codec::kTrellis, Codec::kQ};

// Those that need no profile.
inline constexpr Codec kUncalibratedCodecs[] = {Codec::kRaw16, Codec::kI8,   Codec::kLadder,
                                                Codec::kX16,   Codec::kFp8p, Codec::kTrellis};

std::string_view CodecName(Codec codec);                  // "raw16", "i8", "ladder", "x16", "fp8p", "trellis", "q"
absl::StatusOr<Codec> ParseCodec(std::string_view name);  // InvalidArgument names the known ones
std::string_view DtypeName(Dtype dtype);                  // "bf16", "f16", "f8e4m3", "f8e5m2", "u8"
absl::StatusOr<Dtype> ParseDtype(std::string_view name);

struct BlockShape {
  uint32_t layers = 0;    // 1 to 1024
  uint32_t heads = 0;     // KV heads of this rank's slice, 1 to 256
  uint32_t tokens = 0;    // 16 to 256, a multiple of 16
  uint32_t head_dim = 0;  // 64, 80, 96, 128 or 256; of u8 any multiple of 8 from 16 to 1024
  Dtype dtype = Dtype::kBf16;

  size_t TileElements() const { return size_t{tokens} * head_dim; }
  size_t Elements() const { return 2 * size_t{layers} * heads * TileElements(); }
  size_t RowBytes() const { return size_t{head_dim} * ElementBytes(dtype); }
  size_t RowUnits() const { return RowBytes() / 2; }  // of pages, whose unit is two bytes whatever the dtype
  size_t PlainBytes() const { return Elements() * ElementBytes(dtype); }
  friend bool operator==(const BlockShape&, const BlockShape&) = default;
};

absl::Status ValidateShape(const BlockShape& shape);  // InvalidArgument: which number, and what is allowed

// Who the block is. A reader compares all of it with what it asked for before it uses a byte.
struct BlockIdentity {
  std::array<uint8_t, 32> key{};               // of the block's last token: the whole prefix (FORMAT.md, "Keys")
  std::array<uint8_t, 16> namespace_digest{};  // first half of the namespace's SHA-256
  std::array<uint8_t, 16> profile_digest{};    // of a calibrated codec; zero for none
  uint32_t first_position = 0;                 // position of the first token in its prompt; 0 makes tokens 0..3 sinks
  friend bool operator==(const BlockIdentity&, const BlockIdentity&) = default;
};

inline constexpr size_t kHeaderBytes = 128;
inline constexpr size_t kPlaneEntryBytes = 16;
inline constexpr size_t kPlaneAlignment = 64;
inline constexpr int kMaxPlanes = 8;
inline constexpr uint16_t kFormatVersion = 1;
inline constexpr uint32_t kSinkTokens = 4;

// One plane of one layer: the unit of checksums and of partial reads. Offsets count from the block's first byte.
struct PlaneEntry {
  uint32_t offset = 0, size_bytes = 0;
  uint64_t xxh3 = 0;  // XXH3-64 of the bytes
};

struct ByteRange {
  uint64_t offset = 0, size_bytes = 0;
};

// A parsed block, or the leading planes of one (a lower precision is a prefix of the bytes).
class BlockView {
 public:
  // Checks magic, version, header and table checksums, shape, and that the table tiles the block without overlap.
  // `bytes` may stop early, at the end of any plane (a lower precision) or within one (partial(): that plane and the
  // later ones are absent), but must hold header and table.
  // Errors: InvalidArgument  not a block (magic, shape, more bytes than the block has), or cut inside header or table.
  //         Unimplemented    a later format version or an unknown codec: the message says which are known.
  //         DataLoss         header or table checksum.
  static absl::StatusOr<BlockView> Parse(absl::Span<const uint8_t> bytes);

  // Header-plus-table length of the block that starts with these bytes (at least kHeaderBytes of them); same errors.
  static absl::StatusOr<size_t> PrefixBytes(absl::Span<const uint8_t> bytes);

  const BlockIdentity& identity() const { return identity_; }
  const BlockShape& shape() const { return shape_; }
  Codec codec() const { return codec_; }
  int codec_version() const { return codec_version_; }
  float floor_db() const { return floor_db_; }  // promised
  // Achieved by the worst tile at full precision; 65535 / 256 = exact.
  float min_sqnr_db() const { return min_sqnr_db_; }
  uint32_t raised_tiles() const { return raised_tiles_; }  // tiles kept at a higher precision than the codec's
  uint64_t block_bytes() const { return block_bytes_; }    // of the whole block
  int code_bits() const { return code_bits_; }             // of the tiles that have most; of q layers between resets
  bool mixed_bits() const { return mixed_bits_; }          // some tiles may have fewer
  int planes() const { return planes_; }                   // in the format; PlanesPresent() may be fewer
  int PlanesPresent() const { return planes_present_; }
  int MaxPrecision() const;                           // bits per code that the present planes give
  PlaneEntry Plane(int plane, uint32_t layer) const;  // REQUIRES: plane < planes(), layer < layers
  absl::Span<const uint8_t> PlaneBytes(int plane, uint32_t layer) const;
  absl::Span<const uint8_t> bytes() const { return bytes_; }

  // How many leading planes a precision needs. InvalidArgument for a precision that the codec does not have.
  absl::StatusOr<int> PlanesFor(int precision) const;

  // The bytes that a reader of these layers at this precision (0 = the codec's full one) needs, header and table first,
  // neighbours merged. Of q also those since the last reset before first_layer, from which it is predicted.
  absl::StatusOr<std::vector<ByteRange>> RangesFor(uint32_t first_layer, uint32_t last_layer, int precision) const;

  // Compares planes [0, PlanesFor(precision)) of the layers with the checksums of the table; 0 = MaxPrecision(). Of q
  // also the layers that RangesFor names.
  // Errors: DataLoss names plane and layer. InvalidArgument, FailedPrecondition as Decode.
  absl::Status Verify(uint32_t first_layer, uint32_t last_layer, int precision) const;

  // What differs between this block and what a reader expects; empty if nothing does. Names the field and both values.
  std::string IdentityMismatch(const BlockIdentity& identity, const BlockShape& shape) const;

 private:
  int FullPrecision() const;
  uint32_t FirstNeeded(uint32_t layer) const;  // to decode it

  absl::Span<const uint8_t> bytes_;
  BlockIdentity identity_;
  BlockShape shape_;
  Codec codec_ = Codec::kRaw16;
  int codec_version_ = 0, code_bits_ = 0, planes_ = 0, planes_present_ = 0;
  bool mixed_bits_ = false;
  float floor_db_ = 0, min_sqnr_db_ = 0;
  uint32_t raised_tiles_ = 0;
  uint64_t block_bytes_ = 0;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_BLOCK_FORMAT_H_
