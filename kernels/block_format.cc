#include "kernels/block_format.h"

#include <xxhash.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/codec.h"
#include "kernels/header.h"

namespace kvist {
namespace {

constexpr Dtype kKnownDtypes[] = {Dtype::kBf16, Dtype::kF16, Dtype::kF8E4M3, Dtype::kF8E5M2, Dtype::kU8};
constexpr uint64_t kMaxPlainBytes = uint64_t{1} << 30;  // keeps every offset of the plane table inside 32 bits

PlaneEntry ReadEntry(const uint8_t* bytes, size_t index) {
  const uint8_t* at = bytes + kHeaderBytes + index * kPlaneEntryBytes;
  return {uint32_t(LoadLe(at, 4)), uint32_t(LoadLe(at + 4, 4)), LoadLe(at + 8, 8)};
}

// Pieces lie in table order, each at the next multiple of kPlaneAlignment after the one before, and end the block.
absl::Status CheckTiling(const BlockHeader& header, const uint8_t* bytes) {
  uint64_t end = header.PrefixBytes();
  for (size_t i = 0; i < header.Pieces(); ++i) {
    const PlaneEntry entry = ReadEntry(bytes, i);
    if (entry.offset != AlignPlane(end)) {
      return absl::InvalidArgumentError(
          absl::StrCat("plane table: entry ", i, " starts at ", entry.offset, ", the one before it ends at ", end));
    }
    end = uint64_t{entry.offset} + entry.size_bytes;
  }
  if (end != header.block_bytes || end > MaxBlockBytes(header.shape, header.codec)) {
    return absl::InvalidArgumentError(
        absl::StrCat("plane table: planes end at ", end, ", the header says ", header.block_bytes, " bytes"));
  }
  return absl::OkStatus();
}

template <typename Bytes>
std::string Hex(const Bytes& bytes) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

absl::Status CheckLayers(uint32_t first, uint32_t last, uint32_t layers) {
  if (first < last && last <= layers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("layers [", first, ", ", last, ") of a block of ", layers));
}

template <typename Enum, size_t n>
absl::StatusOr<Enum> ParseName(std::string_view name, std::string_view what, const Enum (&values)[n],
                               std::string_view (*name_of)(Enum)) {
  std::string known;
  for (Enum value : values) {
    if (name == name_of(value)) return value;
    absl::StrAppend(&known, known.empty() ? "" : ", ", absl::string_view(name_of(value).data(), name_of(value).size()));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown ", std::string(what), " \"", std::string(name), "\"; known are ", known));
}

}  // namespace

std::string_view CodecName(Codec codec) {
  if (codec == Codec::kRaw16) return "raw16";
  if (codec == Codec::kI8) return "i8";
  if (codec == Codec::kLadder) return "ladder";
  if (codec == Codec::kX16) return "x16";
  if (codec == Codec::kFp8p) return "fp8p";
  if (codec == Codec::kTrellis) return "trellis";
  return codec == Codec::kQ ? "q" : "unknown";
}

std::string KnownCodecs() {
  std::string known;
  for (Codec codec : kKnownCodecs) {
    absl::StrAppend(&known, known.empty() ? "known are " : ", ", int(codec), " (", std::string(CodecName(codec)), ")");
  }
  return known;
}

absl::StatusOr<Codec> ParseCodec(std::string_view name) { return ParseName(name, "codec", kKnownCodecs, &CodecName); }

std::string_view DtypeName(Dtype dtype) {
  if (dtype == Dtype::kBf16) return "bf16";
  if (dtype == Dtype::kF8E4M3) return "f8e4m3";
  if (dtype == Dtype::kF8E5M2) return "f8e5m2";
  if (dtype == Dtype::kU8) return "u8";
  return dtype == Dtype::kF16 ? "f16" : "unknown";
}

absl::StatusOr<Dtype> ParseDtype(std::string_view name) { return ParseName(name, "dtype", kKnownDtypes, &DtypeName); }

absl::Status ValidateShape(const BlockShape& shape) {
  const uint32_t dim = shape.head_dim;
  const bool opaque = shape.dtype == Dtype::kU8;
  std::string wrong;
  if (shape.layers < 1 || shape.layers > 1024) {
    wrong = absl::StrCat(shape.layers, " layers; allowed are 1 to 1024");
  } else if (shape.heads < 1 || shape.heads > 256) {
    wrong = absl::StrCat(shape.heads, " heads; allowed are 1 to 256");
  } else if (shape.tokens < 16 || shape.tokens > 256 || shape.tokens % 16 != 0) {
    wrong = absl::StrCat(shape.tokens, " tokens; allowed are multiples of 16 from 16 to 256");
  } else if (opaque && (dim < 16 || dim > 1024 || dim % 8 != 0)) {
    wrong = absl::StrCat("head_dim ", dim, "; allowed for u8 are multiples of 8 from 16 to 1024");
  } else if (!opaque && dim != 64 && dim != 80 && dim != 96 && dim != 128 && dim != 256) {
    wrong = absl::StrCat("head_dim ", dim, "; allowed are 64, 80, 96, 128 and 256");
  } else if (DtypeName(shape.dtype) == "unknown") {
    wrong = absl::StrCat("dtype ", int(shape.dtype), "; allowed are 1 (bf16), 2 (f16), 3 (f8e4m3), 4 (f8e5m2), 5 (u8)");
  } else if (shape.PlainBytes() > kMaxPlainBytes) {
    wrong = absl::StrCat(shape.PlainBytes(), " plain bytes; allowed are at most ", kMaxPlainBytes);
  }
  return wrong.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat("shape: ", wrong));
}

absl::StatusOr<size_t> BlockView::PrefixBytes(absl::Span<const uint8_t> bytes) {
  absl::StatusOr<BlockHeader> header = ReadHeader(bytes);
  if (!header.ok()) return header.status();
  return header->PrefixBytes();
}

absl::StatusOr<BlockView> BlockView::Parse(absl::Span<const uint8_t> bytes) {
  absl::StatusOr<BlockHeader> header = ReadHeader(bytes);
  if (!header.ok()) return header.status();
  if (bytes.size() < header->PrefixBytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("block cut inside its plane table: ", bytes.size(), " bytes of ", header->PrefixBytes()));
  }
  if (bytes.size() > header->block_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(bytes.size(), " bytes given for a block of ", header->block_bytes));
  }
  if (XXH3_64bits(bytes.data() + kHeaderBytes, header->PrefixBytes() - kHeaderBytes) != header->table_xxh3) {
    return absl::DataLossError("plane table checksum does not match");
  }
  if (absl::Status status = CheckTiling(*header, bytes.data()); !status.ok()) return status;
  BlockView view;
  view.bytes_ = bytes;
  view.identity_ = header->identity;
  view.shape_ = header->shape;
  view.codec_ = header->codec;
  view.codec_version_ = kCodecVersion;
  view.code_bits_ = header->code_bits;
  view.mixed_bits_ = header->mixed_bits;
  view.planes_ = header->Planes();
  view.floor_db_ = header->floor_db256 / 256.0f;
  view.min_sqnr_db_ = header->min_sqnr_db256 / 256.0f;
  view.raised_tiles_ = header->raised_tiles;
  view.block_bytes_ = header->block_bytes;
  while (view.planes_present_ < view.planes_) {
    const PlaneEntry last = view.Plane(view.planes_present_, view.shape_.layers - 1);
    if (uint64_t{last.offset} + last.size_bytes > bytes.size()) break;
    ++view.planes_present_;
  }
  return view;
}

PlaneEntry BlockView::Plane(int plane, uint32_t layer) const {
  return ReadEntry(bytes_.data(), size_t(plane) * shape_.layers + layer);
}

absl::Span<const uint8_t> BlockView::PlaneBytes(int plane, uint32_t layer) const {
  const PlaneEntry entry = Plane(plane, layer);
  return bytes_.subspan(entry.offset, entry.size_bytes);
}

int BlockView::FullPrecision() const { return codec_ == Codec::kQ ? 1 : code_bits_; }

uint32_t BlockView::FirstNeeded(uint32_t layer) const {
  if (codec_ != Codec::kQ) return layer;
  return code_bits_ == kNeverResets ? 0 : layer - layer % uint32_t(code_bits_);
}

int BlockView::MaxPrecision() const {
  if (codec_ == Codec::kLadder) return planes_present_ >= 2 ? BitsOfPlanes(codec_, planes_present_ - 1) : 0;
  return planes_present_ == planes_ ? FullPrecision() : 0;
}

absl::StatusOr<int> BlockView::PlanesFor(int precision) const {
  if (precision == FullPrecision()) return planes_;
  std::string known;
  for (int planes = 1; codec_ == Codec::kLadder && planes < planes_ - 1; ++planes) {
    const int bits = BitsOfPlanes(codec_, planes);
    if (precision == bits) return 1 + planes;
    absl::StrAppend(&known, known.empty() ? "" : ", ", bits);
  }
  return absl::InvalidArgumentError(absl::StrCat("precision ", precision, "; ", std::string(CodecName(codec_)), " has ",
                                                 known, known.empty() ? "" : " and ", FullPrecision()));
}

absl::StatusOr<std::vector<ByteRange>> BlockView::RangesFor(uint32_t first_layer, uint32_t last_layer,
                                                            int precision) const {
  if (absl::Status status = CheckLayers(first_layer, last_layer, shape_.layers); !status.ok()) return status;
  absl::StatusOr<int> planes = PlanesFor(precision == 0 ? FullPrecision() : precision);
  if (!planes.ok()) return planes.status();
  std::vector<ByteRange> ranges = {{0, kHeaderBytes + size_t(planes_) * shape_.layers * kPlaneEntryBytes}};
  for (int plane = 0; plane < *planes; ++plane) {
    const PlaneEntry first = Plane(plane, FirstNeeded(first_layer)), last = Plane(plane, last_layer - 1);
    const uint64_t end = uint64_t{last.offset} + last.size_bytes,
                   before = ranges.back().offset + ranges.back().size_bytes;
    if (first.offset <= AlignPlane(before)) {
      ranges.back().size_bytes = end - ranges.back().offset;
    } else if (end > first.offset) {  // planes of raised tiles alone are empty
      ranges.push_back({first.offset, end - first.offset});
    }
  }
  return ranges;
}

absl::Status BlockView::Verify(uint32_t first_layer, uint32_t last_layer, int precision) const {
  if (absl::Status status = CheckLayers(first_layer, last_layer, shape_.layers); !status.ok()) return status;
  if (precision == 0) precision = MaxPrecision();
  if (precision == 0) return absl::FailedPreconditionError("the view holds no whole precision");
  absl::StatusOr<int> planes = PlanesFor(precision);
  if (!planes.ok()) return planes.status();
  for (int plane = 0; plane < *planes; ++plane) {
    for (uint32_t layer = FirstNeeded(first_layer); layer < last_layer; ++layer) {
      const PlaneEntry entry = Plane(plane, layer);
      if (uint64_t{entry.offset} + entry.size_bytes > bytes_.size()) {
        return absl::FailedPreconditionError(absl::StrCat("precision ", precision, " needs plane ", plane, " of layer ",
                                                          layer, "; the view ends before it"));
      }
      if (XXH3_64bits(bytes_.data() + entry.offset, entry.size_bytes) != entry.xxh3) {
        return absl::DataLossError(absl::StrCat("checksum of plane ", plane, " of layer ", layer, " does not match"));
      }
    }
  }
  return absl::OkStatus();
}

std::string BlockView::IdentityMismatch(const BlockIdentity& identity, const BlockShape& shape) const {
  std::vector<std::string> fields;
  auto compare = [&fields](absl::string_view name, const auto& stored, const auto& expected) {
    if (stored != expected) fields.push_back(absl::StrCat(name, " ", stored, ", expected ", expected));
  };
  compare("key", Hex(identity_.key), Hex(identity.key));
  compare("namespace", Hex(identity_.namespace_digest), Hex(identity.namespace_digest));
  compare("profile", Hex(identity_.profile_digest), Hex(identity.profile_digest));
  compare("first_position", identity_.first_position, identity.first_position);
  compare("layers", shape_.layers, shape.layers);
  compare("heads", shape_.heads, shape.heads);
  compare("tokens", shape_.tokens, shape.tokens);
  compare("head_dim", shape_.head_dim, shape.head_dim);
  compare("dtype", std::string(DtypeName(shape_.dtype)), std::string(DtypeName(shape.dtype)));
  std::string mismatch;
  for (const std::string& field : fields) absl::StrAppend(&mismatch, mismatch.empty() ? "" : "; ", field);
  return mismatch;
}

}  // namespace kvist
