// A profile file taken apart and put together: what codec q knows of a model before it sees a block (FORMAT.md, "Profile
// files"). Every number as the file has it; profile.h makes arithmetic of them.
//
// Shapes  d = heads of a group * head_dim. Of the two sides 0 is K and 1 is V, as everywhere; the file has V first.
// Units   counts; turns in 2^-64 turns a token; bf16 as bits. Limits of FORMAT.md.
// Threads plain values.
// Errors  Read: Unimplemented    a later version.
//               InvalidArgument  not a profile, an earlier version, cut, longer than it says, or a number out of its range: which, and what is allowed.
//               DataLoss         the body does not inflate to what the numbers before it imply.
//         Write: InvalidArgument, as Read would say of what was written.
// Why     Sizes follow from a few numbers, are computed before a byte is allocated, and must not be larger than zlib can
//         make of the bytes that are there. One walk over the fields serves reader and writer, so that they cannot differ.
#ifndef KVIST_KERNELS_Q_PROFILE_FILE_H_
#define KVIST_KERNELS_Q_PROFILE_FILE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/q/rope.h"

namespace kvist {

inline constexpr uint16_t kProfileVersion = 2;
inline constexpr size_t kMaxGroupWidth = 512;                   // d
inline constexpr uint64_t kMaxProfileBody = uint64_t{1} << 28;  // bytes, inflated
inline constexpr size_t kMaxProfileNotes = size_t{1} << 20;     // bytes
inline constexpr size_t kClasses = 48, kClassFrequencies = 17;  // of 0, of +-1 to +-15 (each sign), of the escape
inline constexpr size_t kStepSymbols = 32, kShiftSymbols = 8;
inline constexpr size_t kAroundFeatures = 17;  // 1, own, other side's, two means, both sides of six layers

inline constexpr size_t kSideOrder[] = {1, 0};  // V before K: K is predicted from it

// What the head of the file says, of all heads or, as OfGroup gives it, of one group's.
struct ProfileFacts {
  RopeStyle rope = RopeStyle::kHalves;
  uint32_t layers_before = 0;  // whose decoded values predict: 0, 1 or 2
  bool key_from_value = false;
  uint32_t layers_between_resets = 1;  // 0 = never
  uint32_t heads = 0, head_dim = 0, layers = 0;
  uint32_t groups = 1;          // of as many neighbouring heads each, coded apart
  float step = 0;               // of a token of mean importance ("theta")
  float rope_factor = 1;        // YaRN's attention factor
  std::vector<uint64_t> turns;  // [head_dim / 2]
  std::string notes;            // JSON for people: model, weights, what it was calibrated on, quality

  // As of a model that has one group's heads alone. REQUIRES: valid facts.
  ProfileFacts OfGroup() const;
  // "heads 4 to 7: ", before what is said of one group; nothing where there is but one.
  std::string GroupPrefix(size_t group) const;

  size_t Width() const { return size_t{heads} * head_dim; }
  uint32_t LastReset(uint32_t layer) const {  // the last one at or before `layer`
    return layers_between_resets == 0 ? 0 : layer - layer % layers_between_resets;
  }
  // Layers before `layer` that predict it.
  uint32_t Before(uint32_t layer) const {
    const uint32_t since = layer - LastReset(layer);
    return since < layers_before ? since : layers_before;
  }
  // Rows of the side's predictor; 0 = it has none.
  size_t Sources(uint32_t layer, size_t kv) const {
    return (2 * size_t{Before(layer)} + (key_from_value && kv == 0 ? 1 : 0)) * Width();
  }
  size_t OwnFeatures() const { return 1 + 2 * size_t{heads} + 4 * Width(); }
};

// value = (f(code) * s(row scale)) * s(column scale), each product rounded.
struct ProfileMatrix {
  std::vector<uint8_t> row_scales, column_scales;
  std::vector<int8_t> codes;  // [rows][columns]
};

struct ProfileSide {
  std::vector<uint16_t> mean;        // bf16[d]
  ProfileMatrix predictor;           // [sources][d]
  ProfileMatrix synthesis;           // [d][d], rows by falling variance ("T-")
  uint16_t coded_rows = 0;           // that decoding uses, the first ones
  std::vector<int8_t> base_classes;  // [d]
  std::vector<uint16_t> own,
      around;  // bf16: importance from the own layer [OwnFeatures()] and from others [kAroundFeatures]
  std::vector<uint16_t> sensitivity;  // bf16[heads], not below 0: what errors as large as a head's values would cost
};

struct ProfileLayer {
  std::array<ProfileSide, 2> sides;
  std::vector<uint16_t> deviations;  // bf16[2d], K then V: of the values, for importance
};

struct ProfileGroup {
  std::vector<uint16_t> class_frequencies;                 // [kClasses][kClassFrequencies]
  std::array<std::vector<uint16_t>, 2> step_frequencies;   // [side][kStepSymbols]
  std::array<std::vector<uint16_t>, 2> shift_frequencies;  // [side][kShiftSymbols]
  std::vector<ProfileLayer> layers;
};

struct ProfileFile {
  ProfileFacts facts;
  std::vector<ProfileGroup> groups;

  // Gives every array the size that the facts imply, with zeros. REQUIRES: valid facts.
  void Resize();

  static absl::StatusOr<ProfileFile> Read(absl::Span<const uint8_t> bytes);
  absl::StatusOr<std::vector<uint8_t>> Write() const;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_PROFILE_FILE_H_
