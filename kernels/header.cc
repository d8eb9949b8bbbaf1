#include "kernels/header.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr uint8_t kMagic[8] = {'K', 'V', 'I', 'S', 'T', 'B', 'L', 'K'};
constexpr size_t kHeaderChecksumAt = 120;

// Field positions, in the order of FORMAT.md.
enum At : size_t {
  kAtVersion = 8,
  kAtCodec = 10,
  kAtCodecVersion = 11,
  kAtDtype = 12,
  kAtPlanes = 13,
  kAtCodeBits = 14,
  kAtFlags = 15,
  kAtLayers = 16,
  kAtHeads = 20,
  kAtHeadDim = 22,
  kAtTokens = 24,
  kAtFirstPosition = 28,
  kAtKey = 32,
  kAtNamespace = 64,
  kAtProfile = 80,
  kAtBlockBytes = 96,
  kAtFloor = 104,
  kAtMinSqnr = 106,
  kAtRaisedTiles = 108,
  kAtTableChecksum = 112,
};

uint8_t FlagsOf(const BlockHeader& header) {
  return (HasSinks(header.codec, header.identity.first_position) ? kFlagSinks : 0) |
         (header.raised_tiles != 0 ? kFlagRaised : 0) | (header.mixed_bits ? kFlagMixedBits : 0);
}

absl::Status CheckEnvelope(absl::Span<const uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("block cut inside its header: ", bytes.size(), " bytes of ", kHeaderBytes));
  }
  if (!std::equal(kMagic, kMagic + sizeof(kMagic), bytes.data())) {
    return absl::InvalidArgumentError("not a block: the first 8 bytes are not \"KVISTBLK\"");
  }
  const uint64_t version = LoadLe(bytes.data() + kAtVersion, 2);
  if (version != kFormatVersion) {
    const std::string message =
        absl::StrCat("block format version ", version, "; this reader knows version ", kFormatVersion);
    return version > kFormatVersion ? absl::UnimplementedError(message) : absl::InvalidArgumentError(message);
  }
  if (XXH3_64bits(bytes.data(), kHeaderChecksumAt) != LoadLe(bytes.data() + kHeaderChecksumAt, 8)) {
    return absl::DataLossError("header checksum does not match");
  }
  return absl::OkStatus();
}

absl::Status CheckPlanes(Codec codec, int planes, int code_bits) {
  const bool has_bits = code_bits == TraitsOf(codec).code_bits || CodePlanes(codec, code_bits) != 0;
  const CodecTraits traits = TraitsOf(codec, has_bits ? code_bits : 0);
  if (has_bits && planes == traits.planes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("header: ", planes, " planes of ", code_bits, "-bit codes; ",
                                                 std::string(CodecName(codec)), " has ", traits.planes, " of ",
                                                 traits.code_bits));
}

absl::Status CheckCodec(const uint8_t* at) {
  const int codec = at[kAtCodec], version = at[kAtCodecVersion];
  if (CodecName(Codec(codec)) == "unknown") {
    return absl::UnimplementedError(absl::StrCat("unknown codec ", codec, "; ", KnownCodecs()));
  }
  if (version != kCodecVersion) {
    return absl::UnimplementedError(absl::StrCat(std::string(CodecName(Codec(codec))), " codec version ", version,
                                                 "; this reader knows version ", int{kCodecVersion}));
  }
  return CheckPlanes(Codec(codec), at[kAtPlanes], at[kAtCodeBits]);
}

// Fields that follow from others are stored for readers that look at one field only; they must agree.
absl::Status CheckAgreement(const BlockHeader& header, uint8_t flags) {
  if (flags != FlagsOf(header)) {
    return absl::InvalidArgumentError(
        absl::StrCat("header: flags ", int{flags}, ", the other fields imply ", int{FlagsOf(header)}));
  }
  const uint64_t tiles = 2 * uint64_t{header.shape.layers} * header.shape.heads;
  if (header.raised_tiles > tiles || (KeepsValues(header.codec) && header.raised_tiles != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("header: ", header.raised_tiles, " raised tiles in a ",
                                                   std::string(CodecName(header.codec)), " block of ", tiles));
  }
  if (header.codec == Codec::kQ && header.identity.profile_digest == BlockIdentity{}.profile_digest) {
    return absl::InvalidArgumentError("header: a q block without a profile digest");
  }
  if (header.min_sqnr_db256 < header.floor_db256) {
    return absl::InvalidArgumentError(absl::StrCat("header: worst tile at ", header.min_sqnr_db256 / 256.0,
                                                   " dB, below the promised floor of ", header.floor_db256 / 256.0));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTakes(Codec codec, Dtype dtype) {
  if (TakesDtype(codec, dtype)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(std::string(CodecName(codec)), " takes ",
                                                 codec == Codec::kFp8p ? "f8e4m3, f8e5m2 and u8" : "bf16 and f16",
                                                 ", not ", std::string(DtypeName(dtype))));
}

uint64_t LoadLe(const uint8_t* at, int size_bytes) {
  uint64_t value = 0;
  for (int i = size_bytes - 1; i >= 0; --i) value = value << 8 | at[i];
  return value;
}

void StoreLe(uint64_t value, int size_bytes, uint8_t* at) {
  for (int i = 0; i < size_bytes; ++i) at[i] = uint8_t(value >> (8 * i));
}

void WriteHeader(const BlockHeader& header, uint8_t* out) {
  std::memcpy(out, kMagic, sizeof(kMagic));
  StoreLe(kFormatVersion, 2, out + kAtVersion);
  out[kAtCodec] = uint8_t(header.codec);
  out[kAtCodecVersion] = kCodecVersion;
  out[kAtDtype] = uint8_t(header.shape.dtype);
  out[kAtPlanes] = uint8_t(header.Planes());
  out[kAtCodeBits] = uint8_t(TraitsOf(header.codec, header.code_bits).code_bits);
  out[kAtFlags] = FlagsOf(header);
  StoreLe(header.shape.layers, 4, out + kAtLayers);
  StoreLe(header.shape.heads, 2, out + kAtHeads);
  StoreLe(header.shape.head_dim, 2, out + kAtHeadDim);
  StoreLe(header.shape.tokens, 4, out + kAtTokens);
  StoreLe(header.identity.first_position, 4, out + kAtFirstPosition);
  std::memcpy(out + kAtKey, header.identity.key.data(), header.identity.key.size());
  std::memcpy(out + kAtNamespace, header.identity.namespace_digest.data(), header.identity.namespace_digest.size());
  std::memcpy(out + kAtProfile, header.identity.profile_digest.data(), header.identity.profile_digest.size());
  StoreLe(header.block_bytes, 8, out + kAtBlockBytes);
  StoreLe(header.floor_db256, 2, out + kAtFloor);
  StoreLe(header.min_sqnr_db256, 2, out + kAtMinSqnr);
  StoreLe(header.raised_tiles, 4, out + kAtRaisedTiles);
  StoreLe(header.table_xxh3, 8, out + kAtTableChecksum);
  StoreLe(XXH3_64bits(out, kHeaderChecksumAt), 8, out + kHeaderChecksumAt);
}

absl::StatusOr<BlockHeader> ReadHeader(absl::Span<const uint8_t> bytes) {
  if (absl::Status status = CheckEnvelope(bytes); !status.ok()) return status;
  const uint8_t* at = bytes.data();
  if (absl::Status status = CheckCodec(at); !status.ok()) return status;
  BlockHeader header;
  header.codec = Codec(at[kAtCodec]);
  header.code_bits = at[kAtCodeBits];
  header.mixed_bits = IsRotated(header.codec) && (at[kAtFlags] & kFlagMixedBits) != 0;
  header.shape = {uint32_t(LoadLe(at + kAtLayers, 4)), uint32_t(LoadLe(at + kAtHeads, 2)),
                  uint32_t(LoadLe(at + kAtTokens, 4)), uint32_t(LoadLe(at + kAtHeadDim, 2)), Dtype(at[kAtDtype])};
  if (absl::Status status = ValidateShape(header.shape); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("header: ", status.message()));
  }
  if (absl::Status status = CheckTakes(header.codec, header.shape.dtype); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("header: ", status.message()));
  }
  std::memcpy(header.identity.key.data(), at + kAtKey, header.identity.key.size());
  std::memcpy(header.identity.namespace_digest.data(), at + kAtNamespace, header.identity.namespace_digest.size());
  std::memcpy(header.identity.profile_digest.data(), at + kAtProfile, header.identity.profile_digest.size());
  header.identity.first_position = uint32_t(LoadLe(at + kAtFirstPosition, 4));
  header.block_bytes = LoadLe(at + kAtBlockBytes, 8);
  header.floor_db256 = uint16_t(LoadLe(at + kAtFloor, 2));
  header.min_sqnr_db256 = uint16_t(LoadLe(at + kAtMinSqnr, 2));
  header.raised_tiles = uint32_t(LoadLe(at + kAtRaisedTiles, 4));
  header.table_xxh3 = LoadLe(at + kAtTableChecksum, 8);
  if (absl::Status status = CheckAgreement(header, at[kAtFlags]); !status.ok()) return status;
  return header;
}

}  // namespace kvist
