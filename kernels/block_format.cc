#include "kernels/block_format.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/block_writer.h"
#include "kernels/bytes.h"

namespace kvist {
namespace {

// Offsets of the header's fields: FORMAT.md, "Header".
enum HeaderField : size_t {
  kMagicAt = 0,
  kVersionAt = 8,
  kCodecAt = 10,
  kCodecVersionAt = 11,
  kDtypeAt = 12,
  kPlanesAt = 13,
  kCodeBitsAt = 14,
  kFlagsAt = 15,
  kLayersAt = 16,
  kHeadsAt = 20,
  kHeadDimAt = 22,
  kTokensAt = 24,
  kFirstPositionAt = 28,
  kKeyAt = 32,
  kNamespaceAt = 64,
  kProfileAt = 80,
  kBlockBytesAt = 96,
  kFloorAt = 104,
  kMinSqnrAt = 106,
  kRaisedTilesAt = 108,
  kTableHashAt = 112,
  kHeaderHashAt = 120,
};

constexpr char kMagic[] = "KVISTBLK";
constexpr int kCodecVersion = 1;
constexpr uint8_t kSinksFlag = 1, kRaisedFlag = 2;
constexpr uint16_t kExactSqnr = 65535;
constexpr float kSqnrUnitsPerDb = 256;

struct CodecFacts {
  Codec codec;
  const char* name;
  int planes, code_bits;
};
constexpr CodecFacts kCodecs[] = {{Codec::kRaw16, "raw16", 1, 16}, {Codec::kI8, "i8", 2, 8}, {Codec::kLadder, "ladder", 4, 4}};

const CodecFacts* Find(uint8_t codec) {
  for (const CodecFacts& facts : kCodecs) {
    if (static_cast<uint8_t>(facts.codec) == codec) return &facts;
  }
  return nullptr;
}

uint64_t Hash(absl::Span<const uint8_t> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

size_t Align(size_t offset) { return (offset + kPlaneAlignment - 1) / kPlaneAlignment * kPlaneAlignment; }

uint16_t PackDb(float db) {
  if (db >= kExactDb) return kExactSqnr;
  return static_cast<uint16_t>(std::clamp(std::floor(db * kSqnrUnitsPerDb), 0.0f, 65534.0f));
}
float UnpackDb(uint16_t units) { return units == kExactSqnr ? kExactDb : units / kSqnrUnitsPerDb; }

// Magic, version and header checksum: what must hold before any other field means anything.
absl::Status CheckHeader(absl::Span<const uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the block is cut off in its header: ", bytes.size(), " bytes, the header has ", kHeaderBytes));
  }
  if (std::memcmp(bytes.data() + kMagicAt, kMagic, 8) != 0) {
    return absl::InvalidArgumentError("no Kvist block: the magic is not KVISTBLK");
  }
  if (const auto version = LoadLe<uint16_t>(bytes.data() + kVersionAt); version != kFormatVersion) {
    return absl::UnimplementedError(absl::StrCat("the block has format version ", version, "; this software reads version ",
                                                 kFormatVersion, ": update it, or erase the block"));
  }
  if (LoadLe<uint64_t>(bytes.data() + kHeaderHashAt) != Hash(bytes.subspan(0, kHeaderHashAt))) {
    return absl::DataLossError("the header's checksum does not match");
  }
  return absl::OkStatus();
}

absl::StatusOr<BlockShape> ReadShape(const uint8_t* header) {
  BlockShape shape;
  shape.layers = LoadLe<uint32_t>(header + kLayersAt);
  shape.heads = LoadLe<uint16_t>(header + kHeadsAt);
  shape.head_dim = LoadLe<uint16_t>(header + kHeadDimAt);
  shape.tokens = LoadLe<uint32_t>(header + kTokensAt);
  shape.dtype = static_cast<Dtype>(header[kDtypeAt]);
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  return shape;
}

absl::StatusOr<const CodecFacts*> ReadCodec(const uint8_t* header) {
  const CodecFacts* facts = Find(header[kCodecAt]);
  if (facts == nullptr || header[kCodecVersionAt] != kCodecVersion) {
    return absl::UnimplementedError(absl::StrCat("the block has codec ", static_cast<int>(header[kCodecAt]), " version ",
                                                 static_cast<int>(header[kCodecVersionAt]),
                                                 "; this software reads raw16, i8 and ladder, each version 1"));
  }
  if (header[kPlanesAt] != facts->planes || header[kCodeBitsAt] != facts->code_bits) {
    return absl::InvalidArgumentError(absl::StrCat(facts->name, " has ", facts->planes, " planes of ", facts->code_bits,
                                                   "-bit codes; the header says otherwise"));
  }
  return facts;
}

size_t TableBytes(const BlockShape& shape, int planes) { return size_t{shape.layers} * planes * kPlaneEntryBytes; }

std::string HexOf(absl::Span<const uint8_t> bytes) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace

std::string_view CodecName(Codec codec) {
  const CodecFacts* facts = Find(static_cast<uint8_t>(codec));
  return facts ? facts->name : "unknown";
}

absl::StatusOr<Codec> ParseCodec(std::string_view name) {
  for (const CodecFacts& facts : kCodecs) {
    if (name == facts.name) return facts.codec;
  }
  return absl::InvalidArgumentError(absl::StrCat("codec '", std::string(name), "' is unknown; there are raw16, i8 and ladder"));
}

std::string_view DtypeName(Dtype dtype) { return dtype == Dtype::kBf16 ? "bf16" : dtype == Dtype::kF16 ? "f16" : "unknown"; }

absl::StatusOr<Dtype> ParseDtype(std::string_view name) {
  for (const Dtype dtype : {Dtype::kBf16, Dtype::kF16}) {
    if (name == DtypeName(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("dtype '", std::string(name), "' is unknown; there are bf16 and f16"));
}

absl::Status ValidateShape(const BlockShape& shape) {
  std::string wrong;
  const auto check = [&wrong](bool holds, auto... what) {
    if (!holds) absl::StrAppend(&wrong, wrong.empty() ? "" : "; ", what...);
  };
  check(shape.layers >= 1 && shape.layers <= 1024, "layers is ", shape.layers, ", allowed are 1 to 1024");
  check(shape.heads >= 1 && shape.heads <= 256, "heads is ", shape.heads, ", allowed are 1 to 256");
  check(shape.tokens >= 16 && shape.tokens <= 256 && shape.tokens % 16 == 0, "tokens is ", shape.tokens,
        ", allowed are multiples of 16 from 16 to 256");
  const uint32_t d = shape.head_dim;
  check(d == 64 || d == 80 || d == 96 || d == 128 || d == 256, "head_dim is ", d, ", allowed are 64, 80, 96, 128 and 256");
  check(shape.dtype == Dtype::kBf16 || shape.dtype == Dtype::kF16, "dtype is ", static_cast<int>(shape.dtype),
        ", allowed are 1 (bf16) and 2 (f16)");
  // Offsets in the plane table are 32 bits; a raw16 block is the largest.
  check(!wrong.empty() || shape.PlainBytes() < (uint64_t{1} << 31), "the block has ", shape.PlainBytes(),
        " plain bytes, allowed are less than 2 GiB");
  return wrong.empty() ? absl::OkStatus() : absl::InvalidArgumentError("block shape: " + wrong);
}

int PlanesOf(Codec codec) { return Find(static_cast<uint8_t>(codec))->planes; }
int CodeBitsOf(Codec codec) { return Find(static_cast<uint8_t>(codec))->code_bits; }

size_t DataOffset(const BlockShape& shape, Codec codec) { return Align(kHeaderBytes + TableBytes(shape, PlanesOf(codec))); }

void FinishBlock(const BlockIdentity& identity, const BlockShape& shape, Codec codec, const BlockSummary& summary,
                 absl::Span<PlaneEntry> table, absl::Span<uint8_t> block) {
  uint8_t* entry = block.data() + kHeaderBytes;
  for (PlaneEntry& plane : table) {
    plane.xxh3 = Hash(block.subspan(plane.offset, plane.size_bytes));
    StoreLe(plane.offset, entry);
    StoreLe(plane.size_bytes, entry + 4);
    StoreLe(plane.xxh3, entry + 8);
    entry += kPlaneEntryBytes;
  }
  uint8_t* header = block.data();
  std::memset(header, 0, kHeaderBytes);
  std::memcpy(header + kMagicAt, kMagic, 8);
  StoreLe(kFormatVersion, header + kVersionAt);
  header[kCodecAt] = static_cast<uint8_t>(codec);
  header[kCodecVersionAt] = kCodecVersion;
  header[kDtypeAt] = static_cast<uint8_t>(shape.dtype);
  header[kPlanesAt] = static_cast<uint8_t>(PlanesOf(codec));
  header[kCodeBitsAt] = static_cast<uint8_t>(CodeBitsOf(codec));
  const bool sinks = codec == Codec::kLadder && identity.first_position == 0;
  header[kFlagsAt] = (sinks ? kSinksFlag : 0) | (summary.raised_tiles > 0 ? kRaisedFlag : 0);
  StoreLe(shape.layers, header + kLayersAt);
  StoreLe(static_cast<uint16_t>(shape.heads), header + kHeadsAt);
  StoreLe(static_cast<uint16_t>(shape.head_dim), header + kHeadDimAt);
  StoreLe(shape.tokens, header + kTokensAt);
  StoreLe(identity.first_position, header + kFirstPositionAt);
  std::copy(identity.key.begin(), identity.key.end(), header + kKeyAt);
  std::copy(identity.namespace_digest.begin(), identity.namespace_digest.end(), header + kNamespaceAt);
  std::copy(identity.profile_digest.begin(), identity.profile_digest.end(), header + kProfileAt);
  StoreLe(static_cast<uint64_t>(block.size()), header + kBlockBytesAt);
  StoreLe(PackDb(summary.floor_db), header + kFloorAt);
  StoreLe(PackDb(summary.min_sqnr_db), header + kMinSqnrAt);
  StoreLe(summary.raised_tiles, header + kRaisedTilesAt);
  StoreLe(Hash(block.subspan(kHeaderBytes, table.size() * kPlaneEntryBytes)), header + kTableHashAt);
  StoreLe(Hash(block.subspan(0, kHeaderHashAt)), header + kHeaderHashAt);
}

absl::StatusOr<size_t> BlockView::PrefixBytes(absl::Span<const uint8_t> bytes) {
  if (absl::Status status = CheckHeader(bytes); !status.ok()) return status;
  absl::StatusOr<const CodecFacts*> facts = ReadCodec(bytes.data());
  if (!facts.ok()) return facts.status();
  absl::StatusOr<BlockShape> shape = ReadShape(bytes.data());
  if (!shape.ok()) return shape.status();
  return kHeaderBytes + TableBytes(*shape, (*facts)->planes);
}

absl::StatusOr<BlockView> BlockView::Parse(absl::Span<const uint8_t> bytes) {
  absl::StatusOr<size_t> prefix_bytes = PrefixBytes(bytes);
  if (!prefix_bytes.ok()) return prefix_bytes.status();
  BlockView view;
  const uint8_t* header = bytes.data();
  view.bytes_ = bytes;
  view.shape_ = *ReadShape(header);
  view.codec_ = static_cast<Codec>(header[kCodecAt]);
  view.codec_version_ = header[kCodecVersionAt];
  view.planes_ = header[kPlanesAt];
  view.identity_.first_position = LoadLe<uint32_t>(header + kFirstPositionAt);
  std::memcpy(view.identity_.key.data(), header + kKeyAt, view.identity_.key.size());
  std::memcpy(view.identity_.namespace_digest.data(), header + kNamespaceAt, view.identity_.namespace_digest.size());
  std::memcpy(view.identity_.profile_digest.data(), header + kProfileAt, view.identity_.profile_digest.size());
  view.block_bytes_ = LoadLe<uint64_t>(header + kBlockBytesAt);
  view.floor_db_ = UnpackDb(LoadLe<uint16_t>(header + kFloorAt));
  view.min_sqnr_db_ = UnpackDb(LoadLe<uint16_t>(header + kMinSqnrAt));
  view.raised_tiles_ = LoadLe<uint32_t>(header + kRaisedTilesAt);
  const bool sinks = view.codec_ == Codec::kLadder && view.identity_.first_position == 0;
  const uint8_t flags = (sinks ? kSinksFlag : 0) | (view.raised_tiles_ > 0 ? kRaisedFlag : 0);
  if (header[kFlagsAt] != flags) return absl::InvalidArgumentError("the header's flags contradict its other fields");
  if (bytes.size() > view.block_bytes_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the block is oversized: ", bytes.size(), " bytes, its header says ", view.block_bytes_));
  }
  if (bytes.size() < *prefix_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the block is cut off in its plane table: ", bytes.size(), " bytes of ", *prefix_bytes));
  }
  if (LoadLe<uint64_t>(header + kTableHashAt) != Hash(bytes.subspan(kHeaderBytes, *prefix_bytes - kHeaderBytes))) {
    return absl::DataLossError("the plane table's checksum does not match");
  }
  if (absl::Status status = view.CheckTable(); !status.ok()) return status;
  return view;
}

// The planes tile the block in order, each aligned, the last one ending the block; counts those that are present.
absl::Status BlockView::CheckTable() {
  size_t end = kHeaderBytes + TableBytes(shape_, planes_);
  for (int plane = 0; plane < planes_; ++plane) {
    for (uint32_t layer = 0; layer < shape_.layers; ++layer) {
      const PlaneEntry entry = Plane(plane, layer);
      if (entry.offset != Align(end)) {
        return absl::InvalidArgumentError(absl::StrCat("plane ", plane, " of layer ", layer, " is not where it belongs"));
      }
      end = size_t{entry.offset} + entry.size_bytes;
    }
    if (end <= bytes_.size()) planes_present_ = plane + 1;
  }
  if (end != block_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("the planes end at byte ", end, ", the header says ", block_bytes_));
  }
  return absl::OkStatus();
}

PlaneEntry BlockView::Plane(int plane, uint32_t layer) const {
  const uint8_t* entry = bytes_.data() + kHeaderBytes + (size_t(plane) * shape_.layers + layer) * kPlaneEntryBytes;
  return {LoadLe<uint32_t>(entry), LoadLe<uint32_t>(entry + 4), LoadLe<uint64_t>(entry + 8)};
}

absl::Span<const uint8_t> BlockView::PlaneBytes(int plane, uint32_t layer) const {
  const PlaneEntry entry = Plane(plane, layer);
  return bytes_.subspan(entry.offset, entry.size_bytes);
}

int BlockView::MaxPrecision() const {
  if (codec_ != Codec::kLadder) return planes_present_ == planes_ ? CodeBitsOf(codec_) : 0;
  return planes_present_ >= 2 ? planes_present_ : 0;  // side and P0 give 2 bits, P1 makes 3, P2 makes 4
}

absl::StatusOr<int> BlockView::PlanesFor(int precision) const {
  if (precision != 0 && precision != 2 && precision != 3 && precision != 4 && precision != 8 && precision != 16) {
    return absl::InvalidArgumentError(absl::StrCat("precision ", precision, " does not exist; there are 2, 3, 4, 8 and 16, or 0 for all"));
  }
  if (precision > CodeBitsOf(codec_)) {
    return absl::FailedPreconditionError(absl::StrCat("precision ", precision, " was asked for, the block is ",
                                                      std::string(CodecName(codec_)), " with ", CodeBitsOf(codec_), " bits"));
  }
  if (codec_ == Codec::kLadder && (precision == 2 || precision == 3)) return precision;
  return planes_;
}

absl::StatusOr<std::vector<ByteRange>> BlockView::RangesFor(uint32_t first_layer, uint32_t last_layer, int precision) const {
  absl::StatusOr<int> planes = PlanesFor(precision);
  if (!planes.ok()) return planes.status();
  if (first_layer >= last_layer || last_layer > shape_.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers [", first_layer, ", ", last_layer, ") are not within the block's ", shape_.layers));
  }
  std::vector<ByteRange> ranges = {{0, kHeaderBytes + TableBytes(shape_, planes_)}};
  for (int plane = 0; plane < *planes; ++plane) {
    const PlaneEntry first = Plane(plane, first_layer), last = Plane(plane, last_layer - 1);
    const uint64_t end = uint64_t{last.offset} + last.size_bytes;
    ByteRange& open = ranges.back();
    // Padding between neighbours goes along, so that what is whole stays one range.
    if (first.offset - (open.offset + open.size_bytes) < kPlaneAlignment) {
      open.size_bytes = end - open.offset;
    } else {
      ranges.push_back({first.offset, end - first.offset});
    }
  }
  return ranges;
}

absl::Status BlockView::Verify(uint32_t first_layer, uint32_t last_layer, int precision) const {
  absl::StatusOr<int> planes = PlanesFor(precision);
  if (!planes.ok()) return planes.status();
  if (first_layer > last_layer || last_layer > shape_.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers [", first_layer, ", ", last_layer, ") are not within the block's ", shape_.layers));
  }
  for (int plane = 0; plane < *planes; ++plane) {
    for (uint32_t layer = first_layer; layer < last_layer; ++layer) {
      const PlaneEntry entry = Plane(plane, layer);
      if (size_t{entry.offset} + entry.size_bytes > bytes_.size()) {
        return absl::FailedPreconditionError(absl::StrCat("plane ", plane, " of layer ", layer, " is not among the bytes at hand"));
      }
      if (Hash(PlaneBytes(plane, layer)) != entry.xxh3) {
        return absl::DataLossError(absl::StrCat("the checksum of plane ", plane, " of layer ", layer, " does not match"));
      }
    }
  }
  return absl::OkStatus();
}

std::string BlockView::IdentityMismatch(const BlockIdentity& identity, const BlockShape& shape) const {
  std::string mismatch;
  const auto compare = [&mismatch](const char* field, const auto& block, const auto& wanted) {
    if (block != wanted) absl::StrAppend(&mismatch, mismatch.empty() ? "" : "; ", field, " is ", block, ", wanted ", wanted);
  };
  compare("key", HexOf(identity_.key), HexOf(identity.key));
  compare("namespace", HexOf(identity_.namespace_digest), HexOf(identity.namespace_digest));
  compare("profile", HexOf(identity_.profile_digest), HexOf(identity.profile_digest));
  compare("first_position", identity_.first_position, identity.first_position);
  compare("layers", shape_.layers, shape.layers);
  compare("heads", shape_.heads, shape.heads);
  compare("tokens", shape_.tokens, shape.tokens);
  compare("head_dim", shape_.head_dim, shape.head_dim);
  compare("dtype", std::string(DtypeName(shape_.dtype)), std::string(DtypeName(shape.dtype)));
  return mismatch;
}

}  // namespace kvist
