#include "kernels/q/profile_file.h"

#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/half.h"
#include "kernels/header.h"
#include "kernels/q/rans.h"

namespace kvist {
namespace {

constexpr char kMagic[8] = {'K', 'V', 'I', 'S', 'T', 'P', 'R', 'F'};
constexpr size_t kFixedBytes = 8 + 2 + 4 + 2 + 2 + 2 + 4 + 4 + 4;  // before the turns
constexpr uint64_t kMostInflation = 1032;                          // of any zlib stream

std::string OutOfRange(absl::string_view what, double got, absl::string_view allowed) {
  return absl::StrCat(what, " ", got, "; allowed are ", allowed);
}

absl::Status Wrong(absl::string_view what, double got, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat("profile: ", OutOfRange(what, got, allowed)));
}

uint64_t MatrixBytes(uint64_t rows, uint64_t columns) { return rows + columns + rows * columns; }

uint64_t GroupBytes(const ProfileFacts& of_group) {
  const uint64_t width = of_group.Width();
  uint64_t bytes = 2 * (kClasses * kClassFrequencies + 2 * (kStepSymbols + kShiftSymbols));
  for (uint32_t layer = 0; layer < of_group.layers; ++layer) {
    bytes += 4 * width;  // deviations
    for (size_t kv : kSideOrder) {
      const uint64_t sources = of_group.Sources(layer, kv);
      bytes += 2 * width + (sources == 0 ? 0 : MatrixBytes(sources, width)) + MatrixBytes(width, width) + 2 + width;
      bytes += 2 * (of_group.OwnFeatures() + kAroundFeatures + of_group.heads);
    }
  }
  return bytes;
}

uint64_t BodyBytes(const ProfileFacts& facts) { return facts.groups * GroupBytes(facts.OfGroup()); }

absl::Status CheckHeads(const ProfileFacts& facts) {
  const uint32_t dim = facts.head_dim;
  if (dim != 64 && dim != 80 && dim != 96 && dim != 128 && dim != 256) {
    return Wrong("head_dim", dim, "64, 80, 96, 128 and 256");
  }
  if (facts.heads < 1 || facts.heads > 256) return Wrong("heads", facts.heads, "1 to 256");
  if (facts.groups < 1 || facts.heads % facts.groups != 0) {
    return Wrong("head groups", facts.groups, absl::StrCat("those that divide its ", facts.heads, " heads"));
  }
  if (facts.OfGroup().Width() > kMaxGroupWidth) {
    return Wrong("heads of a group", facts.heads / facts.groups,
                 absl::StrCat("1 to ", kMaxGroupWidth / dim, " of head_dim ", dim));
  }
  return absl::OkStatus();
}

absl::Status CheckFacts(const ProfileFacts& facts, int rope) {
  if (rope > 2) return Wrong("rope style", rope, "0 (none), 1 (halves) and 2 (interleaved)");
  if (facts.layers_before > 2) return Wrong("layers that predict", facts.layers_before, "0, 1 and 2");
  if (facts.layers_between_resets > 254) return Wrong("layers between resets", facts.layers_between_resets, "0 to 254");
  if (absl::Status status = CheckHeads(facts); !status.ok()) return status;
  if (facts.layers < 1 || facts.layers > 1024) return Wrong("layers", facts.layers, "1 to 1024");
  if (!(facts.step >= 0x1p-60f && facts.step <= 0x1p60f)) return Wrong("theta", facts.step, "2^-60 to 2^60");
  if (!(facts.rope_factor >= 0x1p-4f && facts.rope_factor <= 16)) {
    return Wrong("rope factor", facts.rope_factor, "1/16 to 16");
  }
  if (facts.notes.size() > kMaxProfileNotes) {
    return Wrong("bytes of JSON", double(facts.notes.size()), absl::StrCat("0 to ", kMaxProfileNotes));
  }
  if (BodyBytes(facts) > kMaxProfileBody) {
    return Wrong("bytes of its matrices", double(BodyBytes(facts)), absl::StrCat("at most ", kMaxProfileBody));
  }
  return absl::OkStatus();
}

// The order of a group's part of the body, for a group and an archive of either direction.
template <typename Archive, typename Matrix>
void VisitMatrix(Archive& archive, Matrix& matrix) {
  archive(matrix.row_scales);
  archive(matrix.column_scales);
  archive(matrix.codes);
}

template <typename Archive, typename Group>
void VisitGroup(Archive& archive, Group& group) {
  archive(group.class_frequencies);
  for (size_t kv : kSideOrder) {
    archive(group.step_frequencies[kv]);
    archive(group.shift_frequencies[kv]);
  }
  for (auto& layer : group.layers) {
    for (size_t kv : kSideOrder) {
      auto& side = layer.sides[kv];
      archive(side.mean);
      VisitMatrix(archive, side.predictor);
      VisitMatrix(archive, side.synthesis);
      archive.Number(side.coded_rows);
      archive(side.base_classes);
    }
  }
  for (auto& layer : group.layers) {
    archive(layer.deviations);
    for (size_t kv : kSideOrder) {
      archive(layer.sides[kv].own);
      archive(layer.sides[kv].around);
      archive(layer.sides[kv].sensitivity);
    }
  }
}

// REQUIRES: as many bytes as are taken.
class Reader {
 public:
  explicit Reader(const uint8_t* at) : at_(at) {}
  uint64_t Take(int bytes) { return LoadLe(std::exchange(at_, at_ + bytes), bytes); }
  void Number(uint16_t& number) { number = uint16_t(Take(2)); }
  template <typename T>
  void operator()(std::vector<T>& values) {
    for (T& value : values) value = T(Take(sizeof(T)));
  }

 private:
  const uint8_t* at_;
};

class Writer {
 public:
  void Put(uint64_t value, int bytes) {
    out.resize(out.size() + bytes);
    StoreLe(value, bytes, out.data() + out.size() - bytes);
  }
  void Number(uint16_t number) { Put(number, 2); }
  template <typename T>
  void operator()(const std::vector<T>& values) {
    for (T value : values) Put(std::make_unsigned_t<T>(value), sizeof(T));
  }

  std::vector<uint8_t> out;
};

absl::Status CheckSum(absl::Span<const uint16_t> frequencies, bool mirrored, absl::string_view what) {
  uint32_t sum = 0;
  bool missing = false;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const bool twice = mirrored && i > 0 && i + 1 < frequencies.size();
    sum += frequencies[i] * (twice ? 2u : 1u);
    missing |= frequencies[i] == 0;
  }
  if (missing) return absl::InvalidArgumentError(absl::StrCat(what, " have a 0; all must be at least 1"));
  if (sum == kRansTotal) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " sum to ", sum, ", not ", kRansTotal));
}

bool IsBf16Finite(uint16_t bits) { return (bits & 0x7f80) != 0x7f80; }

bool AllFinite(const std::vector<uint16_t>& values) { return std::all_of(values.begin(), values.end(), IsBf16Finite); }

absl::Status CheckTables(const ProfileGroup& group) {
  for (size_t c = 0; c < kClasses; ++c) {
    const auto row = absl::MakeSpan(group.class_frequencies).subspan(c * kClassFrequencies, kClassFrequencies);
    absl::Status status = CheckSum(row, true, absl::StrCat("frequencies of class ", c));
    if (!status.ok()) return status;
  }
  for (size_t kv : kSideOrder) {
    const absl::string_view of = kv == 0 ? " of K" : " of V";
    for (const absl::Status& status :
         {CheckSum(group.step_frequencies[kv], false, absl::StrCat("step frequencies", of)),
          CheckSum(group.shift_frequencies[kv], false, absl::StrCat("shift frequencies", of))}) {
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSide(const ProfileSide& side, size_t layer) {
  if (side.coded_rows > side.mean.size()) {
    return absl::InvalidArgumentError(OutOfRange(absl::StrCat("layer ", layer, ": coded rows"), side.coded_rows,
                                                 absl::StrCat("0 to ", side.mean.size())));
  }
  for (const auto* values : {&side.mean, &side.own, &side.around, &side.sensitivity}) {
    if (!AllFinite(*values)) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " has NaN or infinity"));
    }
  }
  for (const uint16_t sensitivity : side.sensitivity) {
    if (sensitivity < 0x8000) continue;
    return absl::InvalidArgumentError(
        OutOfRange(absl::StrCat("layer ", layer, ": sensitivity"), Widen(sensitivity, Dtype::kBf16), "numbers from 0"));
  }
  return absl::OkStatus();
}

absl::Status CheckGroup(const ProfileGroup& group) {
  if (absl::Status status = CheckTables(group); !status.ok()) return status;
  for (size_t layer = 0; layer < group.layers.size(); ++layer) {
    if (!AllFinite(group.layers[layer].deviations)) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " has NaN or infinity"));
    }
    for (const ProfileSide& side : group.layers[layer].sides) {
      if (absl::Status status = CheckSide(side, layer); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Cut(size_t bytes, uint64_t needed) {
  return absl::InvalidArgumentError(absl::StrCat("profile: cut, ", bytes, " bytes of at least ", needed));
}

// The facts, and where the deflated body lies.
struct Envelope {
  ProfileFacts facts;
  absl::Span<const uint8_t> body;
};

absl::Status OtherVersion(uint64_t version) {
  const std::string message =
      absl::StrCat("profile version ", version, "; this reader knows version ", kProfileVersion);
  if (version > kProfileVersion) return absl::UnimplementedError(message);
  return absl::InvalidArgumentError(absl::StrCat(message, ": make the profile anew with `kvist calibrate`"));
}

absl::StatusOr<Envelope> ReadEnvelope(absl::Span<const uint8_t> bytes) {
  if (bytes.size() < sizeof(kMagic) || std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    return absl::InvalidArgumentError("not a profile: the first 8 bytes are not \"KVISTPRF\"");
  }
  if (bytes.size() < kFixedBytes) return Cut(bytes.size(), kFixedBytes);
  Reader reader(bytes.data() + sizeof(kMagic));
  const uint64_t version = reader.Take(2);
  if (version != kProfileVersion) return OtherVersion(version);
  Envelope envelope;
  ProfileFacts& facts = envelope.facts;
  const int rope = int(reader.Take(1));
  facts.rope = RopeStyle(rope);
  facts.layers_before = uint32_t(reader.Take(1));
  const int key_from_value = int(reader.Take(1));
  facts.key_from_value = key_from_value != 0;
  facts.layers_between_resets = uint32_t(reader.Take(1));
  facts.heads = uint32_t(reader.Take(2));
  facts.head_dim = uint32_t(reader.Take(2));
  facts.groups = uint32_t(reader.Take(2));
  facts.layers = uint32_t(reader.Take(4));
  facts.step = std::bit_cast<float>(uint32_t(reader.Take(4)));
  facts.rope_factor = std::bit_cast<float>(uint32_t(reader.Take(4)));
  if (key_from_value > 1) return Wrong("K from V", key_from_value, "0 and 1");
  if (absl::Status status = CheckFacts(facts, rope); !status.ok()) return status;
  uint64_t needed = kFixedBytes + 4 * uint64_t{facts.head_dim} + 4;
  if (bytes.size() < needed) return Cut(bytes.size(), needed);
  facts.turns.resize(facts.head_dim / 2);
  reader(facts.turns);
  const uint64_t notes = reader.Take(4);
  if (notes > kMaxProfileNotes) return Wrong("bytes of JSON", double(notes), absl::StrCat("0 to ", kMaxProfileNotes));
  if (bytes.size() < needed + notes + 4) return Cut(bytes.size(), needed + notes + 4);
  facts.notes.assign(reinterpret_cast<const char*>(bytes.data()) + needed, notes);
  needed += notes + 4;
  const uint64_t body = LoadLe(bytes.data() + needed - 4, 4);
  if (bytes.size() < needed + body) return Cut(bytes.size(), needed + body);
  if (bytes.size() > needed + body) {
    return absl::InvalidArgumentError(
        absl::StrCat("profile: ", bytes.size(), " bytes; it says that it has ", needed + body));
  }
  envelope.body = bytes.subspan(needed);
  return envelope;
}

absl::StatusOr<std::vector<uint8_t>> Inflate(absl::Span<const uint8_t> body, uint64_t expected) {
  if (expected > kMostInflation * (body.size() + 1)) {
    return absl::DataLossError(absl::StrCat("profile: a body of ", body.size(), " bytes cannot hold ", expected));
  }
  std::vector<uint8_t> bytes(expected);
  uLongf inflated = expected;
  uLong used = body.size();
  const int result = uncompress2(bytes.data(), &inflated, body.data(), &used);
  if (result == Z_OK && inflated == expected && used == body.size()) return bytes;
  return absl::DataLossError(
      absl::StrCat("profile: its body does not inflate to the ", expected, " bytes that its numbers imply"));
}

void ResizeMatrix(ProfileMatrix& matrix, size_t rows, size_t columns) {
  matrix.row_scales.resize(rows);
  matrix.column_scales.resize(rows == 0 ? 0 : columns);
  matrix.codes.resize(rows * columns);
}

void ResizeGroup(const ProfileFacts& facts, ProfileGroup& group) {
  const size_t width = facts.Width();
  group.class_frequencies.resize(kClasses * kClassFrequencies);
  for (size_t kv : kSideOrder) {
    group.step_frequencies[kv].resize(kStepSymbols);
    group.shift_frequencies[kv].resize(kShiftSymbols);
  }
  group.layers.resize(facts.layers);
  for (uint32_t layer = 0; layer < facts.layers; ++layer) {
    group.layers[layer].deviations.resize(2 * width);
    for (size_t kv : kSideOrder) {
      ProfileSide& side = group.layers[layer].sides[kv];
      side.mean.resize(width);
      ResizeMatrix(side.predictor, facts.Sources(layer, kv), width);
      ResizeMatrix(side.synthesis, width, width);
      side.base_classes.resize(width);
      side.own.resize(facts.OwnFeatures());
      side.around.resize(kAroundFeatures);
      side.sensitivity.resize(facts.heads);
    }
  }
}

}  // namespace

ProfileFacts ProfileFacts::OfGroup() const {
  ProfileFacts facts = *this;
  facts.heads /= groups;
  facts.groups = 1;
  facts.notes.clear();
  return facts;
}

std::string ProfileFacts::GroupPrefix(size_t group) const {
  if (groups == 1) return "";
  const size_t each = heads / groups;
  if (each == 1) return absl::StrCat("head ", group, ": ");
  return absl::StrCat("heads ", group * each, " to ", (group + 1) * each - 1, ": ");
}

void ProfileFile::Resize() {
  groups.resize(facts.groups);
  for (ProfileGroup& group : groups) ResizeGroup(facts.OfGroup(), group);
}

absl::StatusOr<ProfileFile> ProfileFile::Read(absl::Span<const uint8_t> bytes) {
  absl::StatusOr<Envelope> envelope = ReadEnvelope(bytes);
  if (!envelope.ok()) return envelope.status();
  absl::StatusOr<std::vector<uint8_t>> body = Inflate(envelope->body, BodyBytes(envelope->facts));
  if (!body.ok()) return body.status();
  ProfileFile file;
  file.facts = std::move(envelope->facts);
  file.Resize();
  Reader reader(body->data());
  for (ProfileGroup& group : file.groups) VisitGroup(reader, group);
  for (size_t i = 0; i < file.groups.size(); ++i) {
    const absl::Status status = CheckGroup(file.groups[i]);
    if (status.ok()) continue;
    return absl::InvalidArgumentError(absl::StrCat("profile: ", file.facts.GroupPrefix(i), status.message()));
  }
  return file;
}

absl::StatusOr<std::vector<uint8_t>> ProfileFile::Write() const {
  Writer body;
  for (const ProfileGroup& group : groups) VisitGroup(body, group);
  uLongf deflated = compressBound(body.out.size());
  std::vector<uint8_t> packed(deflated);
  if (compress2(packed.data(), &deflated, body.out.data(), body.out.size(), Z_BEST_COMPRESSION) != Z_OK) {
    return absl::InternalError("profile: zlib does not deflate its body");
  }
  packed.resize(deflated);
  Writer file;
  file.out.assign(kMagic, kMagic + sizeof(kMagic));
  file.Put(kProfileVersion, 2);
  file.Put(uint8_t(facts.rope), 1);
  file.Put(facts.layers_before, 1);
  file.Put(facts.key_from_value, 1);
  file.Put(facts.layers_between_resets, 1);
  file.Put(facts.heads, 2);
  file.Put(facts.head_dim, 2);
  file.Put(facts.groups, 2);
  file.Put(facts.layers, 4);
  file.Put(std::bit_cast<uint32_t>(facts.step), 4);
  file.Put(std::bit_cast<uint32_t>(facts.rope_factor), 4);
  file(facts.turns);
  file.Put(facts.notes.size(), 4);
  file.out.insert(file.out.end(), facts.notes.begin(), facts.notes.end());
  file.Put(packed.size(), 4);
  file(packed);
  if (absl::Status status = Read(file.out).status(); !status.ok()) return status;
  return std::move(file.out);
}

}  // namespace kvist
