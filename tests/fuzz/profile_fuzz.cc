// Goal    No bytes make the reader of profiles crash, read out of bounds or take memory without bound; what it accepts has
//         numbers that arithmetic can be done with, and is the same when it is written and read again.
// Input   A byte. Even: the rest is a file. Odd: the rest is a script of edits of a good profile, each three numbers: which
//         array, which element, which value (two bytes each but for the first).
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/header.h"
#include "kernels/q/profile.h"
#include "tests/fuzz/fuzz.h"
#include "tests/kernels/q/synthetic_profile.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate no_profile("no profile"), bad_body("a body that does not inflate"), accepted("a profile"),
    refused_edit("an edited profile that is refused"), kept_edit("an edited profile that is kept"),
    singular("an edited matrix without an inverse");

void CheckKept(const std::vector<uint8_t>& bytes) {
  const auto file = ProfileFile::Read(bytes);
  KVIST_HOLDS(file.ok(), file.status().message());
  const auto again = file->Write();
  KVIST_HOLDS(again.ok(), again.status().message());
  const auto read = ProfileFile::Read(*again);
  KVIST_HOLDS(read.ok() && read->facts.turns == file->facts.turns && read->facts.notes == file->facts.notes &&
                  read->facts.groups == file->facts.groups &&
                  read->groups.back().class_frequencies == file->groups.back().class_frequencies,
              "written out, it is another profile");
  auto profile = Profile::Parse(bytes);
  KVIST_HOLDS(profile.ok(), profile.status().message());
  const auto finite = [](absl::Span<const float> values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  };
  size_t heads = 0;
  for (const HeadGroup& group : profile->groups()) {
    heads += group.facts().heads;
    for (uint32_t layer = 0; layer < profile->facts().layers; ++layer) {
      for (const HeadGroup::Side& side : group.layer(layer).sides) {
        KVIST_HOLDS(finite(side.mean) && finite(side.predictor) && finite(side.synthesis), "layer ", layer);
        KVIST_HOLDS(side.coded_rows <= group.facts().Width(), side.coded_rows);
      }
    }
  }
  KVIST_HOLDS(heads == profile->facts().heads, heads, " heads in groups of ", profile->facts().heads);
  if (profile->facts().Width() <= 128 && !profile->PrepareEncoding().ok()) singular.Pass();
}

// Each group has decoding tables of its own, which do not follow the bytes.
size_t TableBytes(absl::Span<const uint8_t> bytes) {
  constexpr size_t kAtGroups = 18, kMostGroups = 256, kBytes = 5 << 18;
  return bytes.size() < kAtGroups + 2 ? 0 : kBytes * std::min(kMostGroups, size_t(LoadLe(&bytes[kAtGroups], 2)));
}

void ReadFile(absl::Span<const uint8_t> bytes) {
  const fuzz::ExactBytes exact(bytes);
  const fuzz::AllocationMeter meter;
  const absl::Status status = Profile::Parse(exact.span()).status();
  // zlib makes 1,032 bytes of one at most; a number of the body is four bytes, beside its own and its table's.
  KVIST_HOLDS(meter.bytes() <= 16384 * bytes.size() + TableBytes(bytes) + (1 << 20), meter.bytes(), " bytes for ",
              bytes.size());
  if (!status.ok()) {
    KVIST_HOLDS(!status.message().empty(), "refused without a word");
    (absl::IsDataLoss(status) ? bad_body : no_profile).Pass();
    return;
  }
  accepted.Pass();
  CheckKept({bytes.begin(), bytes.end()});
}

template <typename T>
void Set(std::vector<T>& values, uint64_t at, uint64_t value) {
  if (!values.empty()) values[at % values.size()] = T(value);
}

void Edit(ProfileFile& file, fuzz::Input& input) {
  const uint64_t which = input.Below(18), at = input.Number(2), value = input.Number(2);
  ProfileGroup& group = file.groups[(at >> 8) % file.groups.size()];
  ProfileSide& side = group.layers[at % group.layers.size()].sides[which & 1];
  if (which < 2) return Set(group.class_frequencies, at, value);
  if (which < 4) return Set(group.step_frequencies[which & 1], at, value);
  if (which < 6) return Set(side.mean, at, value);
  if (which < 8) return Set(side.synthesis.codes, at, value);
  if (which < 10) return Set(side.synthesis.row_scales, at, value);
  if (which < 12) return Set(side.own, at, value);
  if (which < 14) return void(side.coded_rows = uint16_t(value));
  if (which < 15) return void(std::fill(side.synthesis.codes.begin(), side.synthesis.codes.end(), int8_t(value)));
  if (which < 16) return void(file.facts.heads = uint32_t(value));
  if (which < 17) return void(file.facts.groups = uint32_t(value));
  Set(side.sensitivity, at, value);
}

void EditGood(fuzz::Input input) {
  static const ProfileFile good = MakeProfileFile({.layers = 1, .heads = 2, .groups = 2});
  ProfileFile file = good;
  for (size_t i = 0; i < 16 && input.left() > 0; ++i) Edit(file, input);
  const auto bytes = file.Write();
  if (!bytes.ok()) {
    KVIST_HOLDS(!bytes.status().message().empty(), "refused without a word");
    return refused_edit.Pass();
  }
  kept_edit.Pass();
  CheckKept(*bytes);
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::fuzz::Input input(data, size);
  if (input.Flag()) {
    kvist::EditGood(input);
  } else {
    kvist::ReadFile(input.Rest());
  }
  return 0;
}
